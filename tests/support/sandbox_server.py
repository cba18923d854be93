"""Server of the sandbox: imports everything once, and forks a child process for each call."""

import ctypes
import gc
import importlib
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from support.centre_detector import CentreDetector
from support.sandbox import INVALID_OUTPUT, NO_DISK, USER_ERROR, SandboxCall

MAX_ADDRESS_BYTES = 6 << 30
"""Addresses that a child may take in addition to those it starts with."""
CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18
CAPABILITY_VERSION_3 = 0x20080522
DAC_CAPABILITIES = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which let root open every file."""


def serve() -> None:
    """Run calls from standard input, one JSON line each, until it ends."""
    _import_everything()
    loaded: set[str] = set()
    for line in sys.stdin:
        call = SandboxCall(**json.loads(line))
        # Load large libraries before the first call that uses them: every child pays for loaded ones.
        if call.detector != "centre" and call.detector not in loaded:
            _load_detector(call.detector)
            loaded.add(call.detector)
        if call.command == "engine" and "engine" not in loaded:
            for module in ("onnxruntime", "openvino"):
                with suppress(ImportError):
                    importlib.import_module(module)
            loaded.add("engine")
        print(json.dumps(_run_in_child(call)), flush=True)


def _import_everything() -> None:
    import av  # noqa: F401
    import PIL.Image
    import skimage.transform  # noqa: F401
    import torch
    import torchmetrics.functional.image  # noqa: F401

    import talkinghead.evaluation.evaluate
    import talkinghead.exporters.export
    import talkinghead.pipelines.demo
    import talkinghead.pipelines.landmark_overlay
    import talkinghead.pipelines.live
    import talkinghead.synthetic.dataset
    import talkinghead.training.early_stopping
    import talkinghead.training.meta  # noqa: F401

    # Load what these libraries load at their first use here, not in every child.
    PIL.Image.init()
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    gc.collect()
    gc.freeze()  # so that the garbage collector of a child does not copy shared pages


def _load_detector(name: str) -> None:
    from talkinghead.landmarks.open_detector import open_detector
    from talkinghead.pretrained.face_recognition import open_installed_dlib

    open_detector(name)  # a network runs in children only: its threads do not survive a fork
    if name == "dlib":
        open_installed_dlib()


def _run_in_child(call: SandboxCall) -> dict[str, Any]:
    """Run a call in a forked child, and return the fields of its outcome."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        deadline = time.perf_counter() + call.seconds
        child = os.fork()
        if not child:
            _child_main(call, stdout, stderr)
        status, usage = _wait_for_child(child, deadline)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # its own children
        if status is None:
            _, _, usage = os.wait4(child, 0)
        texts = {}
        for name, file in (("stdout", stdout), ("stderr", stderr)):
            file.seek(0)
            texts[name] = file.read().decode(errors="backslashreplace")
    return {
        "code": None if status is None else os.waitstatus_to_exitcode(status),
        **texts,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def _wait_for_child(child: int, deadline: float) -> tuple[int | None, Any]:
    pause = 0.001
    while time.perf_counter() < deadline:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return status, usage
        time.sleep(pause)
        pause = min(1.3 * pause, 0.01)
    os.kill(child, signal.SIGKILL)
    return None, None


# in the children


def _child_main(call: SandboxCall, stdout: IO[bytes], stderr: IO[bytes]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        for number, file in ((0, open(os.devnull)), (1, stdout), (2, stderr)):  # noqa: SIM115
            os.dup2(file.fileno(), number)
        sys.stdin = open(0)  # noqa: SIM115
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), encoding="utf-8", line_buffering=True)
        code = _limit_and_run(call)
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _limit_and_run(call: SandboxCall) -> int:
    from support.sandbox_calls import output_problem

    if call.drop_privileges:
        drop_privileges()
    if call.disk and not mount_small_disk(*call.disk):
        return NO_DISK
    _set_limits(call)
    if call.detector == "centre":
        _replace_detectors()
    code = _run(call)
    if call.disk:
        print(json.dumps([str(path) for path in Path(call.disk[0]).rglob("*") if not path.is_dir()]))
    if code == 0:
        for output in call.outputs:
            problem = output_problem(Path(output))
            if problem:
                print(f"{output}: {problem}", file=sys.stderr)
                return INVALID_OUTPUT
    return code


def _set_limits(call: SandboxCall) -> None:
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MAX_ADDRESS_BYTES, held + MAX_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (call.file_bytes, call.file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if call.cpu_seconds is not None:
        limit = round(call.cpu_seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))


def _replace_detectors() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("talkinghead") and hasattr(module, "open_detector"):
            module.open_detector = lambda *_, **__: CentreDetector()  # type: ignore[attr-defined]
        if name.startswith("talkinghead") and hasattr(module, "face_descriptor"):
            module.face_descriptor = lambda _: None  # type: ignore[attr-defined]


def _run(call: SandboxCall) -> int:
    from support.sandbox_calls import CALLS
    from talkinghead.errors import TalkingheadError

    if call.command == "cli":
        from talkinghead.cli import main

        return main(list(call.arguments))
    calls = CALLS if call.command in CALLS else importlib.import_module("fuzz_calls").CALLS
    try:
        calls[call.command](*call.arguments)
    except TalkingheadError as error:
        print(f"talkinghead: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    return 0


def mount_small_disk(folder: str, size: int) -> bool:
    """Mount a disk of `size` bytes that only this process sees; return False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespaces = CLONE_NEWNS | CLONE_NEWUSER if os.getuid() else CLONE_NEWNS
    if libc.unshare(namespaces) or libc.mount(b"none", b"/", None, MS_PRIVATE | MS_REC, None):
        return False
    return not libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=%d" % size)


def drop_privileges() -> None:
    """Let file modes restrict root as they restrict every other user; do nothing for other users."""
    if os.getuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    capabilities = (ctypes.c_uint32 * 6)()
    if libc.capget(header, capabilities):
        raise OSError(ctypes.get_errno(), "capget")
    for index in (0, 1, 2):  # effective, permitted, inheritable
        capabilities[index] &= ~DAC_CAPABILITIES
    if libc.capset(header, capabilities):
        raise OSError(ctypes.get_errno(), "capset")
