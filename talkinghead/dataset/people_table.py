"""Table of the person in each video."""

import os
from collections.abc import Mapping

from ..errors import TalkingheadError

MAX_TABLE_BYTES = 64 << 20
"""About fifty bytes for each of the million videos of the largest datasets."""


def resolve_people(people: object) -> dict[str, str] | None:
    """Return who is in which video, file name -> person, from a mapping or the path of a table; None of None.

    Raises:
        TalkingheadError: it is neither, or the table cannot be read.
    """
    if people is None:
        return None
    if isinstance(people, Mapping):
        return {str(file): str(person) for file, person in people.items()}
    if isinstance(people, (str, os.PathLike)):
        return read_people(os.fspath(people))
    raise TalkingheadError(
        f"people: got {type(people).__name__}; give a mapping such as {{'anna1.mp4': 'anna'}}, or the path "
        "of a table"
    )


def read_people(table: str) -> dict[str, str]:
    """Return the person in each video, file name -> person.

    The table has the tab-separated columns `file` and `person`, named in its first line.

    Raises:
        TalkingheadError: it cannot be read, is larger than any table of people, or lacks a column.
    """
    people: dict[str, str] = {}
    header: list[str] = []
    try:
        if not os.path.exists(table):
            raise TalkingheadError(f"{table}: no such file; name the table of people by --people")
        if not os.path.isfile(table):  # reading a pipe or a device might never end
            raise OSError("no regular file")
        if os.path.getsize(table) > MAX_TABLE_BYTES:
            raise OSError("too large")
        with open(table, encoding="utf-8") as file:
            for line in filter(str.strip, file):
                fields = [field.strip() for field in line.split("\t")]
                header = header or fields
                if not {"file", "person"} <= set(header) or len(fields) != len(header):
                    raise _columns_error(table)
                if fields is not header:
                    people[fields[header.index("file")].removeprefix("./")] = fields[header.index("person")]
    except TalkingheadError:
        raise
    except (OSError, ValueError) as error:
        raise TalkingheadError(
            f"{table}: cannot be read as a table; provide tab-separated text with the columns file and "
            f"person, of at most {MAX_TABLE_BYTES >> 20} MB"
        ) from error
    if not header:
        raise _columns_error(table)
    return people


def _columns_error(table: str) -> TalkingheadError:
    return TalkingheadError(
        f"{table}: lacks the column file or person in some line; separate columns by tabs and name them in "
        "the first line"
    )
