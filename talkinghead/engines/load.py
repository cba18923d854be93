"""Opening of engine files of any format."""

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import TalkingheadError
from ..model import Person
from ..system.device import choose_device
from ..system.torch_state import with_default_torch_state
from .aoti_engine import AotiEngine
from .base import Engine
from .manifest import read_manifest
from .onnx_engine import OnnxEngine
from .tensorrt_engine import TensorRTEngine
from .verify import check_same_weights, verify_against_torch


@with_default_torch_state
def open_engine(
    path: str | os.PathLike[str], person: Person | None = None, device: str = "auto", trust: bool = False
) -> Engine:
    """Open an engine file.

    Its content is loaded only after its checksum was verified, and nothing is unpickled.

    Args:
        path: what `talkinghead.export_person` wrote.
        person: whose engine it must be; their styles and references become the engine's inputs.
        device: "cpu", "cuda" or "auto", a GPU where torch sees one.
        trust: run native code (a .pt2) that another machine made; whoever made it can do whatever the user
            can.

    Raises:
        TalkingheadError: the file is missing, cut, edited, of another version, for another machine, another
            person's, or native code that is not trusted.
    """
    manifest = read_manifest(path)
    path = Path(path)
    if manifest.format not in _ENGINES:
        raise TalkingheadError(
            f"{path}: is an engine of format {manifest.format!r}, expected one of {', '.join(_ENGINES)}; "
            "export it again"
        )
    if person is not None:
        check_same_weights(manifest, person, path)
    engine = _ENGINES[manifest.format](path, str(choose_device(device)), trust)
    if person is not None:
        engine.set_person(person)
        if manifest.format == "tensorrt" and not manifest.details.get("verified"):
            verify_against_torch(engine, person)  # it was built where it could not run
    return engine


def gpu_device(device: str) -> str:
    """Return the device for TensorRT, which runs on GPUs only, where another format would run on `device`."""
    return "cuda" if device == "cpu" else device


_ENGINES: dict[str, Callable[[Path, str, bool], Engine]] = {
    "onnx": lambda path, device, _: OnnxEngine(path, device),
    "aoti": AotiEngine,
    "tensorrt": lambda path, device, _: TensorRTEngine(path, gpu_device(device)),
}
