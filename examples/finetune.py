"""Learn a person from a video or pictures: `python examples/finetune.py anna.mp4 anna.safetensors`."""

import sys

import talkinghead as th


def main(source: str, person_file: str, steps: str | None = None) -> None:
    """Learn a person from 8 evenly spaced frames and write the person's file."""
    person = th.finetune("portrait", source, steps=None if steps is None else int(steps))
    person.save(person_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
