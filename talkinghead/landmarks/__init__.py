"""Detection, tracking, smoothing, retargeting and drawing of the 68 facial landmarks."""
