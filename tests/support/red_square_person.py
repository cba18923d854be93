"""A person whose neutral face is a red square, as `RedSquare` detects it."""

import torch

from conftest import RedSquare, drawn_frame
from talkinghead.model import Person, random_model


def red_square_person(digest: str = "", feed_forward: bool = True) -> Person:
    """Return a person of random weights whose neutral face is a red square in the middle of the crop."""
    model = random_model("tiny", seed=1)
    with torch.no_grad():
        styles = model.generator.project(torch.zeros(1, model.config.networks.embedding))
    landmarks = RedSquare()(drawn_frame((64, 64), (20, 20, 24)))
    assert landmarks is not None
    return Person(model.config, model.generator, styles, landmarks / 64, digest, feed_forward=feed_forward)
