"""Meta-learn a small model on your own videos: `python examples/train_tiny.py clips/ run`."""

import sys
from pathlib import Path

import talkinghead as th


def main(videos: str, out: str, steps: str = "200") -> None:
    """Prepare the videos of a folder, one subfolder a person, and train the preset `tiny` on them."""
    data = Path(out) / "data"
    th.prepare([videos], data, size=64)
    th.train([data], Path(out) / "run", preset="tiny", steps=int(steps))
    print(f"wrote {out}/run/model.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
