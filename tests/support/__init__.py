"""Helpers of the tests: sandboxes, corrupt files, sample media, stand-ins for libraries."""
