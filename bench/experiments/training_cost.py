"""Hours and price of meta-learning on many GPUs, from the throughput of one and a model of communication.

python -m bench.experiments.training_cost --preset paper --episodes-per-second 10 --price 2.5 \\
    --gpus 1 8 64 --bandwidth 200 --network-bandwidth 25

Nothing here is measured. `--episodes-per-second` is yours to measure on one GPU, with the batch that each GPU
is to have: `talkinghead train data --preset PRESET --out run --steps 200` shows it. The model:

- A step of N GPUs takes the time of one GPU's step on its share of the batch, plus the communication that
  backward does not hide. Every GPU has as many episodes as the measured one, so the batch grows with N.
- Sent are the gradients of E, G and D in float32, those of D in each of its steps; W is never sent.
- A ring all-reduce of S bytes over N GPUs takes 2 (N - 1) / N * S / bandwidth, and 2 (N - 1) latencies for
  each bucket of 25 MiB. The slowest link of the ring counts: within a machine `--bandwidth`, over several
  `--network-bandwidth`, both in GB/s for each GPU and direction.
- Backward, a share of the step, hides communication of that length, except that of the last bucket.
- Data, saves and evaluations cost nothing, and the run needs as many episodes whatever N is. Both are
  optimistic: larger batches were not tried.
"""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache

from talkinghead.config import Config, preset
from talkinghead.model import random_model
from talkinghead.training.ranks import BUCKET_BYTES

GRADIENT_BYTES = 4
"""Size of a value of a gradient: float32, in bfloat16 training too."""


@dataclass(frozen=True)
class Cluster:
    """GPUs and what connects them.

    Attributes:
        episodes_per_second: of one GPU alone.
        bandwidth, network_bandwidth: within a machine and between machines, of each GPU, in GB/s.
        latency: of one message, in seconds.
        machine: number of GPUs in a machine.
        backward_share: share of a step in which gradients can be sent.
        price: of a GPU for an hour.
    """

    episodes_per_second: float
    bandwidth: float
    network_bandwidth: float
    latency: float = 2e-5
    machine: int = 8
    backward_share: float = 0.5
    price: float = 0.0


@dataclass(frozen=True)
class Cost:
    """Prediction for a number of GPUs.

    Attributes:
        gpus: their number.
        batch: episodes of a step, of all GPUs.
        compute_seconds, communication_seconds, exposed_seconds: of a step: of one GPU alone, of all-reduces,
            and the part of these that backward does not hide.
        efficiency: throughput as a share of N times that of one GPU.
        hours, price: of the run.
    """

    gpus: int
    batch: int
    compute_seconds: float
    communication_seconds: float
    exposed_seconds: float
    efficiency: float
    hours: float
    price: float


@cache
def parameter_counts(name: str) -> dict[str, int]:
    """Return the parameters of E, G with P, and D of a preset."""
    model = random_model(preset(name), seed=0)
    networks = {"E": model.embedder, "G": model.generator, "D": model.discriminator}
    return {key: sum(value.numel() for value in network.parameters()) for key, network in networks.items()}


def messages(counts: Mapping[str, int], config: Config) -> list[int]:
    """Return the bytes that a step adds up over the GPUs: of E and G together, and of D in each of its steps.

    Args:
        counts: parameters of E, G and D.
        config: of the run.
    """
    discriminator = GRADIENT_BYTES * counts["D"]
    return [
        GRADIENT_BYTES * (counts["E"] + counts["G"]),
        *([discriminator] * config.meta.discriminator_steps),
    ]


def ring_seconds(num_bytes: float, gpus: int, bandwidth: float, latency: float) -> float:
    """Return the time of a ring all-reduce in buckets.

    Args:
        num_bytes: of the gradients, on each GPU.
        gpus: in the ring.
        bandwidth: of the slowest link, in bytes a second.
        latency: of one message, in seconds.
    """
    if gpus == 1:
        return 0.0
    buckets = math.ceil(num_bytes / BUCKET_BYTES)
    return 2 * (gpus - 1) / gpus * num_bytes / bandwidth + 2 * (gpus - 1) * latency * buckets


