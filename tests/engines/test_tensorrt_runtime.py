"""What is called of TensorRT and when, and what is refused, without a GPU: on bindings of straw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from straw_tensorrt import SIZE, STYLES, Straw, StrawCard

from conftest import SMALL_NETWORKS
from talkinghead.checkpoint import Person, random_model
from talkinghead.config import Config
from talkinghead.engines import tensorrt, tensorrt_builder, tensorrt_runtime
from talkinghead.engines.manifest import Manifest, sealed, sidecar
from talkinghead.engines.tensorrt_builder import build_tensorrt, refit_tensorrt
from talkinghead.engines.tensorrt_runtime import TensorRTEngine
from talkinghead.errors import TalkingheadError
from talkinghead.files import sha256

DETAILS = {"builder": "tensorrt_rtx", "builder_version": "1.7.1.116", "target": "sm_86", "refittable": True}


def manifest(**other: Any) -> Manifest:
    values: dict[str, Any] = {
        "format": "tensorrt",
        "preset": "tiny",
        "size": SIZE,
        "precision": "fp16",
        "batch": 4,
        "input": "points",
        "output": "uint8",
        "styles": "constant",
        "style_length": STYLES,
        "person": "anna.safetensors",
        "weights": "",
        "reference": [],
        "talkinghead": "0",
        "details": DETAILS,
    }
    return Manifest(**{**values, **other})


def written(folder: Path, described: Manifest) -> Path:
    path = folder / "anna.engine"
    path.write_bytes(b"a plan")
    sidecar(path).write_text(sealed(described, path))
    return path


@pytest.fixture
def straw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Straw:
    return use(Straw(), monkeypatch, tmp_path)


def use(trt: Straw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Straw:
    def require(module: str, extra: str) -> Straw:
        if module != trt.__name__:
            raise TalkingheadError(f"{module}: absent")
        return trt

    monkeypatch.setattr(tensorrt, "require", require)
    monkeypatch.setattr(tensorrt_runtime, "Card", lambda device="cuda": trt.card)
    monkeypatch.setattr(tensorrt_builder, "Card", lambda device="cuda": trt.card)
    monkeypatch.setattr(tensorrt_builder, "this_card", lambda device: trt.card)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return trt


def points(*brightness: float) -> np.ndarray:
    given = np.zeros((len(brightness), 68, 2), np.float32)
    given[:, 0, 0] = brightness
    return given


def test_a_batch_is_shaped_run_captured_once_and_replayed(straw: Straw, tmp_path: Path) -> None:
    engine = TensorRTEngine(written(tmp_path, manifest()))
    frames = engine.run(points(0.2, 1.0))
    assert frames.shape == (2, SIZE, SIZE, 3) and frames.dtype == np.uint8
    assert frames[:, 3, 3, 1].tolist() == [51, 255]
    shown = ("copy", (2, SIZE, SIZE, 3))
    first = [("copy", (2, 68, 2)), ("shape", "points", (2, 68, 2)), "execute", "wait", "capture", "execute while capturing"]
    assert straw.card.calls == [*first, "replay", shown, "wait"]
    straw.card.calls.clear()
    again = engine.run(points(0.4, 0.6))
    assert straw.card.calls == [("copy", (2, 68, 2)), "replay", shown, "wait"]
    assert again[:, 0, 0, 0].tolist() == [102, 153]
    assert frames[:, 0, 0, 0].tolist() == [51, 255]  # not overwritten


def test_each_size_of_batch_has_a_context_and_a_graph_of_its_own(straw: Straw, tmp_path: Path) -> None:
    engine = TensorRTEngine(written(tmp_path, manifest()))
    brightness = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    frames = engine.run(points(*brightness))  # pieces of 4 and of 2
    assert frames[:, 0, 0, 0].tolist() == [0, 51, 102, 153, 204, 255]
    engine.run(points(*brightness))
    assert [context.shapes["points"][0] for context in straw.contexts] == [4, 2]
    assert straw.card.calls.count("capture") == 2


def test_styles_are_an_input_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(Straw(names=("points", "styles", "frames")), monkeypatch, tmp_path)
    engine = TensorRTEngine(written(tmp_path, manifest(styles="input")))
    frames = engine.run(points(0, 0), np.array([[0.2] * STYLES, [1.0] * STYLES], np.float32))
    assert frames[:, 0, 0, 0].tolist() == [51, 255]
    with pytest.raises(TalkingheadError, match="many people"):
        engine.run(points(0))


def test_what_cannot_be_captured_runs_all_the_same(straw: Straw, tmp_path: Path) -> None:
    straw.capturable = False
    engine = TensorRTEngine(written(tmp_path, manifest()))
    assert engine.run(points(0.2))[0, 0, 0, 0] == 51
    assert "capture" not in straw.card.calls and straw.card.calls.count("execute") == 2


def test_kernels_of_tensorrt_rtx_are_kept_between_runs(straw: Straw, tmp_path: Path) -> None:
    path = written(tmp_path, manifest())
    TensorRTEngine(path).run(points(0.2))
    (kept,) = (tmp_path / "cache").rglob("*.kernels")
    assert kept.read_bytes() == b"kernels" and "sm_86" in kept.name and straw.cached == b""
    TensorRTEngine(path).run(points(0.2))
    assert straw.cached == b"kernels"


def test_tensorrt_has_no_such_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    straw = use(Straw("tensorrt", "10.13.0"), monkeypatch, tmp_path)
    details = {**DETAILS, "builder": "tensorrt", "builder_version": "10.13.0"}
    TensorRTEngine(written(tmp_path, manifest(details=details))).run(points(0.2))
    assert straw.contexts[0].settings is None and not (tmp_path / "cache").exists()


REFUSED = {
    "was built by tensorrt_rtx 1.6.0": {"details": {**DETAILS, "builder_version": "1.6.0"}},
    "was built by 'pickle'": {"details": {**DETAILS, "builder": "pickle"}},
    "was built for sm_120, Straw 3090 is sm_86": {"details": {**DETAILS, "target": "sm_120"}},
    "is onnx, a TensorRT engine was expected": {"format": "onnx"},
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_does_not_belong_here_is_never_deserialised(straw: Straw, tmp_path: Path, line: str) -> None:
    with pytest.raises(TalkingheadError, match=line) as told:
        TensorRTEngine(written(tmp_path, manifest(**REFUSED[line])))
    assert "\n" not in str(told.value) and straw.loaded == []


def test_an_edited_engine_is_never_deserialised(straw: Straw, tmp_path: Path) -> None:
    path = written(tmp_path, manifest())
    path.write_bytes(b"a plot")
    with pytest.raises(TalkingheadError, match="was cut or edited"):
        TensorRTEngine(path)
    sidecar(path).unlink()
    with pytest.raises(TalkingheadError, match="anna.engine.json is missing"):
        TensorRTEngine(path)
    assert straw.loaded == []


def test_what_tensorrt_refuses_is_one_line(straw: Straw, tmp_path: Path) -> None:
    path = written(tmp_path, manifest())
    straw.names = ("points", "pictures")
    with pytest.raises(TalkingheadError, match="takes and gives"):
        TensorRTEngine(path)
    straw.names, straw.fails = ("points", "frames"), True
    with pytest.raises(TalkingheadError, match="running failed"):
        TensorRTEngine(path).run(points(0.5))
    straw.refuses = True
    with pytest.raises(TalkingheadError, match=r"cannot load it \(the driver is too old\)"):
        TensorRTEngine(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorrt, "require", lambda module, extra: Straw())
    details = {**DETAILS, "builder": "tensorrt_rtx"}
    with pytest.raises(TalkingheadError, match="needs an NVIDIA GPU, torch sees none as 'cuda'"):
        TensorRTEngine(written(tmp_path, manifest(details=details)))


@pytest.mark.parametrize(
    "wanted, gpu, installed, chosen",
    [
        (None, "sm_86", "both", ("tensorrt", "sm_86")),
        ("sm_86", "sm_86", "both", ("tensorrt", "sm_86")),
        ("sm_120", "sm_86", "both", ("tensorrt_rtx", "sm_120")),
        (None, None, "both", ("tensorrt_rtx", "sm_80+")),
        (None, "sm_86", "rtx", ("tensorrt_rtx", "sm_86")),
        (None, "sm_90", "rtx", r"builds for sm_86, sm_120, not for sm_90; for such a GPU pip install 'talkinghead\[tensorrt\]'"),
        ("sm_90", "sm_90", "both", ("tensorrt", "sm_90")),
        ("rtx3090", None, "both", "target 'rtx3090': expected one such as"),
        ("sm_120", "sm_86", "old", "tensorrt 10.3.0: is too old, 10.12 or newer"),
        (None, None, "none", r"tensorrt: absent, pip install tensorrt, or 'talkinghead\[tensorrt-rtx\]'"),
        ("sm_120", "sm_86", "own", "tensorrt_rtx: absent, pip install tensorrt-rtx$"),
    ],
)
def test_bindings_and_target_are_chosen(monkeypatch: pytest.MonkeyPatch, wanted: Any, gpu: Any, installed: str, chosen: Any) -> None:
    there = {
        "both": [Straw("tensorrt", "11.0.0"), Straw()],
        "rtx": [Straw()],
        "old": [Straw("tensorrt", "10.3.0")],
        "own": [Straw("tensorrt", "11.0.0")],
    }.get(installed, [])

    def require(module: str, extra: str) -> Straw:
        for each in there:
            if each.__name__ == module:
                return each
        raise TalkingheadError(f"{module}: absent, pip install {extra}")

    monkeypatch.setattr(tensorrt, "require", require)
    if isinstance(chosen, str):
        with pytest.raises(TalkingheadError, match=chosen):
            tensorrt.choose_target(wanted, gpu)
    else:
        trt, target = tensorrt.choose_target(wanted, gpu)
        assert (trt.__name__, target) == chosen


@pytest.fixture
def person() -> Person:
    model = random_model(Config("tiny", SMALL_NETWORKS))
    styles = torch.zeros(1, model.generator.style_length)
    return Person(model.config, model.generator, styles, np.full((68, 2), 0.5, np.float32), "", False)


@pytest.fixture
def writing(straw: Straw, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the ONNX, the builder and the probe; what they were told, and in "psnr" what the probe is to find."""
    told: dict[str, Any] = {"built": [], "probed": [], "psnr": [45.678]}

    def write_onnx(person: Person, path: Path, precision: str, batch: int, input: str, output: str, name: str) -> Manifest:
        path.write_bytes(b"onnx")
        return manifest(format="onnx", precision=precision, batch=batch, person=name, details={"opset": 20})

    def build(trt: Any, onnx: Path, path: Path, described: Manifest, target: str, refittable: bool, card: Any) -> tuple[bytes, int]:
        told["built"].append(refittable)
        return f"built for {target}".encode(), 0

    def probe(engine: TensorRTEngine, person: Person) -> float:
        told["probed"].append(straw.loaded[-1])
        found = told["psnr"].pop(0)
        if found < 40:
            raise TalkingheadError("tensorrt: its frames are 7 dB from torch's")
        return found

    monkeypatch.setattr(tensorrt_builder, "write_onnx", write_onnx)
    monkeypatch.setattr(tensorrt_builder, "_build", build)
    monkeypatch.setattr(tensorrt_builder, "probe", probe)
    return told


