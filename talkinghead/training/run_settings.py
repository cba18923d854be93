"""Settings that must be equal for a training run to resume, and what differs where they are not."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..constants import PRESETS
from ..errors import TalkingheadError, quantity, shorten

_MAX_SHOWN = 4
"""Number of differing fields that a message names."""


def check_same_run(out: Path, header: dict[str, Any], settings: dict[str, Any]) -> None:
    """Compare the settings of a state with those of this run.

    Args:
        out: folder of the run.
        header: of the state.
        settings: config, variant, seed, start (digest of the initial weights), clips and streaming (checksum
            of the order of the videos) of this run.

    Raises:
        TalkingheadError: they differ, or an earlier version, whose preset had other values, wrote the state.
    """
    as_stored = _without_crop(json.loads(json.dumps(settings)))  # tuples become lists
    header = _without_crop(header)
    stored, preset = header.get("config"), settings["config"]["preset"]
    differing = [name for name, value in as_stored.items() if header.get(name) != value]
    if isinstance(stored, dict) and _shows_irises(stored) != _shows_irises(settings["config"]):
        kind, option = ("with", "add") if _shows_irises(stored) else ("without", "leave out")
        raise TalkingheadError(
            f"{out}: holds a run {kind} irises; {option} --irises, or choose another folder and start from "
            f"the weights of this run with --init-from {out / 'model.safetensors'}"
        )
    if bool(header.get("streaming")) != bool(settings.get("streaming")):
        kind, option = ("with", "add") if header.get("streaming") else ("without", "leave out")
        raise TalkingheadError(
            f"{out}: holds a run {kind} --streaming, which orders the videos in another way; {option} "
            "--streaming, or choose another folder"
        )
    if not differing:
        return
    differences = "; ".join(
        text for name in differing for text in _differences(name, header.get(name), as_stored[name])
    )
    same_name = isinstance(stored, dict) and stored.get("preset") == preset
    if differing == ["config"] and same_name and preset in PRESETS:
        raise TalkingheadError(
            f"{out}: holds a run of an earlier version, whose preset {preset} had other values "
            f"({differences}); choose another folder, and start from the weights of this run with "
            f"--init-from {out / 'model.safetensors'}"
        )
    raise TalkingheadError(
        f"{out}: holds a run with other settings: {differences}; choose another folder, or the same settings"
    )


def _without_crop(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without the crop, which is that of the data; earlier versions stored the preset's."""
    config = settings.get("config")
    if not isinstance(config, dict):
        return settings
    return settings | {"config": {name: value for name, value in config.items() if name != "crop"}}


def _shows_irises(config: dict[str, Any]) -> bool:
    """Return whether a stored configuration's landmark images show irises."""
    return bool(config.get("networks", {}).get("irises"))


def _differences(name: str, old: Any, new: Any) -> list[str]:
    """Describe how one setting of a run differs: its old and its new value."""
    if name == "clips":
        if not isinstance(old, list) or len(old) != len(new):
            count = len(old) if isinstance(old, list) else 0
            return [f"its data had {quantity(count, 'clip')}, now {len(new)}"]
        first_old, first_new = next(pair for pair in zip(old, new, strict=True) if pair[0] != pair[1])
        return [f"its data had clip {shorten(first_old)} in place of {shorten(first_new)}"]
    if name == "streaming":
        return ["its data had other videos in its shards"]
    if name == "start":
        names = [f"of model {str(digest)[:12]}" if digest else "random" for digest in (old, new)]
        return [f"its initial weights were {names[0]}, now {names[1]}"]
    texts = [
        f"{field} was {_format(one)}, now {_format(other)}" for field, one, other in _leaves(name, old, new)
    ]
    hidden = len(texts) - _MAX_SHOWN
    return texts if hidden <= 0 else [*texts[:_MAX_SHOWN], f"and {hidden} more"]


def _leaves(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old and new value of each field that differs, of nested tables too."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*new, *(key for key in old if key not in new)]:
            if old.get(key) != new.get(key):
                yield from _leaves(key if name == "config" else f"{name}.{key}", old.get(key), new.get(key))
    else:
        yield name, old, new


def _format(value: Any) -> str:
    return "unset" if value is None else shorten(json.dumps(value).strip('"'))
