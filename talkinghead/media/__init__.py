"""Pixels in and out: videos and pictures of every kind, and sheets of them."""
