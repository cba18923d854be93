"""Compare ways to start preset `paper`, whose embedding is 600 times as long as a column of W, on a small
network of its form.

talkinghead prepare --synthetic 100 --clips-each 1 --frames-each 10 --frame-stride 12 --seed 18 --size 64
--out people
python -m bench.experiments.paper_start people --out bench/results/paper_start.json
python -m bench.experiments.paper_start --table bench/results/paper_start.json

Losses, learning rates and spectral norms are the preset's; the content network is the one that works offline.
Ten people are kept apart: pictures, scores with w0 + e and fine-tuning are measured on them, the spread of
the styles over everybody.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.lib.harness import machine
from bench.lib.results_file import MappingOf, Number, one_line_errors, read_results
from talkinghead.clip import Clip, Track
from talkinghead.config import Config, NetworkConfig, preset
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.dataset.shard_reader import ShardClip, read_index
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.media.pixel_range import float_to_uint8, uint8_to_float
from talkinghead.metrics import ssim
from talkinghead.model import Model, random_model
from talkinghead.pipelines.finetune import finetune
from talkinghead.pretrained.perceptual import PerceptualNetwork, open_perceptual
from talkinghead.training.losses import content_loss, matching_loss
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.warm_start import init_video_embeddings

SIZE = 64  # pixels
HELD_OUT = 10  # people
PICTURES = 4  # of a person, the other frames are held out
SHOTS = 2
BATCH = 3
WINDOW = 100
"""Number of steps at the start and at the end over which metrics of training are averaged."""
FINETUNE_STEPS = 30
FINETUNED_PEOPLE = 3
RESULTS = {"runs": [{"title": str, "figures": MappingOf(Number(-1e9, 1e9, nan=True))}]}
"""Contents of a file of results that the table needs."""
NETWORKS = NetworkConfig(
    image_size=SIZE,
    encoder=(16, 32, 64, 96),
    encoder_attention=2,
    down=(16, 32, 64),
    down_attention=2,
    residual=1,
    up=(64, 32, 16),
    up_attention=2,
)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "before": ("gain 1, matching 10", {}),
    "weight": ("(a) gain 1, matching 0.01", {"matching": 0.01}),
    "gain": ("(b) gain 0.01, matching 10", {"gain": 0.01}),
    "columns": ("(c) gain 1, matching 10, W = e", {"fill": True}),
    "gain-columns": ("(b) and (c): gain 0.01, matching 10, W = e", {"gain": 0.01, "fill": True}),
}
COLUMNS = {
    "style_spread_start": "spread of styles, start",
    "style_spread": "end",
    "embedding_norm_start": "mean of \\|e\\|, start",
    "embedding_norm": "end",
    "column_norm_start": "mean of \\|W_i\\|, start",
    "column_norm": "end",
    "matching_start": "matching term, start",
    "matching": "end",
    "agreement": "agreement of e and W",
    "score_gap": "score gap, training",
    "held_out_gap": "score gap, held out, w0 + e",
    "held_out_score": "mean of \\|score\\|, held out",
    "content": "content, held out",
    "ssim": "SSIM, held out",
    "finetuned_ssim": "SSIM, fine-tuned",
}


def configuration(gain: float = 1.0, matching: float = 10.0) -> Config:
    """Return preset `paper` with a small network and small batches."""
    paper = preset("paper")
    meta = replace(
        paper.meta,
        batch=BATCH,
        shots=SHOTS,
        losses=replace(paper.meta.losses, matching=matching),
    )
    return replace(
        paper, networks=replace(NETWORKS, embedding_gain=gain), meta=meta, perceptual=("efficientnet-lite0",)
    )


class Study:
    """The people of a data set, and measurements of a learner on them."""

    def __init__(self, folder: Path, networks: list[PerceptualNetwork]) -> None:
        self.folder, self.networks = folder, networks
        clips = sorted(read_index(folder), key=lambda clip: clip.person)
        self.held_out_people = [clip.person for clip in clips[:HELD_OUT]]
        self.clips = [_clip(clip) for clip in clips]
        self.frames = torch.stack(
            [uint8_to_float(torch.from_numpy(clip.frames).permute(0, 3, 1, 2)) for clip in self.clips]
        )
        points = torch.stack([torch.from_numpy(clip.track.landmarks / SIZE) for clip in self.clips])
        self.landmark_images = landmark_image(points.flatten(0, 1), SIZE).unflatten(0, points.shape[:2])

    @torch.no_grad()
    def measure(self, learner: MetaLearner) -> dict[str, float]:
        """Return the sizes of e and W, the spread of the styles, and scores on the held-out people."""
        count = self.frames.shape[1]
        embeddings = torch.stack(
            [learner.embedder(*pair) for pair in zip(self.frames, self.landmark_images, strict=True)]
        )
        styles = learner.generator.project(embeddings.flatten(0, 1)).unflatten(0, embeddings.shape[:2])
        columns, known = learner.video_embeddings.weight, embeddings[HELD_OUT:, :PICTURES]
        pairs = ((values - values.mean(0)).flatten() for values in (known.mean(1), columns))
        agreement = torch.nn.functional.cosine_similarity(*pairs, dim=0)
        model = learner.model({})
        mean = torch.stack(
            [
                model.embedder(*pair)
                for pair in zip(
                    self.frames[:HELD_OUT, :PICTURES], self.landmark_images[:HELD_OUT, :PICTURES], strict=True
                )
            ]
        )
        mean = mean.mean(1).repeat_interleave(count - PICTURES, 0)
        real, landmark_images = (
            values[:HELD_OUT, PICTURES:].flatten(0, 1) for values in (self.frames, self.landmark_images)
        )
        fake = model.generator(landmark_images, model.generator.project(mean))
        scores = [
            learner.discriminator(frames, landmark_images, learner.discriminator.w0 + mean)[0]
            for frames in (real, fake)
        ]
        return {
            "embedding_norm": float(embeddings.norm(dim=2).mean()),
            "column_norm": float(columns.norm(dim=1).mean()),
            "matching": float(learner.config.meta.losses.matching * matching_loss(known, columns)),
            "agreement": float(agreement),
            "style_spread": float(styles.mean(1).var(0).mean().sqrt() / styles.square().mean().sqrt()),
            "style_spread_of_a_person": float(styles.var(1).mean().sqrt() / styles.square().mean().sqrt()),
            "held_out_gap": float(scores[0].mean() - scores[1].mean()),
            "held_out_score": float(torch.cat(scores).abs().mean()),
            "content": float(content_loss(self.networks, fake, real)),
            "ssim": ssim(_pixels(fake), _pixels(real)),
        }

    def finetuned_ssim(self, model: Model) -> float:
        """Return the SSIM of held-out frames of held-out people after fine-tuning."""
        scores = []
        for number in range(FINETUNED_PEOPLE):
            person = finetune(
                model, self.clips[number][:PICTURES], steps=FINETUNE_STEPS, perceptual=self.networks
            )
            landmark_images = self.landmark_images[number, PICTURES:]
            with torch.no_grad():
                frames = person.generator(landmark_images, person.styles.expand(len(landmark_images), -1))
            scores.append(ssim(_pixels(frames), self.clips[number].frames[PICTURES:]))
        return float(np.mean(scores))


class Run:
    """Training run of one variant."""

    def __init__(self, study: Study, name: str, seed: int) -> None:
        self.study, self.name, self.seed = study, name, seed
        self.title, changes = VARIANTS[name]
        config = configuration(**{key: value for key, value in changes.items() if key != "fill"})
        meta = config.meta
        self.source = EpisodeSource(
            study.folder, SIZE, meta.shots, meta.batch, meta.videos, seed, study.held_out_people
        )
        model = random_model(config, seed)
        torch.manual_seed(seed)
        self.learner = MetaLearner(model, self.source.columns, study.networks)
        if changes.get("fill"):
            init_video_embeddings(
                self.learner.video_embeddings.weight, self.learner.embedder, self.source, SIZE
            )
        self.start = study.measure(self.learner)
        self.history: list[dict[str, float]] = []

    def advance(self, steps: int) -> None:
        """Take further training steps, and print the mean metrics of the last ones."""
        for step in range(len(self.history), len(self.history) + steps):
            figures, _ = self.learner.step(self.source.draw(step))
            self.history.append({key: float(value) for key, value in figures.items()})
        metrics = {key: round(value, 3) for key, value in _mean(self.history[-WINDOW:]).items()}
        print(self.name, len(self.history), metrics, flush=True)

    def result(self, fine_tune: bool) -> dict[str, Any]:
        """Return the metrics so far, as plain values for JSON."""
        steps = len(self.history)
        trained = _mean(self.history[-WINDOW:])
        figures = {
            f"{key}_in_training" if key in ("content", "matching") else key: value
            for key, value in trained.items()
        }
        figures |= self.study.measure(self.learner)
        figures |= {f"{key}_start": value for key, value in self.start.items()}
        figures |= {f"first_step_{key}": value for key, value in self.history[0].items()}
        if fine_tune:
            figures["finetuned_ssim"] = self.study.finetuned_ssim(self.learner.model({"variant": "ft"}))
        means = [_mean(self.history[at : at + WINDOW]) for at in range(0, steps, WINDOW)]
        return {
            "variant": self.name,
            "title": self.title,
            "steps": steps,
            "seed": self.seed,
            "figures": {key: float(f"{value:.4g}") for key, value in figures.items()},
            "mean_of_each_100_steps": [
                {key: float(f"{value:.4g}") for key, value in values.items()} for values in means
            ],
        }


def _clip(clip: ShardClip) -> Clip:
    track = Track(clip.landmarks, (clip.size, clip.size), clip.fps)
    return Clip(
        track, clip.frames(range(len(clip))), clip.key, clip.person, convention=clip.info.crop.convention
    )


def _pixels(images: Tensor) -> np.ndarray:
    return float_to_uint8(images).permute(0, 2, 3, 1).numpy()


def _mean(history: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([values[key] for values in history])) for key in history[0]}


def table(results: dict[str, Any]) -> str:
    """Return a Markdown table with a row for each metric and a column for each variant."""
    runs = results["runs"]
    lines = ["| | " + " | ".join(run["title"] for run in runs) + " |", "|---" * (len(runs) + 1) + "|"]
    for key, name in COLUMNS.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{run['figures'].get(key, float('nan')):.3g}" for run in runs) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train the variants and print their table, or print the table of stored results."""
    parser = argparse.ArgumentParser(
        "bench.experiments.paper_start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="variants")
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("paper_start.json"), help="is written every 300 steps"
    )
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.table is None:
        if args.folder is None:
            parser.error("no data set; name the folder of one, or results to print by --table")
        torch.set_num_threads(args.threads)
        study = Study(args.folder, open_perceptual(["efficientnet-lite0"]))
        runs = [Run(study, name, args.seed) for name in args.only]
        for done in range(
            WINDOW, args.steps + 1, WINDOW
        ):  # in turns, so that they can be compared before the end
            for run in runs:
                run.advance(WINDOW)
            if done % 300 == 0 or done == args.steps:
                results = [run.result(fine_tune=done == args.steps) for run in runs]
                args.out.write_text(
                    json.dumps({"machine": machine(), "people": len(study.clips), "runs": results}, indent=1)
                    + "\n"
                )
    with one_line_errors(parser.prog):
        results = read_results(args.table or args.out, RESULTS)
    print(table(results))


if __name__ == "__main__":
    main()
