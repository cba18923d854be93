"""TensorRT-RTX parses and builds our networks for GPUs that are not here; nothing runs."""

import itertools
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.fake_tensorrt import person_of
from talkinghead.checkpoint import load_model
from talkinghead.engines.manifest import Manifest, manifest_with_checksum, sidecar
from talkinghead.engines.tensorrt_api import fresh_logger
from talkinghead.engines.tensorrt_engine import TensorRTEngine, read_tensorrt_manifest
from talkinghead.errors import TalkingheadError
from talkinghead.exporters import tensorrt
from talkinghead.exporters.onnx import write_onnx
from talkinghead.exporters.tensorrt import build_tensorrt, parse_onnx, refit_tensorrt
from talkinghead.model import Person
from talkinghead.system.file_hash import sha256

pytestmark = pytest.mark.slow  # engines are built for minutes

trt: Any = pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt-rtx, whose builder is tested, is not installed"
)
pytest.importorskip("onnxscript", reason="onnxscript, which writes ONNX, is not installed")
no_gpu = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="is about machines without a GPU; bench/gpu/tensorrt.sh is for those with one",
)

BATCH = 2
HEAVY = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "SOFTMAX", "POOLING", "RESIZE"}


@pytest.fixture(scope="module")
def person() -> Person:
    return person_of(load_model("tiny"), 0)


@pytest.fixture(scope="module")
def exports(
    person: Person, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Manifest]]:
    """Tiny as ONNX in a precision, written once."""
    folder, exported = tmp_path_factory.mktemp("onnx"), {}

    def export(precision: str) -> tuple[Path, Manifest]:
        if precision not in exported:
            path = folder / f"{precision}.onnx"
            exported[precision] = path, write_onnx(person, path, precision, BATCH)
        return exported[precision]

    return export


@pytest.fixture(scope="module")
def engines(
    person: Person, exports: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Path]]:
    """Tiny as engines, by target and precision."""

    def write(
        person: Person, path: Path, precision: str, batch: int, input: str, output: str, name: str
    ) -> Manifest:
        assert (batch, input, output) == (BATCH, "points", "uint8")
        source, manifest = exports(precision)
        shutil.copy(source, path)
        return replace(manifest, person=name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt, "write_onnx", write)
        patch.setitem(sys.modules, "tensorrt", None)  # what is tested here is TensorRT-RTX
        folder = tmp_path_factory.mktemp("engines")
        paths = {}
        for target, precision in (
            *itertools.product(("sm_86", "sm_89", "sm_120"), ("fp16", "fp32")),
            ("sm_80+", "fp32"),
        ):
            path = paths[target, precision] = folder / f"{target}.{precision}.engine"
            build_tensorrt(
                person, path, precision, BATCH, name="anna", target=None if target.endswith("+") else target
            )
        yield paths


class Network:
    """Network that TensorRT parses from an ONNX file of ours."""

    def __init__(self, path: Path) -> None:
        log = fresh_logger(trt)
        self._builder = trt.Builder(log)
        self.network = parse_onnx(trt, self._builder, path, path=path, logger=log)
        self.complaints = [*log.errors, *log.warnings]
        self.layers = [self.network.get_layer(index) for index in range(self.network.num_layers)]

    def kinds(self) -> Counter[tuple[str, str]]:
        """Count the layers of each kind and type of result."""
        return Counter((layer.type.name, layer.get_output(0).dtype.name) for layer in self.layers)

    def total(self, kind: str) -> int:
        return sum(count for (layer_kind, _), count in self.kinds().items() if layer_kind == kind)

    def parts_in_float32(self) -> list[list[Any]]:
        """Group layers that work on float32: a group passes float32 from layer to layer."""
        makers = {
            layer.get_output(j).name: layer
            for layer in self.layers
            if layer.type.name != "CONSTANT"
            for j in range(layer.num_outputs)
        }
        parents: dict[str, str] = {}

        def root(name: str) -> str:
            while parents.setdefault(name, name) != name:
                name = parents[name]
            return name

        working = []
        for layer in self.layers:
            inputs = [layer.get_input(j) for j in range(layer.num_inputs)]
            wide = [tensor for tensor in inputs if tensor is not None and tensor.dtype == trt.float32]
            if layer.type.name in ("CONSTANT", "SHAPE") or not (
                wide or layer.get_output(0).dtype == trt.float32
            ):
                continue
            working.append(layer)
            for tensor in wide:
                if tensor.name in makers:
                    parents[root(layer.name)] = root(makers[tensor.name].name)
        parts: dict[str, list[Any]] = {}
        for layer in working:
            parts.setdefault(root(layer.name), []).append(layer)
        return list(parts.values())


