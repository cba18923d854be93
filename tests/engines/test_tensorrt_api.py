"""Choice of TensorRT's bindings and target, on fake bindings."""

from typing import Any

import pytest

from support.fake_tensorrt import (
    FakeTensorRT,
)
from talkinghead.engines import tensorrt_api
from talkinghead.errors import TalkingheadError


@pytest.mark.parametrize(
    "requested, gpu, installed, chosen",
    [
        (None, "sm_86", "both", ("tensorrt", "sm_86")),
        ("sm_86", "sm_86", "both", ("tensorrt", "sm_86")),
        ("sm_120", "sm_86", "both", ("tensorrt_rtx", "sm_120")),
        (None, None, "both", ("tensorrt_rtx", "sm_80+")),
        (None, "sm_86", "rtx", ("tensorrt_rtx", "sm_86")),
        (
            None,
            "sm_90",
            "rtx",
            r"builds for sm_86, sm_120, not for sm_90; for such a GPU pip install 'talkinghead\[tensorrt\]'",
        ),
        ("sm_90", "sm_90", "both", ("tensorrt", "sm_90")),
        ("rtx3090", None, "both", "target 'rtx3090': is no GPU's compute capability; write one"),
        ("sm_120", "sm_86", "old", "tensorrt 10.3.0: is too old, expected 10.12 or newer"),
        (None, None, "none", r"tensorrt: absent, pip install tensorrt, or 'talkinghead\[tensorrt-rtx\]'"),
        ("sm_120", "sm_86", "own", "tensorrt_rtx: absent, pip install tensorrt-rtx$"),
    ],
)
def test_choose_target_selects_bindings(
    monkeypatch: pytest.MonkeyPatch, requested: Any, gpu: Any, installed: str, chosen: Any
) -> None:
    installed_bindings = {
        "both": [FakeTensorRT("tensorrt", "11.0.0"), FakeTensorRT()],
        "rtx": [FakeTensorRT()],
        "old": [FakeTensorRT("tensorrt", "10.3.0")],
        "own": [FakeTensorRT("tensorrt", "11.0.0")],
    }.get(installed, [])

    def require(module: str, extra: str) -> FakeTensorRT:
        for bindings in installed_bindings:
            if bindings.__name__ == module:
                return bindings
        raise TalkingheadError(f"{module}: absent, pip install {extra}")

    monkeypatch.setattr(tensorrt_api, "require", require)
    if isinstance(chosen, str):
        with pytest.raises(TalkingheadError, match=chosen):
            tensorrt_api.choose_target(requested, gpu)
    else:
        trt, target = tensorrt_api.choose_target(requested, gpu)
        assert (trt.__name__, target) == chosen
