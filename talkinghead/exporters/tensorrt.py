"""TensorRT export: engines built from our ONNX, and a built engine refitted with another person's weights."""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..engines.gpu_context import GpuContext, current_gpu
from ..engines.manifest import Manifest, manifest_with_checksum, sidecar
from ..engines.tensorrt_api import (
    can_cross_compile,
    choose_target,
    deserialize,
    first_error,
    fresh_logger,
    runs_on,
    set_target,
)
from ..engines.tensorrt_engine import (
    TensorRTEngine,
    check_gpu_matches,
    matching_bindings,
    read_tensorrt_manifest,
)
from ..engines.verify import verify_against_torch
from ..errors import TalkingheadError, one_line
from ..model import Person
from ..system.atomic_file import atomic_write
from ..system.file_hash import sha256
from ..system.user_folders import cache_folder
from .onnx import write_onnx

log = logging.getLogger(__name__)

_MAX_REPORTED_PSNR_DB = 99.0
"""Stands for frames that are equal: JSON has no infinity."""


def build_tensorrt(
    person: Person,
    path: str | Path,
    precision: str = "fp32",
    batch: int = 8,
    input: str = "points",
    output: str = "uint8",
    name: str = "",
    target: str | None = None,
    device: str = "cuda",
) -> Manifest:
    """Build a TensorRT engine of a person, and write it and its sidecar.

    With a GPU that can run it, its frames are compared with PyTorch's before it is kept, and it can be
    refitted (`refit_tensorrt`). Otherwise it is kept as it was built: the manifest's details have "verified":
    false and, as "unverified", the reason.

    Args:
        person: whose engine it is.
        path: the engine's file.
        precision, batch, input, output: as in `talkinghead.engines.manifest.EngineSpec`.
        name: the person's file, for the manifest.
        target: the GPU it is for, such as "sm_120"; by default the present one, or without one all that
            TensorRT-RTX supports.
        device: the present GPU.

    Raises:
        TalkingheadError: neither TensorRT nor TensorRT-RTX is installed, it cannot build for the target, or
            the engine's frames are wrong.
    """
    path, gpu = Path(path), current_gpu(device)
    trt, target = choose_target(target, gpu.target if gpu else None)
    start = time.perf_counter()
    with _output_files(path) as files:
        manifest = write_onnx(
            person, files.onnx, precision=precision, batch=batch, input=input, output=output, name=name
        )
        job = _BuildJob(trt=trt, onnx=files.onnx, path=path, manifest=manifest, target=target, gpu=gpu)
        manifest = _build_and_verify(job, files.engine, person)
        files.sidecar.write_text(manifest_with_checksum(manifest, files.engine), encoding="utf-8")
    seconds = time.perf_counter() - start
    build = f"{trt.__name__} {trt.__version__} for {target}"
    log.info("%s: %s, %.0f s", path, build, seconds)
    return manifest


def refit_tensorrt(
    base_path: str | Path,
    person: Person,
    path: str | Path,
    name: str = "",
    device: str = "cuda",
    **expected: str | int,
) -> Manifest:
    """Write a person's weights into the engine of another person of the same networks: seconds, no search.

    Precision, batch, input and output are the base's. The new engine cannot be refitted; refit the base.

    Args:
        base_path: what `build_tensorrt` wrote, on a GPU.
        person: whose engine the new one is.
        path: the new engine's file.
        name: the person's file, for the manifest.
        device: a GPU that can run the base.
        expected: fields of `Manifest`, such as precision, that the base must have.

    Raises:
        TalkingheadError: the base does not fit the person or `expected`, cannot be refitted or lacks a
            weight; the frames are wrong.
    """
    base_path, path = Path(base_path), Path(path)
    base = read_tensorrt_manifest(base_path)
    _check_base(base_path, base, person, expected)
    trt, gpu = matching_bindings(base_path, base), GpuContext(device)
    check_gpu_matches(base_path, base, gpu)
    with _output_files(path) as files:
        onnx_manifest = write_onnx(
            person,
            files.onnx,
            precision=base.precision,
            batch=base.batch,
            input=base.input,
            output=base.output,
            name=name,
        )
        with gpu.make_current():
            files.engine.write_bytes(_refit_plan(trt, base_path, files.onnx))
        details = {
            **base.details,
            **onnx_manifest.details,
            "onnx_sha256": sha256(files.onnx),
            "refittable": False,
            "base_sha256": sha256(base_path),
        }
        manifest = replace(onnx_manifest, format="tensorrt", details=details)
        manifest = _verify(files.engine, manifest, person, gpu)
        files.sidecar.write_text(manifest_with_checksum(manifest, files.engine), encoding="utf-8")
    return manifest


