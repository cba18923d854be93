"""What a training run must keep to go on bit for bit: tensors in one safetensors file, nothing pickled."""

import json
from collections.abc import Mapping
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
        config: learning rate, betas and eps.
    """
    capturable = groups[0]["params"][0].device.type == "cuda"  # in a CUDA graph
    betas = config.beta1, config.beta2
    optimiser = torch.optim.Adam(groups, lr=config.learning_rate, betas=betas, eps=config.eps, fused=True, capturable=capturable)
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


def load_state(
    path: Path,
    modules: dict[str, nn.Module],
    optimisers: dict[str, torch.optim.Optimizer],
    earlier: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Fill modules and optimisers with what `save_state` wrote, and return its header.

    Args:
        path: the file.
        modules, optimisers: as they were given to `save_state`.
        earlier: what an earlier version called some of the tensors, None for those it did not have; a file with none of these tensors is
            read by the earlier names, and the tensors that it lacks are left alone.

    Raises:
        TalkingheadError: the file is cut, foreign, or of another configuration.
    """
    targets = _tensors(modules, optimisers)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["header"])
            names = set(file.keys())
            stored_as: dict[str, str | None] = {name: name for name in targets}
            if earlier and names.isdisjoint(earlier):
                stored_as |= earlier
            odd = names ^ {name for name in stored_as.values() if name is not None}
            if odd:
                raise KeyError(sorted(odd)[0])
            for name, target in targets.items():
                source = stored_as[name]
                if source is None:
                    continue
                stored = file.get_tensor(source)
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
