"""What a training run must keep to go on bit for bit: tensors in one safetensors file, nothing pickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import AdamConfig
from ..errors import TalkingheadError
from ..files import replacing


def adam(groups: list[dict[str, Any]], config: AdamConfig) -> torch.optim.Adam:
    """Adam with its state made at once, so that it can be saved and filled before the first step.

    Args:
        groups: parameter groups with "params", and "lr" where it is not the configuration's.
        config: learning rate and betas.
    """
    capturable = groups[0]["params"][0].device.type == "cuda"  # in a CUDA graph
    optimiser = torch.optim.Adam(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True, capturable=capturable)
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimiser


def save_state(path: Path, modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer], header: dict[str, Any]) -> None:
    """Write parameters, buffers, optimiser state and a header of plain values.

    Raises:
        TalkingheadError: the file cannot be written.
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in _tensors(modules, optimisers).items()}
    with replacing(path) as beside:
        save_file(tensors, beside, {"header": json.dumps(header)})


def load_state(path: Path, modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer]) -> dict[str, Any]:
    """Fill modules and optimisers with what `save_state` wrote, and return its header.

    Raises:
        TalkingheadError: the file is cut, foreign, or of another configuration.
    """
    targets = _tensors(modules, optimisers)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["header"])
            names = set(file.keys())
            if names != set(targets):
                raise KeyError(sorted(names ^ set(targets))[0])
            for name, target in targets.items():
                stored = file.get_tensor(name)
                if stored.shape != target.shape:
                    raise KeyError(name)
                with torch.no_grad():
                    target.copy_(stored)
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise TalkingheadError(
            f"{path}: is not a state of this run ({str(error).splitlines()[0]}); remove it to start again, or name another folder"
        ) from error
    return header


def _tensors(modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    found = {f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.state_dict().items()}
    for name, optimiser in optimisers.items():
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            for key, value in optimiser.state[parameter].items():
                found[f"{name}.{index}.{key}"] = value
    return found