@dataclass(frozen=True)
class _OutputFiles:
    """Temporary files of an export: engine and sidecar are moved to their places together."""

    engine: Path
    sidecar: Path
    onnx: Path


@contextmanager
def _output_files(path: Path) -> Iterator[_OutputFiles]:
    """Yield the files of an export; engine and sidecar are complete before either is put in its place."""
    with (
        atomic_write(sidecar(path)) as sidecar_path,
        atomic_write(path) as engine_path,
        tempfile.TemporaryDirectory(prefix=".tensorrt.", dir=engine_path.parent) as folder,
    ):
        yield _OutputFiles(engine=engine_path, sidecar=sidecar_path, onnx=Path(folder) / "person.onnx")


@dataclass(frozen=True)
class _BuildJob:
    """A build: of what, by what and for which GPU.

    Attributes:
        trt: the bindings.
        onnx: file of the network.
        path: the engine's final path, for messages.
        manifest: of the ONNX file.
        target: the GPU it is for.
        gpu: the present one, or None.
    """

    trt: Any
    onnx: Path
    path: Path
    manifest: Manifest
    target: str
    gpu: GpuContext | None


def _build_and_verify(job: _BuildJob, engine_path: Path, person: Person) -> Manifest:
    """Build an engine, refittable if that works, and return its manifest."""
    if job.gpu is None:  # a refittable engine needs a GPU even to be built
        return _build_once(job, engine_path, person, refittable=False)
    try:
        return _build_once(job, engine_path, person, refittable=True)
    except TalkingheadError as error:  # kREFIT is known to lose biases, which the verification finds
        log.warning("%s; building it again, not to be refitted", error)
        return _build_once(job, engine_path, person, refittable=False)


def _build_once(job: _BuildJob, engine_path: Path, person: Person, refittable: bool) -> Manifest:
    with nullcontext() if job.gpu is None else job.gpu.make_current():
        plan, num_warnings = _build_plan(job, refittable)
    engine_path.write_bytes(plan)
    details = {
        **job.manifest.details,
        "builder": job.trt.__name__,
        "builder_version": job.trt.__version__,
        "target": job.target,
        "onnx_sha256": sha256(job.onnx),
        "refittable": refittable,
        "warnings": num_warnings,
    }
    manifest = replace(job.manifest, format="tensorrt", details=details)
    return _verify(engine_path, manifest, person, job.gpu)


def _build_plan(job: _BuildJob, refittable: bool) -> tuple[memoryview, int]:
    """Build on the current GPU; return the engine's bytes and the number of warnings."""
    trt = job.trt
    logger = fresh_logger(trt)
    builder = trt.Builder(logger)
    network = parse_onnx(trt, builder, job.onnx, path=job.path, logger=logger)
    config = _builder_config(job, builder, network, refittable)
    timings_path = None
    if job.gpu is not None and not can_cross_compile(trt):
        timings_path = _load_timings(trt, config, job.gpu)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise TalkingheadError(
            f"{job.path}: {trt.__name__} {trt.__version__} cannot build it ({first_error(logger.errors)}); "
            "try fp16"
        )
    if timings_path is not None:
        _save_timings(config, timings_path)
    for warning in logger.warnings:
        log.debug("%s: %s", trt.__name__, one_line(warning))
    return memoryview(plan), len(logger.errors) + len(logger.warnings)


def _builder_config(job: _BuildJob, builder: Any, network: Any, refittable: bool) -> Any:
    """Return the configuration of a build: target, flags and the range of batch sizes."""
    trt, batch = job.trt, job.manifest.batch
    config = builder.create_builder_config()
    set_target(trt, config, job.target)
    if job.manifest.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # it has ten bits of mantissa, and is on by default
    if refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # allocations during a run cannot be captured in a CUDA graph
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if batch > 1:
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            row = tuple(tensor.shape)[1:]
            # optimised for full batches, into which `Engine.run` splits its input; for single frames export
            # batch 1
            profile.set_shape(tensor.name, (1, *row), (batch, *row), (batch, *row))
        config.add_optimization_profile(profile)
    return config


