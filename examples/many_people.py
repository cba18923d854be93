"""Show several people from one engine: `python examples/many_people.py anna.mp4 bob.mp4 drive.mp4 out.onnx`.

In the paper's form, a person made without fine-tuning consists of styles alone. One engine then shows
anybody: every row of a batch has the styles of its own person.
"""

import sys

import numpy as np

import talkinghead as th


def main(*files: str) -> None:
    """Export one person, then show all of them in one batch, moved by the first frame of the driver."""
    *sources, driving_video, engine_file = files
    people = [th.finetune("tiny", source, steps=0) for source in sources]
    track = th.read_clip(driving_video, size=64).track
    people[0].export(engine_file, "onnx")
    engine = th.open_engine(engine_file)
    landmarks = np.repeat(track.landmarks[:1] / 64, len(people), axis=0).astype(np.float32)
    styles = np.stack([person.styles.detach().numpy().reshape(-1) for person in people])
    frames = engine.run(landmarks, styles=styles)
    print(f"{len(people)} people in one batch: frames {frames.dtype} {list(frames.shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
