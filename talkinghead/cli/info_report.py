"""Contents of the report of `talkinghead info`: versions, devices, kernels, optional parts, models."""

import importlib.util
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..config import PRESETS, preset
from ..errors import TalkingheadError
from ..version import __version__
from ..weights import shipped_models

_OPTIONAL = {
    "av": ("app", "reads and writes video"),
    "PIL": ("app", "reads and writes pictures"),
    "pillow_heif": ("heic", "reads HEIC pictures, which phones take"),
    "tqdm": ("app", "progress bars"),
    "dlib": ("identity", "identity metric, landmarks by dlib"),
    "face_alignment": ("landmarks", "landmarks"),
    "efficientnet_lite_pytorch": ("train", "content loss offline"),
    "tensorboard": ("train", "metrics of a training run"),
    "matplotlib": ("evaluate", "plots of an evaluation"),
    "onnx": ("onnx", "exports engines"),
    "onnxruntime": ("onnx", "runs ONNX engines and ArcFace networks"),
    "openvino": ("onnx", "runs ONNX engines on CPUs, the faster one"),
    "cv2": ("live", "shows a window"),
    "pyvirtualcam": ("live", "a webcam for other programs"),
    "tensorrt": ("tensorrt", "builds and runs TensorRT engines"),
    "tensorrt_rtx": ("tensorrt-rtx", "the same with TensorRT for RTX, for GeForce and workstation GPUs"),
    "webdataset": ("test", "opens prepared data in other programs"),
    "torchmetrics": ("app", "SSIM, PSNR"),
    "skimage": ("app", "warps the nearest frame"),
}
"""Import name -> the extra that installs it, and its purpose."""
_DISTRIBUTIONS = {
    "PIL": ("pillow",),
    "cv2": ("opencv-python", "opencv-python-headless"),
    "dlib": ("dlib-bin", "dlib"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "skimage": ("scikit-image",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
"""Import name -> distributions that may contain it, where their names differ."""


def collect() -> dict[str, Any]:
    """Return versions, devices, presets, the ops' backends, optional parts, the landmark detector and shipped
    models; plain values, for JSON.
    """
    from talkinghead_kernels import backend

    kernels = backend.report()
    return {
        "versions": {
            **kernels["versions"],
            "talkinghead": __version__,
            "python": platform.python_version(),
            "numpy": version("numpy"),
        },
        "devices": kernels["devices"],
        "presets": {name: _count_parameters(name) for name in PRESETS},
        "backends": kernels["backends"],
        "ops": kernels["ops"],
        "runs": kernels["runs"],
        "optional": {name: _version_of(name, extra, purpose) for name, (extra, purpose) in _OPTIONAL.items()},
        "landmarks": _describe_detector(),
        "models": {name: f"{path.stat().st_size / 1e6:.1f} MB" for name, path in shipped_models().items()},
    }


def _count_parameters(name: str) -> dict[str, Any]:
    import torch
    from torch import nn

    from ..networks import Discriminator, Embedder, Generator

    # Spectral norm has no parameters, but its power iterations take seconds.
    config = replace(
        preset(name).networks, spectral_embedder=False, spectral_generator=False, spectral_discriminator=False
    )
    # The device "meta" has shapes only: it allocates no memory and draws no random values.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "E": Embedder(config),
            "G with P": Generator(config),
            "V": Discriminator(config),
        }
    counts = {
        key: sum(parameter.numel() for parameter in network.parameters()) for key, network in networks.items()
    }
    return {"image_size": config.image_size, "parameters": counts}


def _version_of(name: str, extra: str, purpose: str) -> str:
    if importlib.util.find_spec(name) is None:
        return f"not installed ({purpose}): pip install 'talkinghead[{extra}]'"
    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return f"{version(distribution)} ({purpose})"
        except PackageNotFoundError:
            continue
    return f"installed ({purpose})"


def _describe_detector() -> str:
    from ..landmarks.open_detector import open_detector

    try:
        return f"{open_detector().name}: the networks that ship with the package"
    except TalkingheadError as error:
        return f"none: {error}"
