"""What is installed here, and what would run."""

import importlib.util
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from talkinghead_kernels import backend
from torch import nn

from .checkpoint import shipped_models
from .config import PRESETS, preset
from .errors import TalkingheadError
from .landmarks.detect import open_detector
from .networks import Discriminator, Embedder, Generator
from .version import __version__

_OPTIONAL = {
    "av": ("app", "reads and writes video"),
    "PIL": ("app", "reads and writes pictures"),
    "pillow_heif": ("heic", "reads HEIC pictures, which phones take"),
    "tqdm": ("app", "progress bars"),
    "dlib": ("dlib", "landmarks offline, identity metric"),
    "face_alignment": ("landmarks", "landmarks"),
    "efficientnet_lite_pytorch": ("train", "content loss offline"),
    "tensorboard": ("train", "figures of a training run"),
    "matplotlib": ("evaluate", "plots of an evaluation"),
    "onnx": ("onnx", "exports engines"),
    "onnxruntime": ("onnx", "runs ONNX engines and ArcFace networks"),
    "openvino": ("onnx", "runs ONNX engines on CPUs, the faster one"),
    "cv2": ("live", "shows a window"),
    "pyvirtualcam": ("live", "is a webcam for other programs"),
    "tensorrt": ("tensorrt", "builds and runs TensorRT engines"),
    "tensorrt_rtx": ("tensorrt-rtx", "the same, of TensorRT for RTX, for GeForce and workstation GPUs"),
    "webdataset": ("test", "opens prepared data elsewhere"),
    "torchmetrics": ("app", "SSIM, PSNR"),
    "skimage": ("app", "warps the nearest frame"),
}
"""Import name -> the extra that brings it, and what it is for."""
_DISTRIBUTIONS = {
    "PIL": ("pillow",),
    "cv2": ("opencv-python", "opencv-python-headless"),
    "dlib": ("dlib-bin", "dlib"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "skimage": ("scikit-image",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
"""Import name -> what may have brought it, where that has another name."""


def info() -> dict[str, Any]:
    """Versions, devices, presets, the ops' backends, optional parts, the landmark detector and shipped models; plain values, for JSON."""
    kernels = backend.report()
    return {
        "versions": {
            **kernels["versions"],
            "talkinghead": __version__,
            "python": platform.python_version(),
            "numpy": version("numpy"),
        },
        "devices": kernels["devices"],
        "presets": {name: _parameters(name) for name in PRESETS},
        "backends": kernels["backends"],
        "ops": kernels["ops"],
        "runs": kernels["runs"],
        "optional": {name: _part(name, extra, what) for name, (extra, what) in _OPTIONAL.items()},
        "landmarks": _landmarks(),
        "models": {name: f"{path.stat().st_size / 1e6:.1f} MB" for name, path in shipped_models().items()},
    }


def _parameters(name: str) -> dict[str, Any]:
    # spectral norm has no parameters, but its power iterations take seconds
    config = replace(preset(name).networks, spectral_embedder=False, spectral_generator=False, spectral_discriminator=False)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes alone: nothing is drawn or allocated
        networks: dict[str, nn.Module] = {"E": Embedder(config), "G with P": Generator(config), "V": Discriminator(config)}
    counts = {key: sum(parameter.numel() for parameter in network.parameters()) for key, network in networks.items()}
    return {"image_size": config.image_size, "parameters": counts}


def _part(name: str, extra: str, what: str) -> str:
    if importlib.util.find_spec(name) is None:
        return f"not installed ({what}): pip install 'talkinghead[{extra}]'"
    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return f"{version(distribution)} ({what})"
        except PackageNotFoundError:
            continue
    return f"installed ({what})"


def _landmarks() -> str:
    try:
        return open_detector().choice_reason
    except TalkingheadError as error:
        return f"none: {error}"
