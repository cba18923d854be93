"""People to learn from: talking heads of nobody, drawn with their exact landmarks."""
