"""State files, from which a training run resumes bit for bit: safetensors, nothing pickled."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..config import AdamConfig
from ..errors import TalkingheadError
from ..system.tensor_file import checksum, write_tensors

VERSION = 1


def adam(groups: list[dict[str, Any]], config: AdamConfig) -> torch.optim.Adam:
    """Return Adam with its state created, so that it can be saved and loaded before the first step.

    Args:
        groups: parameter groups with "params", and "lr" where it differs from the configuration's.
        config: learning rate, betas and eps.
    """
    capturable = groups[0]["params"][0].device.type == "cuda"  # allows CUDA graphs
    betas = config.beta1, config.beta2
    optimiser = torch.optim.Adam(
        groups, lr=config.learning_rate, betas=betas, eps=config.eps, fused=True, capturable=capturable
    )
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimiser


class DamagedStateError(TalkingheadError):
    """The file is damaged, so an earlier one may be used instead."""


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
        header: values that `load_state` returns.
        keep: path to which an existing file is moved.

    Raises:
        TalkingheadError: the file cannot be written; the message says where it was written instead.
    """
    write_tensors(
        path, _tensors(modules, optimisers), {"kind": "state", "version": VERSION, "run": header}, keep
    )


def load_state(
    path: Path,
    modules: dict[str, nn.Module],
    optimisers: dict[str, torch.optim.Optimizer],
    earlier: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Load a file of `save_state`, by this version or an earlier one, into modules and optimisers, and return
    its header.

    Args:
        path: the file.
        modules, optimisers: as for `save_state`.
        earlier: names that an earlier version had for some of the tensors, None for those it did not have; a
            file with none of these tensors is read by the earlier names, and the tensors that it lacks keep
            their values.

    Raises:
        DamagedStateError: the file is truncated, changed, or not written by `save_state`.
        TalkingheadError: it is of another configuration, or of a later version.
    """
    targets = _tensors(modules, optimisers)
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file)
            sources = _source_names(targets, set(file.keys()), earlier or {})
            _check_names_and_shapes(path, file, targets, sources)
            for name, source in sources.items():
                stored, target = file.get_tensor(source), targets[name]
                # tensors of earlier versions may have another dtype
                if stored.dtype != target.dtype and source == name:
                    raise ValueError(f"{name} is {stored.dtype}")
                with torch.no_grad():
                    target.copy_(stored)
    except TalkingheadError:
        raise
    except KeyError as error:
        raise DamagedStateError(_problem(path, f"it lacks {error}")) from error
    except (SafetensorError, OSError, TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedStateError(_problem(path, reason)) from error
    return header


def _source_names(
    targets: Mapping[str, Tensor], stored: set[str], earlier: Mapping[str, str | None]
) -> dict[str, str]:
    """Return the name in the file of each tensor that the file has."""
    names: dict[str, str | None] = {name: name for name in targets}
    if earlier and stored.isdisjoint(earlier):
        names |= earlier
    return {name: source for name, source in names.items() if source is not None}


def _check_names_and_shapes(
    path: Path, file: Any, targets: Mapping[str, Tensor], sources: Mapping[str, str]
) -> None:
    """Check that the file has these tensors and no others.

    Raises:
        TalkingheadError: it has others, lacks some, or a shape differs.
    """
    stored = set(file.keys())
    unequal = sorted(stored ^ set(sources.values())) + sorted(
        name
        for name, source in sources.items()
        if source in stored and tuple(file.get_slice(source).get_shape()) != tuple(targets[name].shape)
    )
    if unequal:
        raise TalkingheadError(_problem(path, f"{unequal[0]} does not fit"))


def _problem(path: Path, reason: str) -> str:
    """Return the message for a file that cannot be used."""
    return (
        f"{path}: is not a state of this run ({reason}); remove its folder to start again, or name "
        "another folder"
    )


def _header(path: Path, file: Any) -> dict[str, Any]:
    """Return the header of the run, with the checksum verified."""
    metadata = file.metadata() or {}
    if "header" in metadata:  # before version 1 there was no checksum
        header = json.loads(metadata["header"])
    else:
        fields = json.loads(metadata["talkinghead"])
        if fields["kind"] != "state":
            raise ValueError(f"is a {fields['kind']}")
        if checksum(metadata["talkinghead"], _StoredTensors(file)) != metadata["sha256"]:
            raise ValueError("its checksum does not match")
        if fields["version"] != VERSION:
            raise TalkingheadError(
                f"{path}: is of version {fields['version']}, this talkinghead reads {VERSION}; install the "
                "other version"
            )
        header = fields["run"]
    if not isinstance(header, dict):
        raise TypeError(f"its header is a {type(header).__name__}")
    return header


class _StoredTensors(Mapping[str, Tensor]):
    """The tensors of an open file, each read on access."""

    def __init__(self, file: Any) -> None:
        self._file, self._names = file, list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _tensors(
    modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Return all tensors of modules and optimisers by the names that a state file has."""
    tensors = {
        f"{name}.{key}": tensor
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }
    for name, optimiser in optimisers.items():
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            for key, value in optimiser.state[parameter].items():
                tensors[f"{name}.{index}.{key}"] = value
    return tensors
