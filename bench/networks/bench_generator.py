"""Time of a frame of the generator, compared with the baseline network, compilers and runtimes."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.lib.harness import DEVICE, Case, Run, compiled, size
from bench.lib.timing import Budget, time_interleaved
from bench.networks.baseline import BaselineGenerator
from talkinghead.config import preset
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.networks import Generator, pack_weights_, prepare_for_inference
from talkinghead.system.signal_stack import preserve_signal_stack
from talkinghead.training.throughput import op_flops

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("network", ["paper", "small"])
def test_generator(bench, request, tmp_path, network, precision):
    quick = request.config.getoption("quick")
    config, dtype = preset("tiny" if quick else network).networks, DTYPES[precision]
    generator = Generator(config, projection=False).to(DEVICE)
    with torch.no_grad():
        for attention in (generator.down_attention, generator.up_attention):
            attention.gamma.fill_(0.5)  # 0 at the start, and then nobody would have to attend
    landmark_input = landmark_image(torch.rand(1, 68, 2, device=DEVICE), config.image_size)
    styles = torch.randn(1, generator.style_length, device=DEVICE)
    baseline, final = (
        BaselineGenerator(generator).eval().requires_grad_(False),
        prepare_for_inference(generator, config.image_size, dtype),
    )
    mine = landmark_input.to(dtype, memory_format=torch.channels_last)
    with torch.no_grad():  # in inference mode torch does not show what a convolution is made of
        convolutions = Convolutions(final, mine, styles)
    pack_weights_(final, config.image_size)
    with torch.inference_mode():
        expected = baseline(landmark_input, styles)
        providers: dict[str, Run] = {
            "ours": lambda: final(mine, styles),
            **baseline_providers(baseline, landmark_input, styles, dtype),
        }
        if DEVICE == "cpu":
            providers |= exported(baseline, landmark_input, styles, precision, tmp_path / "baseline.onnx")
        bench(
            Case(
                "generator",
                network,
                f"{config.image_size}x{config.image_size}",
                1,
                dtype,
                bytes_moved=size(*final.parameters()),
                expected=(expected,),
                providers=providers,
                bounds={"convolutions": convolutions.replay},
                flops=convolutions.flops,
                tolerance=0.05 if dtype == torch.bfloat16 else 5e-4,  # openvino is 2e-4 away in float32
            )
        )


def baseline_providers(
    baseline: BaselineGenerator, landmark_input: Tensor, styles: Tensor, dtype: torch.dtype
) -> dict[str, Run]:
    """Return the baseline network in the faster of two memory formats, and torch.compile of it."""
    networks = {}
    for name, memory_format in (("nchw", torch.contiguous_format), ("channels_last", torch.channels_last)):
        network = copy.deepcopy(baseline).to(dtype=dtype, memory_format=memory_format)
        networks[name] = network, landmark_input.to(dtype, memory_format=memory_format)
    runs = {name: partial(network, image, styles) for name, (network, image) in networks.items()}
    best = "channels_last"
    if DEVICE == "cpu":
        times = time_interleaved(runs, Budget(0.0, 3, 3))
        best = min(runs, key=lambda name: times[name].median)
    network, image = networks[best]
    return {"baseline": runs[best], "compile": partial(compiled(network, frozen=True), image, styles)}


def exported(
    baseline: BaselineGenerator, landmark_input: Tensor, styles: Tensor, precision: str, path: Path
) -> dict[str, Run]:
    """Return the baseline network exported the usual way, in onnxruntime and openvino."""
    import onnxruntime
    import openvino

    with torch.inference_mode(False), torch.no_grad():
        torch.onnx.export(
            baseline,
            (landmark_input.clone(), styles.clone()),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    inputs = [landmark_input.numpy(), styles.numpy()]
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    with preserve_signal_stack():
        network = openvino.Core().compile_model(str(path), "CPU", settings)
    runs: dict[str, Run] = {"openvino": lambda: torch.from_numpy(network(inputs)[0])}
    if precision == "fp32":  # its CPU kernels know no bfloat16
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry(
            "session.force_spinning_stop", "1"
        )  # or its threads take time from whoever comes next
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        named = dict(zip((node.name for node in session.get_inputs()), inputs, strict=True))
        runs["onnxruntime"] = lambda: torch.from_numpy(session.run(None, named)[0])
    return runs


class Convolutions(TorchDispatchMode):
    """The convolutions of one forward as torch runs them, to be run again by themselves: direct convolution
    takes no less for these layers.

    Attributes:
        flops: of all of them.
    """

    def __init__(self, network: Generator, *image: Tensor) -> None:
        super().__init__()
        self._calls: list[tuple[Any, ...]] = []
        self.flops = 0
        with self:
            network(*image)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self._calls.append(args)
            self.flops += op_flops(func, args, kwargs or {}, result)
        return result

    def replay(self) -> None:
        for call in self._calls:
            torch.ops.aten.convolution.default(*call)
