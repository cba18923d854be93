"""The 68 landmarks: found by an adapter of a detector, and drawn as the picture that the networks see."""
