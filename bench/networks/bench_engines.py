"""Time of a frame of exported engines.

ONNX is compared with the baseline network exported the usual way and run in the same runtime; AOTInductor
with the eager path of this project and the baseline network.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.lib.harness import DEVICE, Case, Run
from bench.networks.baseline import BaselineGenerator
from bench.networks.bench_generator import baseline_providers, exported
from talkinghead.engines.precision import DTYPES
from talkinghead.exporters.aoti import write_aoti
from talkinghead.exporters.onnx import write_onnx
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import Model, Person, random_model
from talkinghead.networks import Generator, pack_weights_, prepare_for_inference
from talkinghead.system.onnx_runtime import RUNTIMES

pytestmark = pytest.mark.skipif(
    DEVICE != "cpu", reason="engines on GPUs are measured by bench/gpu/tensorrt.sh"
)


def subject(name: str) -> tuple[Person, BaselineGenerator, Tensor]:
    """Return a feed-forward person with random weights, the baseline network with the same, and a landmark
    image.
    """
    model: Model = random_model(name)
    generator = Generator(model.config.networks, projection=False)
    with torch.no_grad():
        for attention in (generator.down_attention, generator.up_attention):
            attention.gamma.fill_(0.5)
    styles = torch.randn(1, generator.style_length)
    person = Person(model.config, generator, styles, np.full((68, 2), 0.5, np.float32), "", feed_forward=True)
    landmark_input = landmark_image(torch.rand(1, 68, 2), model.config.networks.image_size)
    return person, BaselineGenerator(generator).eval().requires_grad_(False), landmark_input


def frame(
    what: str,
    name: str,
    landmark_input: Tensor,
    precision: str,
    expected: Tensor,
    providers: dict[str, Run],
    **more: Any,
) -> Case:
    layer = f"{name} {landmark_input.shape[2]}x{landmark_input.shape[2]}"
    tolerance = 0.05 if precision == "bf16" else 5e-4
    return Case(
        "engine",
        what,
        layer,
        1,
        DTYPES[precision],
        bytes_moved=0,
        expected=(expected,),
        providers=providers,
        tolerance=tolerance,
        **more,
    )


@pytest.fixture(scope="module")
def onnx(request, tmp_path_factory) -> Callable[[str], Case]:
    """Return the case of each runtime; both run the same two files."""
    for runtime in RUNTIMES:  # both run the baseline network
        pytest.importorskip(runtime, reason=f"{runtime} is not installed: pip install 'talkinghead[onnx]'")
    name = "tiny" if request.config.getoption("quick") else "paper"
    person, baseline, landmark_input = subject(name)
    folder = tmp_path_factory.mktemp("onnx")
    with torch.no_grad():
        expected = baseline(landmark_input, person.styles)
    usual = exported(baseline, landmark_input, person.styles, "fp32", folder / "baseline.onnx")
    write_onnx(person, folder / "ours.onnx", "fp32", 1, "image", "float")
    inputs = {"image": landmark_input.numpy(), "styles": person.styles.numpy()}

    def case(runtime: str) -> Case:
        run = RUNTIMES[runtime](folder / "ours.onnx", "cpu", "fp32")
        providers = {"ours": lambda: torch.from_numpy(run(inputs)), "baseline": usual[runtime]}
        return frame(f"onnx in {runtime}", name, landmark_input, "fp32", expected, providers)

    return case


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_onnx(bench, onnx, runtime):
    bench(onnx(runtime))


@pytest.mark.parametrize("network, precision", [("small", "bf16"), ("paper", "fp32")])
def test_aoti(bench, request, thorough, tmp_path, network, precision):
    if not thorough:
        pytest.skip("is compiled for a minute or two: with --thorough")
    name = "tiny" if request.config.getoption("quick") else network
    person, baseline, landmark_input = subject(name)
    dtype, side = DTYPES[precision], landmark_input.shape[2]
    with torch.no_grad():
        expected = baseline(landmark_input, person.styles)
    final = pack_weights_(prepare_for_inference(copy.deepcopy(person.generator), side, dtype), side)

    def package(portable: bool) -> Run:
        path = Path(tmp_path / f"{portable}.pt2")
        write_aoti(person, path, precision, 1, "image", "float", portable=portable)
        run = torch._inductor.aoti_load_package(str(path))
        return lambda: run(landmark_input, person.styles)

    def eager() -> Tensor:
        return final(landmark_input.to(dtype, memory_format=torch.channels_last), person.styles)

    with torch.inference_mode(False):
        ours, bounds = package(portable=False), {"eager": eager, "portable": package(portable=True)}
    with torch.inference_mode():
        torchs = baseline_providers(baseline, landmark_input, person.styles, dtype)["baseline"]
        bench(
            frame(
                "aoti",
                name,
                landmark_input,
                precision,
                expected,
                {"ours": ours, "baseline": torchs},
                bounds=bounds,
            )
        )