def test_a_build_is_probed_before_it_is_kept(writing: dict[str, Any], person: Person, tmp_path: Path) -> None:
    path = tmp_path / "new" / "anna.engine"
    details = build_tensorrt(person, path, name="anna.safetensors").details
    assert details["verified"] and details["psnr"] == 45.7 and details["refittable"] and details["target"] == "sm_86"
    assert writing["probed"] == [b"built for sm_86"] == [path.read_bytes()]
    assert sorted(each.name for each in path.parent.iterdir()) == ["anna.engine", "anna.engine.json"]


def test_a_refittable_build_that_is_wrong_is_built_again_without(writing: dict[str, Any], person: Person, tmp_path: Path) -> None:
    writing["psnr"] = [7.0, 45.0]
    details = build_tensorrt(person, tmp_path / "anna.engine").details
    assert writing["built"] == [True, False] and details["verified"] and not details["refittable"]
    writing["psnr"] = [7.0, 7.0]
    with pytest.raises(TalkingheadError, match="7 dB"):
        build_tensorrt(person, tmp_path / "berta.engine")
    assert not [each.name for each in tmp_path.iterdir() if "berta" in each.name or "tensorrt." in each.name]


def test_a_build_for_another_card_is_kept_unverified(writing: dict[str, Any], person: Person, tmp_path: Path) -> None:
    details = build_tensorrt(person, tmp_path / "anna.engine", target="sm_120").details
    assert not details["verified"] and details["unverified"] == "it is for sm_120, the GPU where it was built is sm_86"
    assert writing["probed"] == []


