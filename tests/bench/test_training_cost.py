"""The model of cost at scale: bytes that ranks really send, the ring's formula, and what backward hides."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from bench.experiments import training_cost
from bench.experiments.training_cost import Cluster, main, messages, parameter_counts, predict, ring_seconds
from support.minimal_training import write_data
from support.rank_processes import call_ranks, learn_in_float64, parity_config
from talkinghead.config import Config, preset
from talkinghead.model import random_model
from talkinghead.training import ranks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training_at_scale.md"
CLUSTER = Cluster(episodes_per_second=10.0, bandwidth=100.0, network_bandwidth=10.0, latency=0.0, price=2.0)


def count_bytes(config: Config, data: Path) -> int:
    """Return the bytes that a rank adds up in two steps, as float32."""
    sent = 0
    send = ranks._Bucket.send

    def count(self: ranks._Bucket) -> None:
        nonlocal sent
        send(self)
        sent += training_cost.GRADIENT_BYTES * self._flat.numel()

    ranks._Bucket.send = count  # type: ignore[method-assign]
    learn_in_float64(config, data, 2)
    return sent


@pytest.mark.parametrize("discriminator_steps", [1, 2])
def test_messages_are_what_ranks_send(discriminator_steps: int, tmp_path: Path) -> None:
    config = parity_config(discriminator_steps=discriminator_steps)
    model = random_model(config, seed=0)
    networks = {"E": model.embedder, "G": model.generator, "D": model.discriminator}
    counts = {name: sum(value.numel() for value in net.parameters()) for name, net in networks.items()}
    sizes = messages(counts, config)
    assert len(sizes) == 1 + discriminator_steps
    assert call_ranks(count_bytes, 2, config, write_data(tmp_path)) == [2 * sum(sizes)] * 2


def test_presets_send_their_parameters() -> None:
    counts = parameter_counts("tiny")
    model = random_model("tiny", seed=0)
    assert counts["D"] == sum(value.numel() for value in model.discriminator.parameters())
    assert messages(counts, preset("tiny")) == [4 * (counts["E"] + counts["G"]), 4 * counts["D"]]


def test_ring_sends_twice_all_but_own_part() -> None:
    size, bandwidth = 100 * ranks.BUCKET_BYTES, 1e9
    assert ring_seconds(size, 1, bandwidth, 1.0) == 0.0
    assert ring_seconds(size, 2, bandwidth, 0.0) == pytest.approx(size / bandwidth)
    assert ring_seconds(size, 64, bandwidth, 0.0) == pytest.approx(2 * 63 / 64 * size / bandwidth)
    latencies = ring_seconds(size, 8, bandwidth, 1e-3) - ring_seconds(size, 8, bandwidth, 0.0)
    assert latencies == pytest.approx(1.4)


def test_one_gpu_sends_nothing() -> None:
    cost = predict(1, [10**9], batch=8, episodes=72_000, cluster=CLUSTER)
    assert (cost.communication_seconds, cost.efficiency, cost.hours, cost.price) == (0.0, 1.0, 2.0, 4.0)


def test_backward_hides_all_but_last_bucket() -> None:
    size = 4 * ranks.BUCKET_BYTES
    cost = predict(8, [size], batch=8, episodes=72_000, cluster=CLUSTER)
    assert cost.communication_seconds == pytest.approx(1.75 * size / 100e9)
    assert cost.exposed_seconds == pytest.approx(cost.communication_seconds / 4)
    assert (cost.batch, cost.compute_seconds) == (64, 0.8)
    assert cost.hours == pytest.approx(72_000 / 64 * (0.8 + cost.exposed_seconds) / 3600)
    assert cost.price == pytest.approx(8 * 2.0 * cost.hours)


def test_communication_longer_than_backward_is_exposed() -> None:
    cluster = replace(CLUSTER, bandwidth=1.0, backward_share=0.25)
    cost = predict(2, [40 * ranks.BUCKET_BYTES], batch=8, episodes=1.0, cluster=cluster)
    assert cost.exposed_seconds == pytest.approx(cost.communication_seconds - 0.25 * 0.8)
    assert cost.efficiency == pytest.approx(0.8 / (0.8 + cost.exposed_seconds))


def test_network_counts_beyond_one_machine() -> None:
    within, beyond = (predict(gpus, [10**9], batch=8, episodes=1.0, cluster=CLUSTER) for gpus in (8, 16))
    assert within.communication_seconds == pytest.approx(1.75 / 100)
    assert beyond.communication_seconds == pytest.approx(1.875 / 10)


def test_page_shows_what_its_command_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (command,) = re.findall(r"^python -m bench.experiments.training_cost (.*?[^\\])$", text, re.M | re.DOTALL)
    main([*shlex.split(command.replace("\\\n", " ")), "--out", str(tmp_path / "cost.json")])
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 5 and "\n".join(rows) in text
    values = json.loads((tmp_path / "cost.json").read_text())
    assert [cost["gpus"] for cost in values["costs"]] == [1, 2, 4, 8, 16, 32, 64]
    counts = re.search(r"parameters in millions (.*?); (\d+) MB", printed)
    assert counts and f"{counts[2]} MB" in text
    assert printed.startswith("assumed, not measured: ")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_impossible_throughput_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--episodes-per-second", value, "--bandwidth", "1", "--network-bandwidth", "1"])
    assert "is not above 0" in capsys.readouterr().err
