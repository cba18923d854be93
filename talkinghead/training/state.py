"""What a training run must keep to resume bit for bit: tensors in one safetensors file, nothing pickled."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..config import AdamConfig
from ..errors import TalkingheadError
from ..tensor_file import checksum, write_tensors

VERSION = 1


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


class DamagedStateError(TalkingheadError):
    """The file cannot be read as it was written, so that an earlier one may take its place."""


def save_state(
    path: Path,
    modules: dict[str, nn.Module],
    optimisers: dict[str, torch.optim.Optimizer],
    header: dict[str, Any],
    keep: Path | None = None,
) -> None:
    """Write parameters, buffers, optimiser state, a header of plain values, and the checksum of all these.

    Args:
        path: the file to write.
        modules, optimisers: by name.
        header: what `load_state` is to return.
        keep: where what stood at `path` is moved to.

    Raises:
        TalkingheadError: the file cannot be written; where it was written instead is said.
    """
    write_tensors(path, _tensors(modules, optimisers), {"kind": "state", "version": VERSION, "run": header}, keep)


def load_state(
    path: Path,
    modules: dict[str, nn.Module],
    optimisers: dict[str, torch.optim.Optimizer],
    earlier: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Fill modules and optimisers with what `save_state` wrote, by this version or one before, and return its header.

    Args:
        path: the file.
        modules, optimisers: as they were given to `save_state`.
        earlier: what an earlier version called some of the tensors, None for those it did not have; a file with none of these tensors is
            read by the earlier names, and the tensors that it lacks are left alone.

    Raises:
        DamagedStateError: the file is cut, changed, or none that `save_state` wrote.
        TalkingheadError: it is of another configuration, or of a later version.
    """
    targets = _tensors(modules, optimisers)
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file)
            names = set(file.keys())
            stored_as: dict[str, str | None] = {name: name for name in targets}
            if earlier and names.isdisjoint(earlier):
                stored_as |= earlier
            sources = {name: source for name, source in stored_as.items() if source is not None}
            other = sorted(names ^ set(sources.values())) + sorted(
                name
                for name, source in sources.items()
                if source in names and tuple(file.get_slice(source).get_shape()) != tuple(targets[name].shape)
            )
            if other:
                raise TalkingheadError(_problem(path, f"{other[0]} does not fit"))
            for name, source in sources.items():
                stored, target = file.get_tensor(source), targets[name]
                if stored.dtype != target.dtype and source == name:  # an earlier version's may have had another type
                    raise ValueError(f"{name} is {stored.dtype}")
                with torch.no_grad():
                    target.copy_(stored)
    except TalkingheadError:
        raise
    except KeyError as error:
        raise DamagedStateError(_problem(path, f"it lacks {error}")) from error
    except (SafetensorError, OSError, TypeError, ValueError, RecursionError) as error:
        raise DamagedStateError(_problem(path, str(error).splitlines()[0] if str(error) else type(error).__name__)) from error
    return header


def _problem(path: Path, reason: str) -> str:
    return f"{path}: is not a state of this run ({reason}); remove its folder to start again, or name another folder"


def _header(path: Path, file: Any) -> dict[str, Any]:
    """Return what the run said of itself, verified."""
    metadata = file.metadata() or {}
    if "header" in metadata:  # until version 1 there was no checksum
        header = json.loads(metadata["header"])
    else:
        fields = json.loads(metadata["talkinghead"])
        if fields["kind"] != "state":
            raise ValueError(f"is a {fields['kind']}")
        if checksum(metadata["talkinghead"], _Stored(file)) != metadata["sha256"]:
            raise ValueError("its checksum does not match")
        if fields["version"] != VERSION:
            raise TalkingheadError(
                f"{path}: is of version {fields['version']}, this talkinghead reads {VERSION}; install the other version"
            )
        header = fields["run"]
    if not isinstance(header, dict):
        raise TypeError(f"its header is a {type(header).__name__}")
    return header


class _Stored(Mapping[str, Tensor]):
    """The tensors of an open file, each read when it is looked up."""

    def __init__(self, file: Any) -> None:
        self._file, self._names = file, list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _tensors(modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    found = {f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.state_dict().items()}
    for name, optimiser in optimisers.items():
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            for key, value in optimiser.state[parameter].items():
                found[f"{name}.{index}.{key}"] = value
    return found
