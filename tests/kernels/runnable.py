"""The backends that can run here, and where each does."""

import torch
from talkinghead_kernels import backends

GPU = torch.cuda.is_available()
DEVICES = {"reference": "cpu", "cpp": "cpu", "cuda": "cuda", "triton": "cuda" if GPU else "cpu"}
RUNNABLE = [name for name, reason in backends().items() if reason is None]
