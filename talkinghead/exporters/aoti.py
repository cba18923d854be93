"""AOTInductor export: a person compiled ahead of time by torch, for the kind of machine it is compiled on."""

import os
import tempfile
from pathlib import Path

import torch

from ..engines.aoti_engine import compile_environment
from ..engines.base import first_line
from ..engines.manifest import Manifest
from ..errors import TalkingheadError
from ..model import Person
from ..networks import pack_weights_
from ..system.quiet import suppress_warnings
from .frame_module import RESAMPLE_FORMS, FrameModule, export_program


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
    """Compile a person and return the manifest, which the caller writes into the package's sidecar.

    Args:
        person, path, precision, batch, input, output, name: as for `write_onnx`; path ends in .pt2.
        portable: compile torch's own ops only, without ours.
        device: "cpu" or "cuda", where it is to run.

    Raises:
        TalkingheadError: there is no C++ compiler, torch's cache folder cannot be used, or the network cannot
            be compiled.
    """
    from torch._inductor import aoti_compile_and_package  # takes seconds to import

    _check_cache_folder()
    target = torch.device(device)
    # the fastest forms of a CPU are measured; those of a GPU are not known here
    forms = None if target.type == "cpu" else RESAMPLE_FORMS[precision]
    module = FrameModule(person, precision, input, output, forms=forms).to(target)
    if not portable:
        pack_weights_(module.generator, module.layer_size, batch, exportable=True)
    with suppress_warnings("torch"):
        program = export_program(module, batch, decompose=portable)
        try:
            aoti_compile_and_package(program, package_path=str(path))
        except (OSError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the compiler has exceptions of many types
            raise TalkingheadError(
                f"aoti: cannot be compiled here ({first_line(error)}); a C++ compiler such as g++ is needed"
            ) from error
    return Manifest.of(
        person,
        "aoti",
        precision,
        batch,
        input=input,
        output=output,
        name=name,
        details={**compile_environment(target, portable), "portable": portable},
    )


def _check_cache_folder() -> None:
    """Check torch's cache folder; its compiler would fail in an unusable one without the reason."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    remedy = "set TORCHINDUCTOR_CACHE_DIR to a folder that can be written to, without spaces in its path"
    try:
        folder = os.path.abspath(cache_dir())
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TalkingheadError(
            f"aoti: torch's cache folder cannot be used ({error.strerror}: {error.filename}); {remedy}"
        ) from error
    if any(character.isspace() for character in folder):
        raise TalkingheadError(
            f"aoti: torch's cache folder {folder!r} has a space in its path, which its compiler cannot "
            f"take; {remedy}"
        )
