"""The shapes that ops are measured at, those of the paper's generator, and their layouts."""

from typing import Any

import pytest

from bench.lib.harness import DEVICE

LAYERS = ((64, 256), (128, 128), (256, 64), (512, 32), (512, 16))
UP = ((512, 512, 16), (512, 256, 32), (256, 128, 64), (128, 64, 128))
DOWN = ((64, 64, 256), (128, 128, 128), (256, 256, 64), (512, 512, 32))
ATTENDED = ((256, 64), (256, 32), (80, 64))
FACES = ((1, 64), (16, 64), (64, 64), (1, 256), (16, 256), (64, 256))
SHAPES: dict[str, tuple[Any, ...]] = {
    "layer": LAYERS,  # channels and size of what is normalised
    "up": UP,  # channels in and out, size of the input
    "down": DOWN,
    "attended": ATTENDED,  # channels and size of the map that attends to its pooled self
    "faces": FACES,  # how many, and the size of the image
    "batch": (1, 8, 32) if DEVICE == "cuda" else (1, 8),
    "memory_format": ("nchw", "channels_last"),
}
BRIEF = SHAPES | {"faces": tuple(faces for faces in FACES if faces[0] <= 16), "memory_format": ("nchw",)}
QUICK: dict[str, tuple[Any, ...]] = {
    "layer": ((4, 8),),
    "up": ((4, 6, 4),),
    "down": ((4, 4, 8),),
    "attended": ((16, 8),),
    "faces": ((2, 16),),
    "batch": (2,),
    "memory_format": SHAPES["memory_format"],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    options = metafunc.config.option
    shapes = QUICK if options.quick else SHAPES if options.thorough or DEVICE == "cuda" else BRIEF
    for name in metafunc.fixturenames:
        if name in shapes:
            metafunc.parametrize(
                name, shapes[name], ids=lambda value: str(value).strip("()").replace(", ", "-")
            )
