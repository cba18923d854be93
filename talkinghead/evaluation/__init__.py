"""How good a model is, as the paper measures it (section 4): self-reenactment of people left out, beside the trivial answers."""
