"""Experiments that settled a choice; each writes the figures it was settled by."""
