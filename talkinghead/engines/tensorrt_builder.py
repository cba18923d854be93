"""Building TensorRT engines from our ONNX, and putting another person's weights into one that was built."""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoint import Person
from ..errors import TalkingheadError, one_line
from ..files import cache_folder, replacing, sha256
from .manifest import Manifest, sealed, sidecar
from .onnx import write_onnx
from .probe import probe
from .tensorrt import builds_anywhere, choose_target, emptied_log, first, runs_on, set_target
from .tensorrt_runtime import Card, TensorRTEngine, bindings, checked, deserialised, fits, this_card

log = logging.getLogger(__name__)


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
    """Write a person as a TensorRT engine, with its manifest beside it.

    Where a GPU that can run it is there its frames are compared with torch's before it is kept, and it can be refitted
    (`refit_tensorrt`). Else it is kept as it was built: the manifest's details say "verified": false and, as "unverified", why.

    Args:
        person: whom.
        path: the engine's file.
        precision, batch, input, output: as in `Manifest`.
        name: the person's file, for the record.
        target: the GPU it is for, such as "sm_120"; by default the one that is there, and where there is none all that TensorRT-RTX knows.
        device: that GPU.

    Raises:
        TalkingheadError: neither TensorRT nor TensorRT-RTX is installed, it cannot build for the target, or its frames are wrong.
    """
    path, card = Path(path), this_card(device)
    trt, target = choose_target(target, card.target if card else None)
    began = time.perf_counter()
    with _both(path) as (made, beside), tempfile.TemporaryDirectory(prefix=".tensorrt.", dir=made.parent) as folder:
        onnx = Path(folder) / "person.onnx"
        described = write_onnx(person, onnx, precision, batch, input, output, name)
        # a refittable engine costs a GPU even to build, and kREFIT is known to lose biases: the probe tells
        for refittable in (True, False) if card else (False,):
            try:
                with nullcontext() if card is None else card.current():
                    plan, warnings = _build(trt, onnx, path, described, target, refittable, card)
                made.write_bytes(plan)
                details = {
                    **described.details,
                    "builder": trt.__name__,
                    "builder_version": trt.__version__,
                    "target": target,
                    "onnx_sha256": sha256(onnx),
                    "refittable": refittable,
                    "warnings": warnings,
                }
                manifest = _verified(made, replace(described, format="tensorrt", details=details), person, card)
                break
            except TalkingheadError as error:
                if not refittable:
                    raise
                log.warning("%s; building it again, not to be refitted", error)
        beside.write_text(sealed(manifest, made), encoding="utf-8")
    log.info("%s: %s %s for %s, %.0f s", path, trt.__name__, trt.__version__, target, time.perf_counter() - began)
    return manifest


def refit_tensorrt(
    base_path: str | Path, person: Person, path: str | Path, name: str = "", device: str = "cuda", **wanted: str | int
) -> Manifest:
    """Write a person as the engine that was built for another person of the same networks, with this one's weights: seconds, no search.

    Precision, batch, input and output are the base's. What is written is not refitted again; refit the base.

    Args:
        base_path: what `build_tensorrt` wrote, on a GPU.
        person: whom.
        path: the new engine's file.
        name: the person's file, for the record.
        device: a GPU that can run the base.
        wanted: fields of `Manifest` such as precision that the base must have.

    Raises:
        TalkingheadError: the base does not fit the person or what is wanted, cannot be refitted or lacks a weight; the frames are wrong.
    """
    base_path, path = Path(base_path), Path(path)
    base = checked(base_path)
    of_person: dict[str, Any] = {
        "preset": person.config.preset,
        "size": person.config.networks.image_size,
        "styles": "input" if person.feed_forward else "constant",
        **wanted,
    }
    for field, value in of_person.items():
        if getattr(base, field) != value:
            raise TalkingheadError(f"{base_path}: has {field} {getattr(base, field)!r}, {value!r} was expected; name another base, or none")
    if not base.details.get("refittable"):
        raise TalkingheadError(f"{base_path}: cannot be refitted, it was built without a GPU or refitted itself; build a base on a GPU")
    trt, card = bindings(base_path, base), Card(device)
    fits(base_path, base, card)
    with _both(path) as (made, beside), tempfile.TemporaryDirectory(prefix=".tensorrt.", dir=made.parent) as folder:
        onnx = Path(folder) / "person.onnx"
        described = write_onnx(person, onnx, base.precision, base.batch, base.input, base.output, name)
        with card.current():
            made.write_bytes(_refitted(trt, base_path, onnx))
        details = {**base.details, **described.details, "onnx_sha256": sha256(onnx), "refittable": False, "base_sha256": sha256(base_path)}
        manifest = _verified(made, replace(described, format="tensorrt", details=details), person, card)
        beside.write_text(sealed(manifest, made), encoding="utf-8")
    return manifest


