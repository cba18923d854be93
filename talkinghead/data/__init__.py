"""Tracks and Clips: read from videos and pictures, kept in shards, drawn as episodes."""