def parse_onnx(trt: Any, builder: Any, onnx: Path, *, path: Path, logger: Any) -> Any:
    """Parse an ONNX file to a strongly typed network: every tensor has the type that the file declares.

    Args:
        trt: the bindings.
        builder: a builder of theirs.
        onnx: the file.
        path: the engine's, for messages.
        logger: of `fresh_logger`.

    Raises:
        TalkingheadError: TensorRT does not support a part of it.
    """
    # from TensorRT 11 on every network is strongly typed
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        problems = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise TalkingheadError(
            f"{path}: {trt.__name__} {trt.__version__} does not support it ({first_error(problems)}); "
            "export it as onnx"
        )
    return network


def _load_timings(trt: Any, config: Any, gpu: GpuContext) -> Path:
    """Let the builder use and extend the saved timings of kernels on this GPU; return their file.

    TensorRT-RTX times no kernels.
    """
    file_name = f"{trt.__name__}-{trt.__version__}-{gpu.name.replace(' ', '_')}.timings"
    path = cache_folder() / "tensorrt" / file_name
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, False):  # it is of another driver or GPU
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return path


def _save_timings(config: Any, path: Path) -> None:
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(config.get_timing_cache().serialize())
    except TalkingheadError as error:
        log.warning("%s: kernels will be timed again the next time", error)


def _check_base(base_path: Path, base: Manifest, person: Person, expected: dict[str, str | int]) -> None:
    """Check that an engine can be refitted with a person's weights."""
    fields: dict[str, Any] = {
        "preset": person.config.preset,
        "size": person.config.networks.image_size,
        "num_points": person.config.networks.num_points,
        "styles": "input" if person.feed_forward else "constant",
        **expected,
    }
    for name, value in fields.items():
        if getattr(base, name) != value:
            raise TalkingheadError(
                f"{base_path}: has {name} {getattr(base, name)!r}, expected {value!r}; name another "
                "base, or none"
            )
    if not base.details.get("refittable"):
        raise TalkingheadError(
            f"{base_path}: cannot be refitted, it was built without a GPU or refitted itself; build a base "
            "on a GPU"
        )


def _refit_plan(trt: Any, base_path: Path, onnx: Path) -> memoryview:
    """Return the base's bytes with the weights of an ONNX file."""
    logger = fresh_logger(trt)
    runtime = trt.Runtime(logger)
    engine = deserialize(runtime, base_path.read_bytes(), base_path, logger)
    refitter = trt.Refitter(engine, logger)
    onnx_refitter = trt.OnnxParserRefitter(refitter, logger)
    if not onnx_refitter.refit_from_file(str(onnx)):
        problems = [onnx_refitter.get_error(index).desc() for index in range(onnx_refitter.num_errors)]
        raise TalkingheadError(
            f"{base_path}: the person's weights do not fit it ({first_error(problems or logger.errors)}); "
            "name another base, or none"
        )
    if missing := refitter.get_missing_weights():
        raise TalkingheadError(
            f"{base_path}: needs {len(missing)} weights that the person lacks, such as {missing[0]!r}; name "
            "no base"
        )
    if not refitter.refit_cuda_engine():
        raise TalkingheadError(
            f"{base_path}: refitting failed ({first_error(logger.errors)}); name another base, or none"
        )
    contents = engine.create_serialization_config()
    contents.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    return memoryview(engine.serialize_with_config(contents))


def _verify(engine_path: Path, manifest: Manifest, person: Person, gpu: GpuContext | None) -> Manifest:
    """Compare an engine's frames with PyTorch's where it runs here; return the manifest with the result."""
    target, psnr_db, reason = manifest.details["target"], None, ""
    if gpu is None:
        reason = "there was no NVIDIA GPU where it was built"
    elif not runs_on(target, gpu.target):
        reason = f"it is for {target}, the GPU where it was built is {gpu.target}"
    else:
        decibels = verify_against_torch(TensorRTEngine(engine_path, gpu.device, manifest), person)
        psnr_db = round(min(decibels, _MAX_REPORTED_PSNR_DB), 1)
    details = {**manifest.details, "verified": not reason, "psnr": psnr_db, "unverified": reason}
    return replace(manifest, details=details)
