import pytest
from talkinghead_kernels import backends, use_backend


def test_reference_runs_and_the_others_say_why_not():
    found = backends()
    assert found["reference"] is None
    for name, reason in found.items():
        if reason is None:
            with use_backend(name):
                pass
        else:
            with pytest.raises(RuntimeError, match=reason), use_backend(name):
                pass


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="'abacus'"), use_backend("abacus"):
        pass
