"""A frame of what `talkinghead export` writes: ONNX against the stock network exported the usual way, in the same runtime, and AOTInductor
against our eager path and the stock network."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.harness import DEVICE, Case, Run
from bench.networks.bench_generator import exported, stock_providers
from bench.networks.stock import StockGenerator
from talkinghead.checkpoint import Model, Person, random_model
from talkinghead.engines.aoti import write_aoti
from talkinghead.engines.frame import DTYPES
from talkinghead.engines.onnx import write_onnx
from talkinghead.engines.sessions import RUNTIMES
from talkinghead.landmarks.draw import landmark_image
from talkinghead.networks import Generator, final_generator, pack_

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="engines on GPUs are measured by bench/tensorrt.sh")


def subject(name: str) -> tuple[Person, StockGenerator, Tensor]:
    """A feed-forward person with random weights, the stock network with the same, and a landmark image."""
    model: Model = random_model(name)
    generator = Generator(model.config.networks, projection=False)
    with torch.no_grad():
        for attention in (generator.down_attention, generator.up_attention):
            attention.gamma.fill_(0.5)
    styles = torch.randn(1, generator.style_length)
    person = Person(model.config, generator, styles, np.full((68, 2), 0.5, np.float32), "", feed_forward=True)
    drawn = landmark_image(torch.rand(1, 68, 2), model.config.networks.image_size)
    return person, StockGenerator(generator).eval().requires_grad_(False), drawn


def frame(what: str, name: str, drawn: Tensor, precision: str, expected: Tensor, providers: dict[str, Run], **more: Any) -> Case:
    layer = f"{name} {drawn.shape[2]}x{drawn.shape[2]}"
    tolerance = 0.05 if precision == "bf16" else 5e-4
    return Case(
        "engine", what, layer, 1, DTYPES[precision], moved=0, expected=(expected,), providers=providers, tolerance=tolerance, **more
    )


@pytest.fixture(scope="module")
def onnx(request, tmp_path_factory) -> Callable[[str], Case]:
    """The case of each runtime; both run the same two files."""
    for runtime in RUNTIMES:  # both run the stock network
        pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")
    name = "tiny" if request.config.getoption("quick") else "paper"
    person, stock, drawn = subject(name)
    folder = tmp_path_factory.mktemp("onnx")
    with torch.no_grad():
        expected = stock(drawn, person.styles)
    usual = exported(stock, drawn, person.styles, "fp32", folder / "stock.onnx")
    write_onnx(person, folder / "ours.onnx", "fp32", 1, "image", "float")
    given = {"image": drawn.numpy(), "styles": person.styles.numpy()}

    def case(runtime: str) -> Case:
        run = RUNTIMES[runtime](folder / "ours.onnx", "cpu", "fp32")
        providers = {"ours": lambda: torch.from_numpy(run(given)), "stock": usual[runtime]}
        return frame(f"onnx in {runtime}", name, drawn, "fp32", expected, providers)

    return case


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_onnx(bench, onnx, runtime):
    bench(onnx(runtime))


@pytest.mark.parametrize("network, precision", [("small", "bf16"), ("paper", "fp32")])
def test_aoti(bench, request, thorough, tmp_path, network, precision):
    if not thorough:
        pytest.skip("is compiled for a minute or two: with --thorough")
    name = "tiny" if request.config.getoption("quick") else network
    person, stock, drawn = subject(name)
    dtype, side = DTYPES[precision], drawn.shape[2]
    with torch.no_grad():
        expected = stock(drawn, person.styles)
    final = pack_(final_generator(copy.deepcopy(person.generator), side, dtype), side)

    def package(portable: bool) -> Run:
        path = Path(tmp_path / f"{portable}.pt2")
        write_aoti(person, path, precision, 1, "image", "float", portable=portable)
        run = torch._inductor.aoti_load_package(str(path))
        return lambda: run(drawn, person.styles)

    def eager() -> Tensor:
        return final(drawn.to(dtype, memory_format=torch.channels_last), person.styles)

    with torch.inference_mode(False):
        ours, yardsticks = package(portable=False), {"eager": eager, "portable": package(portable=True)}
    with torch.inference_mode():
        torchs = stock_providers(stock, drawn, person.styles, dtype)["stock"]
        bench(frame("aoti", name, drawn, precision, expected, {"ours": ours, "stock": torchs}, yardsticks=yardsticks))
