"""Measurements whose figures README shows; each file says how it is run."""
