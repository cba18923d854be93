"""What runs a person: each engine turns landmarks into frames."""
