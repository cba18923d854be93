"""Models that ship with the package, `<preset>.safetensors` each."""

from pathlib import Path


def shipped_models() -> dict[str, Path]:
    """Return the files of the models that ship with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}
