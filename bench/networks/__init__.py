"""Networks and training steps as a whole, against the best a user could run instead."""
