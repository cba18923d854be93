import pytest
import torch
from torch import nn

from talkinghead.config import AdamConfig
from talkinghead.errors import TalkingheadError
from talkinghead.training.resume import adam, load_state, save_state


def learner(seed):
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    return module, adam([{"params": list(module.parameters())}], AdamConfig(0.1, 0.5, 0.9))


def advance(module, optimiser, step):
    optimiser.zero_grad()
    module(torch.full((1, 3), float(step))).square().sum().backward()
    optimiser.step()


def test_loaded_state_resumes_bit_for_bit(tmp_path):
    module, optimiser = learner(0)
    for step in range(3):
        advance(module, optimiser, step)
    save_state(tmp_path / "state", {"m": module}, {"o": optimiser}, {"step": 3})
    loaded, loaded_optimiser = learner(1)
    assert load_state(tmp_path / "state", {"m": loaded}, {"o": loaded_optimiser}) == {"step": 3}
    for step in range(3, 6):
        advance(module, optimiser, step)
        advance(loaded, loaded_optimiser, step)
    assert torch.equal(module.weight, loaded.weight) and torch.equal(module.bias, loaded.bias)


def test_adam_with_early_state_equals_torch():
    module, optimiser = learner(0)
    other, _ = learner(0)
    plain = torch.optim.Adam(other.parameters(), lr=0.1, betas=(0.5, 0.9), fused=True)
    for step in range(4):
        advance(module, optimiser, step)
        advance(other, plain, step)
    assert torch.equal(module.weight, other.weight)


def test_load_state_rejects_foreign_and_truncated_files(tmp_path):
    module, optimiser = learner(0)
    save_state(tmp_path / "state", {"m": module}, {"o": optimiser}, {})
    (tmp_path / "cut").write_bytes((tmp_path / "state").read_bytes()[:-8])
    (tmp_path / "foreign").write_bytes(b"\x80\x04pickle")
    for name in ("cut", "foreign"):
        with pytest.raises(TalkingheadError, match="is not a state of this run"):
            load_state(tmp_path / name, {"m": module}, {"o": optimiser})
    with pytest.raises(TalkingheadError, match="is not a state of this run"):
        load_state(tmp_path / "state", {"m": nn.Linear(3, 4)}, {"o": optimiser})
    with pytest.raises(TalkingheadError, match="is not a state of this run"):
        load_state(tmp_path / "state", {"n": module}, {"o": optimiser})
