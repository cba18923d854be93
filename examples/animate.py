"""Animate a person with a video: `python examples/animate.py anna.safetensors bob.mp4 anna_as_bob.mp4`."""

import sys

import talkinghead as th


def main(person_file: str, driving_video: str, output: str) -> None:
    """Write a video of the person with the motion and sound of the driving video."""
    person = th.load_person(person_file)
    th.animate_video(person, driving_video, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
