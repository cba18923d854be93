"""Sequences of small convolutions against torch and torch.compile: the layers of the landmark network."""

import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels.conv_sequence import conv_sequence_reference

from bench.lib.harness import DEVICE, Case, by_backend, compiled, size
from talkinghead.landmarks.network import SHIPPED, SIZE, load_landmark_network
from talkinghead.landmarks.network_blocks import load_on_device, prepare_for_inference


@pytest.mark.skipif(DEVICE != "cpu", reason="the op is for CPUs")
@pytest.mark.parametrize("pictures", [1, 16])
def test_conv_sequence(bench, pictures):
    network = load_landmark_network(SHIPPED)
    baseline = prepare_for_inference(network).features
    sequence = load_on_device(network, "cpu").features.sequence
    x = torch.randn(pictures, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    reference = compiled(conv_sequence_reference)
    with torch.inference_mode():
        expected = baseline(x)
        bench(
            Case(
                "conv_sequence",
                "forward",
                "landmark network",
                pictures,
                torch.float32,
                size(x, expected),
                (expected,),
                by_backend(ops.conv_sequence, x, sequence)
                | {"baseline": lambda: baseline(x), "compile": lambda: reference(x, *sequence)},
                tolerance=1e-5,
            )
        )
