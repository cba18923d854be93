"""Synthetic training data: talking heads of synthetic people and animated portraits, with exact landmarks."""
