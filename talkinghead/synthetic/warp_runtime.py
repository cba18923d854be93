"""Access to Warp, which compiles the rasterizer. The only module that imports warp."""

from functools import cache
from typing import Any

from ..errors import require
from ..system.quiet import suppress_stderr


@cache
def open_warp() -> Any:
    """Return the module warp, initialized and silent.

    Raises:
        TalkingheadError: warp is not installed.
    """
    warp = require("warp", "synthetic")
    warp.config.log_level = warp.LOG_ERROR
    with suppress_stderr():  # without a GPU its C code prints a warning
        warp.init()
    return warp