def base(folder: Path, person: Person, **other: Any) -> Path:
    size = person.config.networks.image_size
    return written(folder, manifest(preset=person.config.preset, size=size, **other))


def test_a_refit_is_serialised_probed_and_not_refitted_again(straw: Straw, writing: dict[str, Any], person: Person, tmp_path: Path) -> None:
    path = tmp_path / "berta.engine"
    found = refit_tensorrt(base(tmp_path, person), person, path, "berta.safetensors", precision="fp16")
    assert path.read_bytes() == b"refitted" and writing["probed"] == [b"refitted"] and straw.loaded[0] == b"a plan"
    assert found.person == "berta.safetensors" and not found.details["refittable"]
    assert found.details["base_sha256"] == sha256(tmp_path / "anna.engine")
    with pytest.raises(TalkingheadError, match="cannot be refitted"):
        refit_tensorrt(base(tmp_path, person, details={**DETAILS, "refittable": False}), person, path)


def test_a_base_that_does_not_fit_is_refused(straw: Straw, writing: dict[str, Any], person: Person, tmp_path: Path) -> None:
    path = tmp_path / "berta.engine"
    with pytest.raises(TalkingheadError, match="has precision 'fp16', 'fp32' was expected"):
        refit_tensorrt(base(tmp_path, person), person, path, precision="fp32")
    with pytest.raises(TalkingheadError, match="has preset 'paper'"):
        refit_tensorrt(written(tmp_path, manifest(preset="paper")), person, path)
    with pytest.raises(TalkingheadError, match="has styles 'constant', 'input' was expected"):
        refit_tensorrt(base(tmp_path, person), replace(person, feed_forward=True), path)
    with pytest.raises(TalkingheadError, match="was built for sm_120"):
        refit_tensorrt(base(tmp_path, person, details={**DETAILS, "target": "sm_120"}), person, path)
    assert straw.loaded == [] and not path.exists()


