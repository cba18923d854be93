"""Networks with fixed weights that losses and metrics use."""
