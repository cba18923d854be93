"""Models on the Hugging Face Hub, read through `huggingface_hub` where that is installed."""

import re
from pathlib import Path

from ..errors import TalkingheadError, require, shorten

PREFIX = "hf://"
MODEL_FILE = "model.safetensors"
"""Name of the model in a repository or a folder, where none is named."""
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+?))?(:(?P<file>[\w./-]+))?"
)


def hub_file(address: str) -> Path:
    """Return the file of an address, which is downloaded unless it is in the cache of `huggingface_hub`.

    Args:
        address: "hf://OWNER/NAME", then "@REVISION" for a branch, tag or commit, then ":FILE" for another
            file than model.safetensors.

    Raises:
        TalkingheadError: the address is no such address, `huggingface_hub` is not installed, or there is no
            such file or no network.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise TalkingheadError(
            f"{shorten(address)}: is no address of a model; write hf://OWNER/NAME, "
            "hf://OWNER/NAME@REVISION or hf://OWNER/NAME:FILE"
        )
    hub = require("huggingface_hub", "hub")
    try:
        path = hub.hf_hub_download(
            repo_id=match["repository"], filename=match["file"] or MODEL_FILE, revision=match["revision"]
        )
    except Exception as error:  # it raises types of its HTTP library too
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TalkingheadError(
            f"{address}: cannot be fetched ({shorten(reason, 200)}); see whether the name is right and the "
            "network is there"
        ) from error
    return Path(path)
