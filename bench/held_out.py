"""People left out of training: what fine-tuning gives, beside the trivial answers.

    python bench/held_out.py DATA --model tiny --people p03 p10 --out bench/results/held_out.json
    python bench/held_out.py --table bench/results/held_out.json

Of each person's longest clip, frames to learn from come evenly from the first two thirds, held-out frames evenly from the last third
(as in section 4 of the paper, the two do not overlap). Every row sees the same frames and landmarks. The D columns score real and
feed-forward frames with w' = w0 + e, before any fine-tuning.
"""

import argparse
import json
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from talkinghead.checkpoint import Model, Person, load_model, random_model
from talkinghead.clip import Clip, Track
from talkinghead.data.shards import ShardClip, read_index
from talkinghead.engines.eager import EagerEngine
from talkinghead.files import replacing
from talkinghead.landmarks.detect import open_detector
from talkinghead.landmarks.draw import landmark_image
from talkinghead.landmarks.face import largest_face
from talkinghead.losses import content_loss
from talkinghead.metrics import identity_distance, landmark_error, nearest_frames, psnr, ssim, warp_to_landmarks
from talkinghead.perceptual import PerceptualNetwork, open_perceptual
from talkinghead.training.finetune import embed, finetune

FEW = 40  # the paper's 40 epochs over 8 pictures
ROWS = (
    "feed-forward",
    "fine-tuned",
    "without adversarial",
    "from random weights",
    f"fine-tuned, {FEW} steps",
    f"from random weights, {FEW} steps",
    "nearest frame",
    "nearest, warped",
)
COLUMNS = {"ssim": ".3f", "psnr": ".1f", "identity": ".2f", "landmark_error": ".3f", "faces": ".0%", "content": ".2f"}
EPISODES = 10


def split(clip: ShardClip, size: int, shots: int, held_out: int) -> tuple[Clip, Clip]:
    """Frames to learn from and held-out frames, at `size` pixels."""
    cut = len(clip) * 2 // 3
    chosen = [
        np.linspace(0, cut - 1, shots).round().astype(int),
        np.linspace(cut, len(clip) - 1, min(held_out, len(clip) - cut)).round().astype(int),
    ]
    return tuple(resized(clip, numbers, size) for numbers in chosen)  # type: ignore[return-value]


def resized(clip: ShardClip, numbers: np.ndarray, size: int) -> Clip:
    frames = torch.from_numpy(clip.frames(numbers)).permute(0, 3, 1, 2).float()
    frames = F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    track = Track(clip.landmarks[numbers] * (size / clip.size), (size, size), clip.fps)
    return Clip(track, frames.permute(0, 2, 3, 1).contiguous().numpy(), clip.key, clip.person)


