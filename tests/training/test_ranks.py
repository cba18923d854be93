"""Training on several ranks: what one process of the same batch learns."""

import dataclasses
import logging
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import guided_config
from support.minimal_training import minimal_config, write_data
from support.rank_processes import (
    call_ranks,
    learn_in_float64,
    parity_config,
    record_gradients,
    start_ranks,
)
from talkinghead import config as configuration
from talkinghead.config import Config
from talkinghead.training import meta, ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of two people, of which the sources make 20 videos."""
    return write_data(tmp_path_factory.mktemp("ranks"))


def plain() -> Config:
    """Return a plain G with spectral norms, two steps of D and losses relative to D's maps."""
    config = parity_config(discriminator_steps=2)
    networks = dataclasses.replace(config.networks, spectral_generator=True, spectral_discriminator=True)
    return dataclasses.replace(config, networks=networks)


def guided() -> Config:
    """Return a reference-guided G, whose step draws random numbers for every episode."""
    return parity_config(guided_config(), own_picture=0.5, details=0.5, camera_motion=0.5)


def merge_rows(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return W from the rows of all ranks."""
    merged = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
    for number, part in enumerate(parts):
        merged[number :: len(parts)] = part
    return merged


@pytest.mark.parametrize("config", [plain, pytest.param(guided, marks=pytest.mark.slow)])
def test_ranks_learn_what_one_process_learns(config, data):
    """Compare in float64 after 5 steps."""
    (alone,) = call_ranks(learn_in_float64, 1, config(), data, 5)
    for count in (2, 3):
        results = call_ranks(learn_in_float64, count, config(), data, 5)
        for name, expected in alone.items():
            parts = [tensors[name] for tensors in results]
            if name == "columns.weight":
                parts = [merge_rows(parts)]
            for tensor in parts:
                torch.testing.assert_close(
                    tensor, expected, rtol=0, atol=1e-9, msg=f"{name} of {count} ranks"
                )


@pytest.mark.slow
@pytest.mark.parametrize("config", [plain, guided])
def test_ranks_have_gradients_of_one_process(config, data):
    """Compare in float32 from one state, each with the largest entry of its tensor.

    Where that is below 3 % of the largest of all, terms cancel out and leave rounding errors.
    """
    (alone,) = call_ranks(record_gradients, 1, config(), data)
    for count in (2, 3):
        results = call_ranks(record_gradients, count, config(), data)
        for step, expected in enumerate(alone):
            least = 0.03 * max(gradient.abs().max() for gradient in expected)
            for number, gradient in enumerate(expected):
                parts = [gradients[step][number] for gradients in results]
                if parts[0].shape != gradient.shape:
                    parts = [merge_rows(parts)]
                for part in parts:
                    limit = 1e-5 * max(gradient.abs().max(), least)
                    assert (part - gradient).abs().max() <= limit, f"gradient {number} of {count} ranks"


def learn_with_small_buckets(config: Config, data: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Learn in buckets of about 2 KB, and return the tensors and the number of buckets sent in backward."""
    ranks.BUCKET_BYTES = 2000
    sent = 0
    send_next = ranks.GradientReducer._send_next

    def count(self: ranks.GradientReducer) -> None:
        nonlocal sent
        sent += torch._C._current_graph_task_id() >= 0
        send_next(self)

    ranks.GradientReducer._send_next = count
    return learn_in_float64(config, data, 2), sent


@pytest.mark.slow
def test_buckets_are_sent_while_backward_runs(data):
    (alone,) = call_ranks(learn_in_float64, 1, plain(), data, 2)
    for tensors, sent in call_ranks(learn_with_small_buckets, 2, plain(), data):
        assert sent > 20
        for name, expected in alone.items():
            if name != "columns.weight":
                torch.testing.assert_close(tensors[name], expected, rtol=0, atol=1e-9, msg=name)


@pytest.mark.slow
def test_ranks_accumulate_gradients_as_one_process(data):
    config = guided()
    (alone,) = call_ranks(learn_in_float64, 1, config, data, 2, 3)
    results = call_ranks(learn_in_float64, 2, config, data, 2, 3)
    for name, expected in alone.items():
        if name != "columns.weight":
            for tensors in results:
                torch.testing.assert_close(tensors[name], expected, rtol=0, atol=1e-9, msg=name)


def join_store_of_torchrun(port: int, restarts: int) -> None:
    """Join over a store that torchrun keeps; the first rank is late."""
    os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    time.sleep(0.5 * (os.environ["RANK"] == "0"))
    with ranks.joined_ranks() as joined:
        assert joined.any(joined.is_first) == [True]
        if restarts == 0:
            os._exit(0)  # as a killed process, which leaves its address in the store


@pytest.mark.slow
def test_restarted_processes_ignore_addresses_of_earlier_ones():
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for restarts in range(2):
        processes = start_ranks(join_store_of_torchrun, 2, store.port, restarts)
        for process in processes:
            process.join(60)
            process.kill()
        assert [process.exitcode for process in processes] == [0, 0]


OLD_STATE = Path(__file__).with_name("state_of_one_process.safetensors")
"""State after 2 steps, written before there were ranks: `resume_old_run`'s preset and `write_data`."""


def resume_old_run(data: Path, out: Path) -> list[str]:
    """Take a step more than the run of `OLD_STATE` has, and return the log's messages."""
    tiny = minimal_config()
    networks = dataclasses.replace(
        tiny.networks, encoder=(8,), down=(8,), up=(8,), residual=0, encoder_attention=1
    )
    smaller = dataclasses.replace(tiny.meta, videos=8)
    configuration._PRESETS["tiny"] = dataclasses.replace(tiny, networks=networks, meta=smaller)
    meta.measure_peak_flops = lambda *_: 1.0
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    log = logging.getLogger("talkinghead")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    meta.train(data, out, "tiny", steps=3, seed=1)
    return messages


@pytest.mark.parametrize("count", [1, 2])
def test_run_of_one_process_of_earlier_version_resumes(count, data, tmp_path):
    shutil.copy(OLD_STATE, tmp_path / "state.safetensors")
    messages = call_ranks(resume_old_run, count, data, tmp_path)[0]
    assert f"{tmp_path}: resuming at step 2 of 3" in messages
    dealt = f"{tmp_path}: from step 2 on, each episode of a batch draws from videos of its own"
    assert any(message.startswith(dealt) for message in messages) == (count == 2)
    states = [tmp_path / "state.safetensors"] if count == 1 else sorted((tmp_path / "shares").iterdir())
    columns = merge_rows([load_file(path)["columns.weight"] for path in states])
    moved = (columns != load_file(OLD_STATE)["columns.weight"]).any(1)
    assert 1 <= moved.sum() <= 2, "a step of two episodes moves two rows of W"
    assert load_file(states[0])["columns_optimiser.0.step"] == 3