@contextmanager
def _both(path: Path) -> Iterator[tuple[Path, Path]]:
    """Where to write an engine and its manifest: both are whole before either is put in its place."""
    with replacing(sidecar(path)) as beside, replacing(path) as made:
        yield made, beside


def _build(
    trt: Any, onnx: Path, path: Path, manifest: Manifest, target: str, refittable: bool, card: Card | None
) -> tuple[memoryview, int]:
    """The engine's bytes and how many warnings there were; the card is the current one."""
    complaints = emptied_log(trt)
    builder = trt.Builder(complaints)
    network = parsed(trt, builder, onnx, path, complaints)
    config = builder.create_builder_config()
    set_target(trt, config, target)
    if manifest.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # ten bits of mantissa, on by default
    if refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else what allocates while it runs cannot be captured in a graph
    if (batch := manifest.batch) > 1:
        profile = builder.create_optimization_profile()
        for each in range(network.num_inputs):
            tensor = network.get_input(each)
            row = tuple(tensor.shape)[1:]
            # the best at `batch`, for `Engine.run` cuts what it is given into pieces of it; who wants single frames exports batch 1
            profile.set_shape(tensor.name, (1, *row), (batch, *row), (batch, *row))
        config.add_optimization_profile(profile)
    timings = None if builds_anywhere(trt) or card is None else _timings(trt, config, card)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise TalkingheadError(f"{path}: {trt.__name__} {trt.__version__} cannot build it ({first(complaints.errors)}); try fp16")
    if timings is not None:
        _keep_timings(config, timings)
    for warning in complaints.warnings:
        log.debug("%s: %s", trt.__name__, one_line(warning))
    return memoryview(plan), len(complaints.errors) + len(complaints.warnings)


def parsed(trt: Any, builder: Any, onnx: Path, path: Path, complaints: Any) -> Any:
    """The strongly typed network in an ONNX file: every tensor has the type that the file gives it.

    Raises:
        TalkingheadError: TensorRT does not know a part of it.
    """
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # from TensorRT 11 on there are no others
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, complaints)
    if not parser.parse_from_file(str(onnx)):
        problems = [parser.get_error(each).desc() for each in range(parser.num_errors)]
        raise TalkingheadError(f"{path}: {trt.__name__} {trt.__version__} does not know it ({first(problems)}); export it as onnx")
    return network


def _timings(trt: Any, config: Any, card: Card) -> Path:
    """Let the builder use and add to the timings of kernels on this GPU that were kept. TensorRT-RTX times none."""
    kept = cache_folder() / "tensorrt" / f"{trt.__name__}-{trt.__version__}-{card.name.replace(' ', '_')}.timings"
    cache = config.create_timing_cache(kept.read_bytes() if kept.is_file() else b"")
    if not config.set_timing_cache(cache, False):  # of another driver or GPU
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return kept


def _keep_timings(config: Any, kept: Path) -> None:
    try:
        with replacing(kept) as beside:
            beside.write_bytes(config.get_timing_cache().serialize())
    except TalkingheadError as error:
        log.warning("%s: kernels will be timed again the next time", error)


def _refitted(trt: Any, base_path: Path, onnx: Path) -> memoryview:
    """The base's bytes with the weights of an ONNX file."""
    complaints = emptied_log(trt)
    runtime = trt.Runtime(complaints)
    engine = deserialised(runtime, base_path.read_bytes(), base_path, complaints)
    refitter = trt.Refitter(engine, complaints)
    onnx_refitter = trt.OnnxParserRefitter(refitter, complaints)
    if not onnx_refitter.refit_from_file(str(onnx)):
        problems = [onnx_refitter.get_error(each).desc() for each in range(onnx_refitter.num_errors)] or complaints.errors
        raise TalkingheadError(f"{base_path}: the person's weights do not fit it ({first(problems)}); name another base, or none")
    if missing := refitter.get_missing_weights():
        raise TalkingheadError(f"{base_path}: needs {len(missing)} weights that the person lacks, such as {missing[0]!r}; name no base")
    if not refitter.refit_cuda_engine():
        raise TalkingheadError(f"{base_path}: refitting failed ({first(complaints.errors)}); name another base, or none")
    contents = engine.create_serialization_config()
    contents.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    return memoryview(engine.serialize_with_config(contents))


def _verified(made: Path, manifest: Manifest, person: Person, card: Card | None) -> Manifest:
    """The manifest with what the probe found, or why there was none."""
    target, psnr, why = manifest.details["target"], None, ""
    if card is None:
        why = "there was no NVIDIA GPU where it was built"
    elif not runs_on(target, card.target):
        why = f"it is for {target}, the GPU where it was built is {card.target}"
    else:
        psnr = round(min(probe(TensorRTEngine(made, card.device, manifest), person), 99.0), 1)
    return replace(manifest, details={**manifest.details, "verified": not why, "psnr": psnr, "unverified": why})
