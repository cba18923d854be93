"""Evaluation as in the paper (section 4): self-reenactment of held-out people, compared with baselines."""
