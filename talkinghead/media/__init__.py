"""Reading and writing of videos, images and live frames."""
