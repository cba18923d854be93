"""AOTInductor: a person compiled ahead of time by torch, for the kind of machine it is made on.

With our ops it needs torch and talkinghead_kernels to run; portable, decomposed into torch's own, torch alone. A package is native code:
opening one runs it. So one that this machine did not make is opened only where the user trusts it (trust.py), and one that holds more
than compiled code, which torch would unpickle, never.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from talkinghead_kernels.cpu_features import cpu_features

from ..checkpoint import Person
from ..device import choose_device
from ..errors import TalkingheadError
from ..networks import pack_
from ..version import __version__
from .engine import Engine
from .frame import FrameNetwork
from .manifest import Manifest, read_sidecar
from .onnx import FORMS, exported, quiet
from .trust import check_package, check_trusted


def write_aoti(
    person: Person,
    path: Path,
    precision: str = "fp32",
    batch: int = 8,
    input: str = "points",
    output: str = "uint8",
    name: str = "",
    portable: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Compile a person; gives the manifest, which is to lie beside the package.

    Args:
        person, path, precision, batch, input, output, name: as for `write_onnx`; path ends in .pt2.
        portable: in torch's own ops, without ours.
        device: "cpu" or "cuda", where it is to run.

    Raises:
        TalkingheadError: there is no C++ compiler, torch's cache folder cannot be used, or the network cannot be compiled.
    """
    from torch._inductor import aoti_compile_and_package  # takes seconds to import

    _check_cache_folder()
    there = torch.device(device)
    forms = None if there.type == "cpu" else FORMS[precision]  # the fastest ones of a GPU are not known here
    network = FrameNetwork(person, precision, input, output, forms).to(there)
    if not portable:
        pack_(network.generator, network.layer_size, batch, exportable=True)
    with quiet():
        program = exported(network, batch, decomposed=portable)
        try:
            aoti_compile_and_package(program, package_path=str(path))
        except (OSError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the compiler's, of many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise TalkingheadError(f"aoti: cannot be compiled here ({reason}); a C++ compiler such as g++ is needed") from error
    details = {**_machine(there), "portable": portable}
    return Manifest.of(person, "aoti", precision, batch, input, output, name, details=details)


def _check_cache_folder() -> None:
    """Refuse a cache folder that torch's compiler would fail in for reasons that it does not give."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    remedy = "set TORCHINDUCTOR_CACHE_DIR to a folder that can be written to, without spaces in its path"
    try:
        folder = os.path.abspath(cache_dir())
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TalkingheadError(f"aoti: torch's cache folder cannot be used ({error.strerror}: {error.filename}); {remedy}") from error
    if any(letter.isspace() for letter in folder):
        raise TalkingheadError(f"aoti: torch's cache folder {folder!r} has a space in its path, which its compiler cannot take; {remedy}")


def _machine(device: torch.device) -> dict[str, str]:
    """What native code is bound to."""
    found = {"torch": torch.__version__, "device": device.type, "cpu": " ".join(sorted(cpu_features()))}
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        found["gpu"] = f"sm_{major}{minor}"
    return found


class AotiEngine(Engine):
    """Runs a package of `write_aoti`.

    Args:
        path: the package, a .json beside it.
        device: "cpu" or "cuda".
        trust: run its native code though this machine did not make it.

    Raises:
        TalkingheadError: the file is missing, cut or edited, was made for another device, CPU or version of torch, or is not trusted.
    """

    def __init__(self, path: str | Path, device: str = "cpu", trust: bool = False) -> None:
        path, self._device = Path(path), choose_device(device)
        self.manifest = read_sidecar(path)
        made = self.manifest.details
        here = {"talkinghead": __version__, **_machine(self._device)}
        for what, value in here.items():
            compiled_for = self.manifest.talkinghead if what == "talkinghead" else made.get(what)
            if compiled_for != value and not (what == "talkinghead" and made.get("portable")):
                raise TalkingheadError(f"{path}: was compiled for {what} {compiled_for}, this is {value}; export it here")
        check_package(path)
        check_trusted(path, trust)
        from torch._inductor import aoti_load_package

        folder = tempfile.mkdtemp(prefix="talkinghead_")
        self._remove_unpacked = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            with _temporary_files_in(folder):
                self._package = aoti_load_package(str(path), device_index=-1 if self._device.index is None else self._device.index)
        except RuntimeError as error:
            self._remove_unpacked()
            raise TalkingheadError(f"{path}: cannot be loaded ({str(error).splitlines()[0][:160]}); export it again") from error

    @torch.inference_mode()
    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        arguments = [torch.from_numpy(array).to(self._device) for array in inputs.values()]
        return self._package(*arguments).cpu().numpy()


@contextmanager
def _temporary_files_in(folder: str) -> Iterator[None]:
    """Let torch's C++ code make its temporary folders in this one: those of a load that failed it leaves behind."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
