"""Tests of how AdaIN's CUDA kernels divide the layers of the generator over a GPU."""

import pytest
import torch
from talkinghead_kernels.adain import adain_reference

import cuda_emulator
from support.cuda_adain_cases import DTYPES, forward, has_clusters, planned, problem

pytestmark = pytest.mark.skipif(cuda_emulator.MISSING is not None, reason=str(cuda_emulator.MISSING))


@pytest.fixture(scope="module", params=cuda_emulator.CODE)
def library(request, tmp_path_factory):
    return cuda_emulator.build("adain", request.param, tmp_path_factory)


@pytest.fixture(autouse=True)
def _placed(request):
    yield
    if "library" in request.fixturenames:
        request.getfixturevalue("library").free()


# The plans of the generator's layers (channels, side) on sm_90, NCHW: blocks per cluster x threads x packs of
# 16 bytes of each tensor that a thread keeps, for forward and backward at batch 1 and batch 8 (batch 32 is
# like batch 8). All of them read a tensor once.
LAYERS = {
    (torch.bfloat16, 64, 256): ("4x512x4", "2x512x8", "4x512x4", "4x512x4"),
    (torch.bfloat16, 128, 128): ("2x256x4", "1x512x4", "2x256x4", "1x512x4"),
    (torch.bfloat16, 256, 64): ("1x128x4", "1x128x4", "1x128x4", "1x128x4"),
    (torch.bfloat16, 512, 32): ("1x32x4", "1x32x4", "1x32x4", "1x32x4"),
    (torch.bfloat16, 512, 16): ("1x32x1", "1x32x1", "1x32x1", "1x32x1"),
    (torch.float32, 64, 256): ("4x512x8", "4x512x8", "8x512x4", "8x512x4"),
    (torch.float32, 128, 128): ("2x512x4", "1x512x8", "2x512x4", "2x512x4"),
    (torch.float32, 256, 64): ("1x256x4", "1x256x4", "1x256x4", "1x256x4"),
    (torch.float32, 512, 32): ("1x64x4", "1x64x4", "1x64x4", "1x64x4"),
    (torch.float32, 512, 16): ("1x32x4", "1x32x4", "1x32x4", "1x32x4"),
}

# Layers that no block or cluster can keep and that are read twice: (device, channels_last, dtype, side,
# tensors kept).
STREAMED = {
    *(("sm_80", False, torch.float32, 256, held) for held in (1, 2)),
    ("sm_80", False, torch.bfloat16, 256, 2),
    *(
        ("sm_80", True, dtype, side, held)
        for dtype in DTYPES[:2]
        for side in (64, 128, 256)
        for held in (1, 2)
    ),
    *(("sm_90", True, dtype, 256, held) for dtype in DTYPES[:2] for held in (1, 2)),
    *(("sm_90", True, dtype, 128, 2) for dtype in DTYPES[:2]),
}


@pytest.mark.parametrize("dtype, channels, side", LAYERS)
def test_generator_layers_are_read_once(library, dtype, channels, side):
    if not has_clusters(library):
        pytest.skip("code for compute_80 has no clusters, so not these plans")
    plans = []
    for held in (1, 2):
        for batch in (1, 8, 32):
            plan = planned(library, "sm_90", dtype, (batch, channels, side, side), held=held)
            assert plan.on_chip and plan.pack_bytes == 16
            blocks = -(-plan.tiles // plan.tiles_per_block) * plan.parts
            assert blocks >= 132  # every multiprocessor has work
            if batch < 32:
                plans.append(f"{plan.parts}x{plan.threads}x{plan.packs}")
            for device in ("sm_80", "sm_90"):
                for last in (False, True):
                    once = planned(library, device, dtype, (batch, channels, side, side), last, held).on_chip
                    assert once == ((device, last, dtype, side, held) not in STREAMED)
    assert tuple(plans) == LAYERS[dtype, channels, side]


@pytest.mark.parametrize("dtype, channels, side", LAYERS)
@pytest.mark.parametrize("last", [False, True])
def test_plans_cover_rows_and_fit_device(library, dtype, channels, side, last):
    for device, limit, clusters in (("sm_80", 163, False), ("sm_90", 227, True), ("sm_120", 99, True)):
        for held in (1, 2):
            plan = planned(library, device, dtype, (3, channels, side + 1, side), last, held)
            assert plan.parts % plan.ranks == 0 and 1 <= plan.ranks <= (8 if clusters else 1)
            assert (
                plan.threads % 32 == 0
                and plan.threads * plan.tiles_per_block <= 1024
                and plan.shared_bytes <= limit << 10
            )
            if plan.on_chip:
                assert plan.parts * (plan.threads // plan.lanes) * plan.packs >= plan.rows


# of AdaIN the kernels that a plane of 64x64 can need, without and with clusters
FEW_KERNELS = """
#include "adain_forward.cuh"
namespace talkinghead {
namespace {
template __global__ void forward_on_chip<float, 16, false, 4>(
  const __grid_constant__ Forward<float>, const __grid_constant__ Layout);
template __global__ void forward_statistics<float, 16, false>(
  const __grid_constant__ Forward<float>, const __grid_constant__ Layout);
}
}
"""


@pytest.mark.skipif(cuda_emulator.NO_PTX is not None, reason=str(cuda_emulator.NO_PTX))
def test_old_code_is_not_launched_in_clusters(tmp_path, tmp_path_factory):
    # As if the newest PTX in the library were of compute_80: the device has clusters, the kernel does not.
    source = tmp_path / "few_kernels.cu"
    source.write_text(FEW_KERNELS)
    folder = tmp_path_factory.getbasetemp() / "cuda_emulator"
    folder.mkdir(exist_ok=True)
    library = cuda_emulator.Library("adain", folder, cuda_emulator.ptx_of(source, "compute_80"))
    library.on("sm_90")
    x, _, scale, bias, *_ = problem((1, 2, 64, 64), torch.float32)
    y, _, _, _, plan = forward(library, x, None, scale, bias, False)
    torch.testing.assert_close(y, adain_reference(x, scale, bias, 1e-4, True)[0])  # was NaN
    assert library.ptx_launches == 1 and plan.ranks == 1
    library.free()
