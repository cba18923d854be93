"""The AOTInductor engine: runs a package that torch compiled ahead of time, on the kind of machine that it
was compiled for.

A package with our ops needs torch and talkinghead_kernels to run; a portable one, decomposed into torch's
own ops, needs torch alone. A package is native code: opening one runs it. So one that another machine made is
opened only if the user trusts it (trust.py), and one that contains more than compiled code, which torch would
unpickle, never.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from talkinghead_kernels.cpu_features import cpu_features
from talkinghead_kernels.registration import SCHEMA_VERSION

from ..errors import TalkingheadError
from ..system.device import choose_device
from .base import Engine, first_line
from .manifest import Manifest, read_sidecar
from .trust import check_package, check_trusted

_FIRST_SCHEMA_VERSION = 1
"""Version of the ops' schemas in version 0.1.0, whose manifests do not have the field."""


class AotiEngine(Engine):
    """Engine of a compiled package.

    Args:
        path: the package that `talkinghead.exporters.aoti.write_aoti` wrote, its .json in the same folder.
        device: "cpu" or "cuda".
        trust: run its native code though another machine made it.

    Attributes:
        manifest: of the package.

    Raises:
        TalkingheadError: the file is missing, cut or edited, was compiled for another device, CPU, version of
            torch or of our ops, or is not trusted.
    """

    def __init__(self, path: str | Path, device: str = "cpu", trust: bool = False) -> None:
        path, self._device = Path(path), choose_device(device)
        self.manifest = read_sidecar(path)
        self.spec = self.manifest.spec
        check_environment(path, self.manifest, self._device)
        check_package(path)
        check_trusted(path, trust)
        from torch._inductor import aoti_load_package

        folder = tempfile.mkdtemp(prefix="talkinghead_")
        self._remove_unpacked = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            with _temporary_files_in(folder):
                self._package = aoti_load_package(
                    str(path), device_index=-1 if self._device.index is None else self._device.index
                )
        except RuntimeError as error:
            self._remove_unpacked()
            raise TalkingheadError(
                f"{path}: cannot be loaded ({first_line(error)}); export it again"
            ) from error

    @torch.inference_mode()
    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        arguments = [torch.from_numpy(array).to(self._device) for array in inputs.values()]
        return self._package(*arguments).cpu().numpy()


def compile_environment(device: torch.device, portable: bool) -> dict[str, Any]:
    """Return what a compiled package depends on, as the manifest's details record it.

    Args:
        device: where the package runs.
        portable: whether it is decomposed into torch's own ops, and independent of the schemas of ours.
    """
    environment: dict[str, Any] = {
        "torch": torch.__version__,
        "device": device.type,
        "cpu": " ".join(sorted(cpu_features())),
    }
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        environment["gpu"] = f"sm_{major}{minor}"
    if not portable:
        environment["ops_schema"] = SCHEMA_VERSION
    return environment


def check_environment(path: Path, manifest: Manifest, device: torch.device) -> None:
    """Check that a package was compiled for this machine.

    Raises:
        TalkingheadError: it was compiled for another.
    """
    compiled_for = {"ops_schema": _FIRST_SCHEMA_VERSION, **manifest.details}
    for name, value in compile_environment(device, bool(manifest.details.get("portable"))).items():
        if compiled_for.get(name) != value:
            raise TalkingheadError(
                f"{path}: was compiled for {name} {compiled_for.get(name)}, this is {value}; export it here"
            )


@contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """Make torch's C++ code create its temporary folders in a folder.

    A load that fails would leave them behind.
    """
    previous = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = folder
    try:
        yield
    finally:
        if previous is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = previous
