"""Models that ship with the package, `<preset>.safetensors` each."""

import os
from pathlib import Path

from ..errors import TalkingheadError, check_local
from ..system.hub import MODEL_FILE, PREFIX, hub_file


def shipped_models() -> dict[str, Path]:
    """Return the files of the models that ship with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}


def model_path(source: str) -> Path:
    """Return the file of a model, from its name, its path, its folder, or its address on the Hugging Face
    Hub.

    Raises:
        TalkingheadError: there is none.
    """
    if source.startswith(PREFIX):
        return hub_file(source)
    check_local(source)
    shipped = shipped_models()
    if source in shipped:
        return shipped[source]
    path = Path(source)
    if os.path.isdir(path):  # False too where the system refuses the name
        path = path / MODEL_FILE
    if not os.path.isfile(path):
        raise TalkingheadError(
            f"{path}: no such file, and no model that comes with the package (there is: "
            f"{', '.join(shipped) or 'none'}); "
            "name one of those, or a file that `talkinghead train` wrote"
        )
    return path