@pytest.fixture(scope="module")
def half(exports: Any) -> Network:
    return Network(exports("fp16")[0])


@pytest.fixture(scope="module")
def full(exports: Any) -> Network:
    return Network(exports("fp32")[0])


@pytest.mark.parametrize("which", ["half", "full"])
def test_parser_reports_no_problems(which: str, request: pytest.FixtureRequest) -> None:
    parsed = request.getfixturevalue(which)
    assert parsed.complaints == []
    network = parsed.network
    assert (network.num_inputs, network.num_outputs) == (1, 1)
    points, frames = network.get_input(0), network.get_output(0)
    assert (points.name, tuple(points.shape), points.dtype) == ("points", (-1, 68, 2), trt.float32)
    assert (frames.name, tuple(frames.shape), frames.dtype) == ("frames", (-1, 64, 64, 3), trt.uint8)


def test_casts_occur_only_around_norms(half: Network, full: Network) -> None:
    for network in (half, full):
        assert network.total("NORMALIZATION") == 17  # every norm of tiny, as one layer each
        assert network.kinds()["CAST", "UINT8"] == 1
    norms = half.total("NORMALIZATION")
    # into each norm and out of it; the drawing into the generator; the generator's picture to what is shown
    assert half.kinds()["CAST", "FLOAT"] == half.kinds()["CAST", "HALF"] == norms + 1
    assert full.kinds()["CAST", "FLOAT"] == full.kinds()["CAST", "HALF"] == 0


def test_costly_layers_run_in_half(half: Network) -> None:
    kinds = half.kinds()
    assert {(kind, dtype) for kind, dtype in kinds if kind in HEAVY} == {(kind, "HALF") for kind in HEAVY}
    assert half.total("CONVOLUTION") + half.total("DECONVOLUTION") == 33


def test_float32_layers_are_norms_input_output(half: Network) -> None:
    final, drawing, norms = [], [], []
    for part in half.parts_in_float32():
        kinds = Counter(layer.type.name for layer in part)
        inputs = {
            layer.get_input(j).name
            for layer in part
            for j in range(layer.num_inputs)
            if layer.get_input(j) is not None
        }
        outputs = {layer.get_output(0).dtype for layer in part}
        assert not HEAVY & set(kinds)
        if "points" in inputs:
            drawing.append(part)
        elif trt.uint8 in outputs:
            final.append(part)
        else:
            norms.append(kinds)
            assert kinds["NORMALIZATION"] > 0
            assert set(kinds) <= {
                "NORMALIZATION",
                "CAST",
                "SHUFFLE",
                "ELEMENTWISE",
                "UNSQUEEZE",
                "SLICE",
                "SQUEEZE",
            }
            assert kinds["ELEMENTWISE"] == 2 * kinds["NORMALIZATION"]  # scale and shift
    assert len(final) == len(drawing) == 1
    assert sum(kinds["NORMALIZATION"] for kinds in norms) == 17


def test_network_has_few_shuffles(half: Network) -> None:
    kinds = half.kinds()
    # two attentions take their maps apart and put them together, one layer goes from depth to space
    assert kinds["SHUFFLE", "HALF"] <= 24
    # a norm flattens its planes and takes them back, scale and shift get their two dimensions; the rest is
    # the drawing
    assert kinds["SHUFFLE", "FLOAT"] <= 17 * 5 + 175
    assert len(half.layers) < 4000


@no_gpu
def test_build_without_gpu_is_unverified(engines: dict[tuple[str, str], Path], exports: Any) -> None:
    for (target, precision), path in engines.items():
        manifest = read_tensorrt_manifest(path)
        details = manifest.details
        assert (manifest.format, manifest.precision, manifest.batch, manifest.person) == (
            "tensorrt",
            precision,
            BATCH,
            "anna",
        )
        assert (details["builder"], details["builder_version"], details["target"]) == (
            "tensorrt_rtx",
            trt.__version__,
            target,
        )
        assert details["onnx_sha256"] == sha256(exports(precision)[0])
        assert details["warnings"] == 0
        assert not details["refittable"]
        assert (
            not details["verified"] and details["unverified"] == "there was no NVIDIA GPU where it was built"
        )
        # weights and, of many sizes, kernels
        assert (
            {"fp16": 8, "fp32": 15}[precision]
            < path.stat().st_size / 1e6
            < {"fp16": 20, "fp32": 30}[precision]
        )
    folder = next(iter(engines.values())).parent
    assert len(list(folder.iterdir())) == 2 * len(engines)  # and no leftovers


