"""Messages between the server and its workers: a JSON object and bytes, each with its length in front."""

import asyncio
import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

_LENGTHS = struct.Struct(">II")
_MAX_JSON_BYTES = 1 << 22
_MAX_PAYLOAD_BYTES = 1 << 24

Message = tuple[dict[str, Any], bytes]
"""A JSON object, and bytes such as those of a JPEG."""


def pack_message(fields: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """Return a message as bytes."""
    text = json.dumps(fields).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def read_message(stream: BinaryIO) -> Message | None:
    """Read the next message of a stream; None at its end."""
    head = stream.read(_LENGTHS.size)
    if len(head) < _LENGTHS.size:
        return None
    json_length, payload_length = _checked_lengths(head)
    text, payload = stream.read(json_length), stream.read(payload_length)
    if len(text) < json_length or len(payload) < payload_length:
        return None
    return json.loads(text), payload


async def receive_message(stream: asyncio.StreamReader) -> Message | None:
    """Read the next message of an asynchronous stream; None at its end."""
    try:
        json_length, payload_length = _checked_lengths(await stream.readexactly(_LENGTHS.size))
        text = await stream.readexactly(json_length)
        return json.loads(text), await stream.readexactly(payload_length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _checked_lengths(head: bytes) -> tuple[int, int]:
    json_length, payload_length = _LENGTHS.unpack(head)
    if json_length > _MAX_JSON_BYTES or payload_length > _MAX_PAYLOAD_BYTES:
        raise ValueError(f"a message of {json_length} and {payload_length} bytes is too long")
    return json_length, payload_length
