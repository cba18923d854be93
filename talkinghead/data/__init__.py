"""Readers of Tracks and Clips from videos and pictures, crops, and checks of output paths."""