def predict(gpus: int, sizes: list[int], *, batch: int, episodes: float, cluster: Cluster) -> Cost:
    """Return the cost of a run.

    Args:
        gpus: their number.
        sizes: bytes of each all-reduce of a step.
        batch: episodes of each GPU in a step.
        episodes: of the whole run.
        cluster: the GPUs.
    """
    compute = batch / cluster.episodes_per_second
    link = cluster.bandwidth if gpus <= cluster.machine else cluster.network_bandwidth

    def seconds(num_bytes: float) -> float:
        return ring_seconds(num_bytes, gpus, 1e9 * link, cluster.latency)

    communication = sum(seconds(size) for size in sizes)
    last_buckets = sum(seconds(min(size, BUCKET_BYTES)) for size in sizes)
    hidden = min(communication - last_buckets, cluster.backward_share * compute)
    exposed = communication - hidden
    efficiency = compute / (compute + exposed)
    hours = episodes / (gpus * cluster.episodes_per_second * efficiency) / 3600
    return Cost(
        gpus=gpus,
        batch=batch * gpus,
        compute_seconds=compute,
        communication_seconds=communication,
        exposed_seconds=exposed,
        efficiency=efficiency,
        hours=hours,
        price=hours * gpus * cluster.price,
    )


def table(costs: list[Cost]) -> str:
    """Return the predictions as a table in Markdown."""
    lines = [
        "| GPUs | batch | step, ms | sent, ms | not hidden, ms | efficiency | hours | price |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        step = cost.compute_seconds + cost.exposed_seconds
        times = (1000 * seconds for seconds in (step, cost.communication_seconds, cost.exposed_seconds))
        cells = [str(cost.gpus), str(cost.batch), *(f"{value:.1f}" for value in times)]
        cells += [f"{cost.efficiency:.0%}", f"{cost.hours:,.1f}", f"{cost.price:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def positive(text: str) -> float:
    """Parse a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="paper", help="whose networks are trained (default: %(default)s)")
    parser.add_argument("--episodes-per-second", type=positive, required=True, help="of one GPU, measured")
    parser.add_argument("--batch", type=int, help="episodes of each GPU in a step (default: the preset's)")
    parser.add_argument(
        "--episodes", type=positive, help="of the run (default: the preset's steps times batch)"
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument(
        "--bandwidth", type=positive, required=True, help="within a machine, GB/s of each GPU"
    )
    parser.add_argument("--network-bandwidth", type=positive, required=True, help="between machines, GB/s")
    parser.add_argument("--gpus-per-machine", type=int, default=8)
    parser.add_argument(
        "--latency", type=positive, default=2e-5, help="of a message, s (default: %(default)s)"
    )
    parser.add_argument("--backward-share", type=float, default=0.5, help="(default: %(default)s)")
    parser.add_argument("--price", type=float, default=0.0, help="of a GPU for an hour")
    parser.add_argument("--out", help="a JSON file to write")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    args = build_parser().parse_args(argv)
    config = preset(args.preset)
    cluster = Cluster(
        episodes_per_second=args.episodes_per_second,
        bandwidth=args.bandwidth,
        network_bandwidth=args.network_bandwidth,
        latency=args.latency,
        machine=args.gpus_per_machine,
        backward_share=args.backward_share,
        price=args.price,
    )
    sizes = messages(parameter_counts(args.preset), config)
    batch = args.batch or config.meta.batch
    episodes = args.episodes or config.meta.steps * config.meta.batch
    costs = [predict(gpus, sizes, batch=batch, episodes=episodes, cluster=cluster) for gpus in args.gpus]
    millions = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in parameter_counts(args.preset).items())
    print(f"assumed, not measured: {asdict(cluster)}")
    print(
        f"preset {args.preset}: parameters in millions {millions}; {sum(sizes) / 1e6:.0f} MB of gradients a "
        f"step; {episodes:,.0f} episodes\n"
    )
    print(table(costs))
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"assumed": asdict(cluster), "costs": [asdict(cost) for cost in costs]}, file, indent=1)


if __name__ == "__main__":
    main()
