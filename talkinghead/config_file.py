"""Presets of one's own: a TOML file whose table [preset] overrides fields of a preset of the package.

[preset]
name = "wide"         # recorded in every file; by default the name of this file
base = "small"
[preset.networks]
residual = 5
[preset.meta.generator]
learning_rate = 2e-4
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from .config import Config, preset
from .constants import PERCEPTUAL_NETWORKS, PRESETS
from .errors import TalkingheadError, did_you_mean, shorten
from .system.toml_file import format_toml, read_toml

TABLE = "preset"
MAX_SHOTS = 64
_CHOICES = {"precision": ("fp32", "bf16"), "initialisation": ("orthogonal", "uniform")}
_POSITIVE = ("learning_rate", "eps", "batch", "discriminator_steps", "embedding_gain", "discriminator_gain")
_SHARES = ("own_picture", "far_targets", "camera_motion", "jitter", "head_jitter")
_BELOW_ONE = ("beta1", "beta2", "average")
_NO_OWN_FIELDS = ("preset",)


def resolve_preset(source: str | os.PathLike[str] | Config) -> Config:
    """Return the configuration of a preset.

    Args:
        source: name of a preset, path of a TOML file with a table [preset], or a configuration itself.

    Raises:
        TalkingheadError: there is no such preset or file, it has unknown fields, or a value is impossible.
    """
    if isinstance(source, Config):
        check_config(source, f"preset {source.preset}")
        return source
    if is_preset_file(source):
        return read_preset(source)
    if not isinstance(source, str):
        raise TalkingheadError(
            f"preset {shorten(repr(source))}: expected a name, a Config or the path of a .toml file"
        )
    return preset(source)


def is_preset_file(source: str | os.PathLike[str]) -> bool:
    """Return whether a preset is a file: its name ends in .toml, or it is a path."""
    return isinstance(source, os.PathLike) or (isinstance(source, str) and source.lower().endswith(".toml"))


def has_preset_table(path: str | os.PathLike[str]) -> bool:
    """Return whether a TOML file has a table [preset], or [train.preset].

    Raises:
        TalkingheadError: it cannot be read.
    """
    return isinstance(_preset_table(path), dict)


def _preset_table(path: str | os.PathLike[str]) -> Any:
    values = read_toml(path)
    command = values.get("train")
    return values.get(TABLE, command.get(TABLE) if isinstance(command, dict) else None)


def read_preset(path: str | os.PathLike[str]) -> Config:
    """Read the table [preset] of a TOML file, or [train.preset].

    Raises:
        TalkingheadError: it is missing, has unknown fields, or a value is impossible.
    """
    table = _preset_table(path)
    if not isinstance(table, dict):
        raise TalkingheadError(f'{path}: has no table [preset]; add one with base = "small" and its changes')
    table = dict(table)
    base, name = table.pop("base", None), table.pop("name", Path(path).stem)
    if base not in PRESETS:
        hint = did_you_mean(str(base), PRESETS) or f"; choose {', '.join(PRESETS)}"
        raise TalkingheadError(f"{path}: [preset] has base {shorten(repr(base))}, which is no preset{hint}")
    if not isinstance(name, str) or not name.strip() or name in PRESETS or len(name) > 80:
        raise TalkingheadError(
            f"{path}: [preset] has name {shorten(repr(name))}, which is no new name; choose another"
        )
    try:
        config = dataclasses.replace(_override(preset(base), table, TABLE), preset=name)
        check_config(config, TABLE)
    except TalkingheadError as error:
        raise TalkingheadError(f"{path}: {error}") from error
    return config


def check_config(config: Config, where: str) -> None:
    """Check that a configuration can be trained; the shapes of networks are checked by `NetworkConfig`.

    Raises:
        TalkingheadError: a value is impossible.
    """
    networks = config.networks
    for name in ("encoder", "down"):
        depth = len(getattr(networks, name))
        if 2**depth > networks.layer_size // 2:
            raise TalkingheadError(
                f"{where}.networks.{name}: {depth} blocks are too many for images of {networks.layer_size} "
                "pixels; leave some out"
            )
    unknown = [name for name in config.perceptual if name not in PERCEPTUAL_NETWORKS]
    if unknown or not config.perceptual:
        hint = did_you_mean(unknown[0] if unknown else "", PERCEPTUAL_NETWORKS)
        raise TalkingheadError(
            f"{where}.perceptual: expected some of {', '.join(PERCEPTUAL_NETWORKS)}{hint or '; correct it'}"
        )
    if config.crop not in (1, 2):
        raise TalkingheadError(f"{where}.crop: is {config.crop}, expected 1 or 2; correct it")
    for path, value in _leaves(config, where):
        problem = _problem(path.rpartition(".")[2], value)
        if problem:
            raise TalkingheadError(f"{path}: is {shorten(format_toml(value))}, {problem}; correct it")
    if not 1 <= config.meta.shots <= MAX_SHOTS:
        raise TalkingheadError(
            f"{where}.meta.shots: is {config.meta.shots}, expected 1 to {MAX_SHOTS}; correct it"
        )


def _problem(name: str, value: Any) -> str:
    """Return what is wrong with a value of a field, or no text."""
    if isinstance(value, (int, float)) and not math.isfinite(value):
        return "expected a finite number"
    if name in _CHOICES and value not in _CHOICES[name]:
        return f"expected {' or '.join(_CHOICES[name])}"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return ""
    if name in _POSITIVE and value <= 0:
        return "expected more than 0"
    if name in _SHARES and not 0 <= value <= 1:
        return "expected 0 to 1"
    if name in _BELOW_ONE and not 0 <= value < 1:
        return "expected at least 0 and less than 1"
    return "expected 0 or more" if value < 0 else ""


def _leaves(config: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the plain values of a configuration with their paths."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{where}.{field.name}")
        else:
            yield f"{where}.{field.name}", value


def _override(config: Any, table: dict[str, Any], where: str) -> Any:
    """Return a configuration with the values of a table in place of its own."""
    kinds = {name: kind for name, kind in get_type_hints(type(config)).items() if name not in _NO_OWN_FIELDS}
    changes = {}
    for name, value in table.items():
        if name not in kinds:
            extra = ("base", "name") if isinstance(config, Config) else ()
            hint = did_you_mean(name, [*kinds, *extra]) or f"; there are {', '.join([*extra, *kinds])}"
            raise TalkingheadError(f"{where}.{shorten(name)}: no such field{hint}")
        path = f"{where}.{name}"
        if not dataclasses.is_dataclass(kinds[name]):
            changes[name] = _convert(kinds[name], value, path)
        elif isinstance(value, dict):
            changes[name] = _override(getattr(config, name), value, path)
        else:
            raise TalkingheadError(f"{path}: is {shorten(repr(value))}, expected a table; write [{path}]")
    return dataclasses.replace(config, **changes)


def _convert(kind: Any, value: Any, where: str) -> Any:
    """Return a value of TOML as a field of its type holds it."""
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TalkingheadError(f"{where}: expected a list, got {shorten(repr(value))}; write [...]")
        return tuple(_convert(get_args(kind)[0], item, where) for item in value)
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}
    raise TalkingheadError(f"{where}: expected {names[kind]}, got {shorten(repr(value))}; correct it")
