"""Data sets, which `prepare` writes and training reads."""
