"""Pipelines from videos and pictures to videos: animate, live, demo, rank drivers, landmark overlay."""
