"""State files, from which a training run resumes bit for bit: safetensors, nothing pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..config import AdamConfig
from ..errors import TalkingheadError
from ..system.tensor_file import read_header, write_tensors
from .row_shares import RowShares

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
        path, state_tensors(modules, optimisers), {"kind": "state", "version": VERSION, "run": header}, keep
    )


def load_state(
    path: Path,
    modules: dict[str, nn.Module],
    optimisers: dict[str, torch.optim.Optimizer],
    earlier: Mapping[str, str | None] | None = None,
    shares: RowShares | None = None,
) -> dict[str, Any]:
    """Load a file of `save_state`, by this version or an earlier one, into modules and optimisers, and return
    its header.

    Args:
        path: the file.
        modules, optimisers: as for `save_state`.
        earlier: names that an earlier version had for some of the tensors, None for those it did not have; a
            file with none of these tensors is read by the earlier names, and the tensors that it lacks keep
            their values.
        shares: tensors of which this rank holds some rows; by default it holds all.

    Raises:
        DamagedStateError: the file is truncated, changed, or not written by `save_state`.
        TalkingheadError: it is of another configuration, or of a later version.
    """
    targets = state_tensors(modules, optimisers)
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file)
            stored = _StoredState(file, header, shares or RowShares(path.parent / "shares"))
            sources = _source_names(targets, stored.names, earlier or {})
            _check_names_and_shapes(path, stored, targets, sources)
            for name, source in sources.items():
                tensor, target = stored.read(source, name), targets[name]
                # tensors of earlier versions may have another dtype
                if tensor.dtype != target.dtype and source == name:
                    raise ValueError(f"{name} is {tensor.dtype}")
                with torch.no_grad():
                    target.copy_(tensor)
    except TalkingheadError:
        raise
    except KeyError as error:
        raise DamagedStateError(_problem(path, f"it lacks {error}")) from error
    except (SafetensorError, OSError, TypeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedStateError(_problem(path, reason)) from error
    return header


class _StoredState:
    """The tensors of a state: those of its file, and those of the files of rows that its header names.

    Args:
        file: open.
        header: of the run.
        shares: the rows that this rank holds.

    Attributes:
        names: of the tensors.
    """

    def __init__(self, file: Any, header: dict[str, Any], shares: RowShares) -> None:
        self._file, self._shares = file, shares
        self.names, self._rows = set(file.keys()), None
        if "shares" in header:
            self._rows = shares.open(header["shares"])
            self.names |= self._rows.names

    def fits(self, name: str, target: str, shape: list[int]) -> bool:
        """Return whether a stored tensor fits a target of that name and shape."""
        if self._rows and name in self._rows.names:
            stored = self._rows.shape(name)
        else:
            stored = list(self._file.get_slice(name).get_shape())
        return stored == shape or (self._shares.holds(target) and self._shares.fits(stored, shape))

    def read(self, name: str, target: str) -> Tensor:
        """Return a stored tensor, or this rank's rows where the target of that name has only these."""
        if self._rows and name in self._rows.names:
            return self._rows.read(name)
        tensor: Tensor = self._file.get_tensor(name)
        return self._shares.own_rows(tensor) if self._shares.holds(target) else tensor


def _source_names(
    targets: Mapping[str, Tensor], stored: set[str], earlier: Mapping[str, str | None]
) -> dict[str, str]:
    """Return the name in the file of each tensor that the file has."""
    names: dict[str, str | None] = {name: name for name in targets}
    if earlier and stored.isdisjoint(earlier):
        names |= earlier
    return {name: source for name, source in names.items() if source is not None}


def _check_names_and_shapes(
    path: Path, stored: _StoredState, targets: Mapping[str, Tensor], sources: Mapping[str, str]
) -> None:
    """Check that a state has these tensors and no others.

    Raises:
        TalkingheadError: it has others, lacks some, or a shape differs.
    """
    unequal = sorted(stored.names ^ set(sources.values())) + sorted(
        name
        for name, source in sources.items()
        if source in stored.names and not stored.fits(source, name, list(targets[name].shape))
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
        fields = read_header(file)
        if fields["kind"] != "state":
            raise ValueError(f"is a {fields['kind']}")
        if fields["version"] != VERSION:
            raise TalkingheadError(
                f"{path}: is of version {fields['version']}, this talkinghead reads {VERSION}; install the "
                "other version"
            )
        header = fields["run"]
    if not isinstance(header, dict):
        raise TypeError(f"its header is a {type(header).__name__}")
    return header


def state_tensors(
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