def test_a_refit_that_lacks_a_weight_or_is_wrong_leaves_nothing(
    straw: Straw, writing: dict[str, Any], person: Person, tmp_path: Path
) -> None:
    start, path = base(tmp_path, person), tmp_path / "berta.engine"
    straw.missing = ["generator.out.bias"]
    with pytest.raises(TalkingheadError, match="needs 1 weights that the person lacks, such as 'generator.out.bias'"):
        refit_tensorrt(start, person, path)
    straw.missing, straw.complaint = [], "no weight styles"
    with pytest.raises(TalkingheadError, match=r"do not fit it \(no weight styles\)"):
        refit_tensorrt(start, person, path)
    straw.complaint, straw.fails = "", True
    with pytest.raises(TalkingheadError, match="refitting failed"):
        refit_tensorrt(start, person, path)
    straw.fails, writing["psnr"] = False, [7.0]
    with pytest.raises(TalkingheadError, match="7 dB"):
        refit_tensorrt(start, person, path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["anna.engine", "anna.engine.json"]


class Timings:
    """A builder's configuration of straw that knows timing caches."""

    def __init__(self, refuses: bytes) -> None:
        self.refuses, self.used = refuses, b"?"

    def create_timing_cache(self, kept: bytes) -> bytes:
        return kept

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache == self.refuses:
            return False
        self.used = cache
        return True

    def get_timing_cache(self) -> Any:
        return type("Cache", (), {"serialize": lambda _: b"times"})()


def test_timings_are_kept_for_each_version_and_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    trt, card = Straw("tensorrt", "10.13.0"), StrawCard()
    config = Timings(b"foreign")
    kept = tensorrt_builder._timings(trt, config, card)
    assert config.used == b"" and kept.name == "tensorrt-10.13.0-Straw_3090.timings"
    tensorrt_builder._keep_timings(config, kept)
    tensorrt_builder._timings(trt, config, card)
    assert config.used == b"times"
    kept.write_bytes(b"foreign")
    tensorrt_builder._timings(trt, config, card)
    assert config.used == b""