def tensors(clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and landmark images in [-1, 1]."""
    size = clip.track.size[0]
    images = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, landmark_image(torch.from_numpy(clip.track.landmarks / size), size)


def rendered(person: Person, clip: Clip) -> np.ndarray:
    return EagerEngine(person).run(clip.track.landmarks / clip.track.size[0])


def measure(frames: np.ndarray, truth: Clip, networks: list[PerceptualNetwork]) -> dict[str, float]:
    fake, real = (torch.from_numpy(some).permute(0, 3, 1, 2).float() / 127.5 - 1 for some in (frames, truth.frames))
    with torch.no_grad():
        content = float(content_loss(networks, fake, real))
    detector = open_detector("dlib")
    return {
        "ssim": ssim(frames, truth.frames),
        "psnr": psnr(frames, truth.frames),
        "identity": identity_distance(frames, truth.frames),
        "landmark_error": landmark_error(frames, truth.track, detector),
        "faces": float(np.mean([largest_face(detector, frame) is not None for frame in frames])),
        "content": content,
    }


def scores(model: Model, embedding: torch.Tensor, truth: Clip, fake: np.ndarray) -> dict[str, float]:
    """D's mean scores of real and generated frames of a new person, with w' = w0 + e."""
    images, drawn = tensors(truth)
    made = torch.from_numpy(fake).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        column = model.discriminator.w0 + embedding[0]
        real_score, fake_score = (model.discriminator(frames, drawn, column)[0] for frames in (images, made))
    right = (real_score[:, None] > fake_score[None, :]).float().mean()
    return {"score_real": float(real_score.mean()), "score_fake": float(fake_score.mean()), "pairs_told_apart": float(right)}


def evaluate(data: str, source: str, name: str, people: list[str], shots: int, held_out: int, steps: int | None) -> dict[str, object]:
    """All rows of one person."""
    torch.set_num_threads(1)
    model = load_model(source)
    size = model.config.networks.image_size
    networks = open_perceptual(model.config.perceptual)
    clips = {who: max((c for c in read_index(data) if c.person == who), key=len) for who in people}
    pictures, truth = split(clips[name], size, shots, held_out)
    rows, seconds = {}, {}
    untrained = random_model(model.config.preset)
    learned = [
        (model, 0, True),
        (model, steps, True),
        (model, steps, False),
        (untrained, steps, True),
        (model, FEW, True),
        (untrained, FEW, True),
    ]
    for row, (start, count, adversarial) in zip(ROWS, learned, strict=False):  # the last two rows learn nothing
        began = time.perf_counter()
        person = finetune(start, pictures, steps=count, adversarial=adversarial, perceptual=networks)
        seconds[row] = time.perf_counter() - began
        frames = rendered(person, truth)
        rows[row] = measure(frames, truth, networks)
        if row == "feed-forward":
            told = scores(model, embed(model, pictures), truth, frames)
    nearest = nearest_frames(pictures, truth.track)
    rows["nearest frame"] = measure(pictures.frames[nearest], truth, networks)
    warped = [
        warp_to_landmarks(pictures.frames[i], pictures.track.landmarks[i], to) for i, to in zip(nearest, truth.track.landmarks, strict=True)
    ]
    rows["nearest, warped"] = measure(np.stack(warped), truth, networks)
    return {
        "person": name,
        "clip": clips[name].info.name,
        "held_out": len(truth),
        "rows": rows,
        "seconds": seconds,
        **told,
        "own_embedding_wins": own_embedding_wins(model, networks, clips, name, shots, held_out),
    }


def own_embedding_wins(
    model: Model, networks: list[PerceptualNetwork], clips: dict[str, ShardClip], name: str, shots: int, held_out: int
) -> float:
    """Share of held-out frames whose content loss is lower with the person's own embedding than with another's, taken in turn."""
    size = model.config.networks.image_size
    halves = {who: split(clip, size, shots, held_out) for who, clip in clips.items()}
    embeddings = {who: embed(model, pictures) for who, (pictures, _) in halves.items()}
    others = [who for who in clips if who != name]
    images, drawn = tensors(halves[name][1])
    wins = 0
    with torch.no_grad():
        for number, frame in enumerate(np.linspace(0, len(images) - 1, EPISODES).round().astype(int)):
            loss = {
                who: content_loss(
                    networks, model.generator(drawn[frame, None], model.generator.project(embeddings[who])), images[frame, None]
                )
                for who in (name, others[number % len(others)])
            }
            wins += float(loss[name]) == min(float(value) for value in loss.values())
    return wins / EPISODES


def summary(people: list[dict]) -> dict[str, object]:
    """Means over people, of all and of those who move (nearest frame's SSIM below 0.8)."""
    moving = [one for one in people if one["rows"]["nearest frame"]["ssim"] < 0.8]
    return {
        label: {row: {column: float(np.nanmean([one["rows"][row][column] for one in some])) for column in COLUMNS} for row in ROWS}
        for label, some in (("all", people), ("moving", moving))
        if some
    }


def table(results: dict) -> str:
    """Markdown."""
    lines = []
    for label, rows in results["summary"].items():
        count = len(results["people"]) if label == "all" else sum(one["rows"]["nearest frame"]["ssim"] < 0.8 for one in results["people"])
        lines += [
            f"| {label} ({count} people) | SSIM | PSNR | identity | landmark error | faces found | content |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in ROWS:
            values = [format(rows[row][column], shown) for column, shown in COLUMNS.items()]
            lines.append(f"| {row} | {' | '.join(values)} |")
        lines.append("")
    lines += [
        "| person | nearest SSIM | fine-tuned SSIM | D real | D fake | pairs told apart | own embedding wins |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results["people"]:
        near, tuned = (one["rows"][row]["ssim"] for row in ("nearest frame", "fine-tuned"))
        lines.append(
            f"| {one['person']} | {near:.3f} | {tuned:.3f} | {one['score_real']:.2f} | {one['score_fake']:.2f} "
            f"| {one['pairs_told_apart']:.0%} | {one['own_embedding_wins']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="prepared shards")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--people", nargs="+", default=[])
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, metavar="JSON", help="print a result's table and do nothing else")
    given = parser.parse_args()
    if given.table:
        print(table(json.loads(given.table.read_text())))
        return
    with ProcessPoolExecutor(given.workers) as pool:
        common = (given.people, given.shots, given.held_out, given.steps)
        jobs = [pool.submit(evaluate, given.data, given.model, name, *common) for name in given.people]
        people = [job.result() for job in jobs]
    model = load_model(given.model)
    results = {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{platform.machine()}, {given.workers} workers of one thread",
        "torch": torch.__version__,
        "model": {"digest": model.digest, **model.provenance},
        "shots": given.shots,
        "steps": model.config.finetune.steps(given.shots) if given.steps is None else given.steps,
        "people": people,
        "summary": summary(people),
    }
    with replacing(given.out) as beside:
        beside.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