class RecordingBindings:
    """Bindings whose builder records its configuration and builds nothing."""

    def __init__(self) -> None:
        self.configs: list[Any] = []
        self.profiles: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(trt, name)

    def Builder(self, log: Any) -> Any:
        builder = trt.Builder(log)

        def record(value: Any, records: list[Any]) -> Any:
            records.append(value)
            return value

        return SimpleNamespace(
            create_network=builder.create_network,
            create_builder_config=lambda: record(builder.create_builder_config(), self.configs),
            create_optimization_profile=lambda: record(builder.create_optimization_profile(), self.profiles),
            build_serialized_network=lambda network, config: b"plan",
        )


@pytest.mark.parametrize("precision, refittable", [("fp16", True), ("fp32", False)])
def test_builder_config_matches_settings(exports: Any, precision: str, refittable: bool) -> None:
    path, manifest = exports(precision)
    watched = RecordingBindings()
    job = tensorrt._BuildJob(trt=watched, onnx=path, path=path, manifest=manifest, target="sm_120", gpu=None)
    plan, warnings = tensorrt._build_plan(job, refittable)
    assert (bytes(plan), warnings) == (b"plan", 0)
    (config,), (profile,) = watched.configs, watched.profiles
    assert config.get_flag(trt.BuilderFlag.TF32) == (precision != "fp32")
    assert config.get_flag(trt.BuilderFlag.REFIT) == refittable
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    assert (config.num_compute_capabilities, config.get_compute_capability(0)) == (
        1,
        trt.ComputeCapability.SM120,
    )
    assert config.num_optimization_profiles == 1
    assert [tuple(shape) for shape in profile.get_shape("points")] == [
        (1, 68, 2),
        (BATCH, 68, 2),
        (BATCH, 68, 2),
    ]
    job = replace(job, manifest=replace(manifest, batch=1), target="sm_80+")
    tensorrt._build_plan(job, refittable)
    assert watched.configs[1].num_compute_capabilities == 0 and len(watched.profiles) == 1


@no_gpu
def test_targets_give_different_engines(engines: dict[tuple[str, str], Path]) -> None:
    assert engines["sm_86", "fp16"].read_bytes() != engines["sm_120", "fp16"].read_bytes()


@no_gpu
def test_engine_rejects_edited_files(engines: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    path = tmp_path / "anna.engine"
    source = engines["sm_86", "fp16"]

    def error_after(edit: Callable[[], Any]) -> str:
        shutil.copy(source, path)
        shutil.copy(sidecar(source), sidecar(path))
        edit()
        with pytest.raises(TalkingheadError) as error:
            TensorRTEngine(path)
        assert "\n" not in str(error.value)
        return str(error.value)

    def edit_details(**changed: Any) -> None:
        manifest = read_tensorrt_manifest(path)
        sidecar(path).write_text(
            manifest_with_checksum(replace(manifest, details={**manifest.details, **changed}), path)
        )

    contents = source.read_bytes()
    assert "was cut or edited" in error_after(
        lambda: path.write_bytes(contents[:5000] + b"?" + contents[5001:])
    )
    assert "was cut or edited" in error_after(lambda: path.write_bytes(contents[:-1]))
    assert "anna.engine.json is missing" in error_after(lambda: sidecar(path).unlink())
    assert f"by tensorrt_rtx 1.6.0.1, not by {trt.__version__}" in error_after(
        lambda: edit_details(builder_version="1.6.0.1")
    )
    assert "needs an NVIDIA GPU" in error_after(lambda: None)


@no_gpu
def test_refit_without_gpu_is_refused(
    engines: dict[tuple[str, str], Path], person: Person, tmp_path: Path
) -> None:
    path = tmp_path / "berta.engine"
    with pytest.raises(TalkingheadError, match="cannot be refitted, it was built without a GPU"):
        refit_tensorrt(engines["sm_86", "fp16"], person, path)
    with pytest.raises(TalkingheadError, match="has precision 'fp32', expected 'fp16'"):
        refit_tensorrt(engines["sm_89", "fp32"], person, path, precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_failed_build_leaves_no_files(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TalkingheadError, match="builds for sm_75, .*sm_120.*, not for sm_61"):
        build_tensorrt(person, tmp_path / "anna.engine", target="sm_61")

    def write(person: Person, path: Path, **settings: Any) -> Manifest:
        path.write_bytes(b"no network")
        return Manifest.of(person, "onnx", "fp16", 2)

    monkeypatch.setattr(tensorrt, "write_onnx", write)
    with pytest.raises(TalkingheadError, match="anna.engine: tensorrt_rtx .* does not support it") as error:
        build_tensorrt(person, tmp_path / "anna.engine", target="sm_86")
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
