"""The emulator that the other CUDA tests trust: it runs what is right and reports what a GPU would pass over
in silence.
"""

import pytest
import torch

import cuda_emulator

pytestmark = pytest.mark.skipif(cuda_emulator.MISSING is not None, reason=str(cuda_emulator.MISSING))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return cuda_emulator.Library("faults", tmp_path_factory.mktemp("faults"))


def sums(library, fault=0, blocks=8, cluster=4, shared=64):
    out = library.empty(torch.zeros(blocks))
    library.call("run_sums", out, blocks, cluster, shared, fault)
    return out


@pytest.mark.parametrize("schedule", [0, 1, 2, 3])
@pytest.mark.parametrize("cluster", [1, 2, 4, 8])
def test_correct_kernels_give_correct_sum(library, cluster, schedule):
    library.on("sm_90", schedule)
    assert sums(library, cluster=cluster).tolist() == [255 * 128.0] * 8
    assert library.launches() == [f"grid 8 1 1 block 256 1 1 cluster {cluster} shared 64"]


@pytest.mark.parametrize(
    "fault, message",
    [
        (1, "ends between arrival and wait"),
        (2, "waits for ever at"),  # a thread has left
        (3, "waits for ever at __shfl_xor_sync"),  # a lane of the mask does not come
        (4, "is at __syncthreads"),  # two barriers for one
        (6, "outside of its buffer or shared memory"),
        (7, "misaligned"),
        (8, "outside of its buffer or shared memory"),
        (9, "before the first cluster barrier"),
        (10, "outside of its buffer or shared memory"),  # the other block has ended
        (11, "spin for ever"),
    ],
)
def test_faults_are_reported(library, fault, message):
    library.on("sm_90")
    with pytest.raises(RuntimeError, match=message):
        sums(library, fault)
    assert sums(library).tolist() == [255 * 128.0] * 8


def test_missing_barrier_is_detected(library):
    wrong = []
    for schedule in (0, 1, 2):
        library.on("sm_90", schedule)
        wrong.append(sums(library, 5).tolist() != [255 * 128.0] * 8)
    assert any(wrong)


def test_oversized_launches_are_rejected(library):
    library.on("sm_80")
    with pytest.raises(
        RuntimeError, match="launched in clusters, which the device or the kernel's code lacks"
    ):
        sums(library)
    with pytest.raises(RuntimeError, match="more than the device has"):
        sums(library, cluster=1, shared=200 << 10)
    library.on("sm_90")
    sums(library, cluster=1, shared=200 << 10)
    with pytest.raises(RuntimeError, match="no multiple of the cluster"):
        sums(library, blocks=6)


def test_grid_barrier_needs_cooperative_launch(library):
    library.on("sm_90")
    out = library.empty(torch.zeros(5 * 64))
    library.call("run_grid_barrier", torch.zeros(1, dtype=torch.int32), out, 5, 1)
    assert (out == 5).all()
    with pytest.raises(RuntimeError, match="spin for ever|waits for ever"):
        library.call("run_grid_barrier", torch.zeros(1, dtype=torch.int32), out, 5, 0)
