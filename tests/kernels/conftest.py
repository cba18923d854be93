import pytest
import torch
from runnable import DEVICES, RUNNABLE
from talkinghead_kernels import use_backend


@pytest.fixture
def poisoned_allocations():
    """Fresh memory is filled with NaN, so that what is not written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=RUNNABLE)
def device(request):
    """Of each backend in turn, which is chosen."""
    with use_backend(request.param):
        yield DEVICES[request.param]


@pytest.fixture
def threads():
    """Sets the number of threads; it is put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
