"""Damaged and unusual videos and images, accidental and malicious.

Every file is named after its defect; the same seed gives the same files. The frames are crops of
`skimage.data.astronaut()`, which shows a real face. For the project's own files, see `corrupt_checkpoints`.
"""

import io
import os
import random
import socket
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

from support.sample_media import NamedContents, cut, pictures, videos
from support.unusual_images import unusual_images
from support.unusual_videos import unusual_videos


def make_media(folder: Path, seed: int) -> dict[str, list[Path]]:
    """Write videos, images and other files, and return their paths by group.

    The groups are "whole", "cut", "flipped", "overwritten", "swapped", "videos", "pictures", "strangers",
    "names" and "special". Files of "whole" must work everywhere; others may be rejected.
    """
    chance = random.Random(seed)
    folder.mkdir()
    base = {**videos(folder), **pictures()}
    groups: dict[str, list[Path]] = {"whole": _write(folder / "whole", iter(base.items()))}
    for group, damages in _DAMAGES.items():
        damaged = (
            (f"{kind}-{name}", damage(content, chance))
            for (name, content), kind, damage in _pairs(base, damages, group)
        )
        groups[group] = _write(folder / group, damaged)
    groups["swapped"] += _write(folder / "swapped", _swapped(base, chance))
    groups["videos"] = _write(folder / "videos", unusual_videos(folder, base, chance))
    groups["pictures"] = _write(folder / "pictures", unusual_images(base, chance))
    groups["strangers"] = _write(folder / "strangers", _strangers(chance))
    groups["names"] = _names(folder / "names", base)
    groups["special"] = _special(folder / "special", base)
    return groups


def write(path: Path, content: bytes) -> Path:
    """Write a file, with its folder, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _write(folder: Path, files: NamedContents) -> list[Path]:
    return [write(folder / name, content) for name, content in files]


def flip_bytes(content: bytes, chance: random.Random, low: float, high: float, count: int) -> bytes:
    """Change `count` bytes between two shares of the file to others."""
    changed = bytearray(content)
    for _ in range(count):
        position = min(int(len(content) * chance.uniform(low, high)), len(content) - 1)
        changed[position] ^= chance.randrange(1, 256)
    return bytes(changed)


def overwrite_bytes(
    content: bytes, chance: random.Random, low: float, high: float, byte: int | None = None
) -> bytes:
    """Replace all bytes between two shares of the file, by random ones or by `byte`."""
    low, high = int(len(content) * low), int(len(content) * high)
    return (
        content[:low]
        + (chance.randbytes(high - low) if byte is None else bytes([byte]) * (high - low))
        + content[high:]
    )


def _shuffle_blocks(content: bytes, chance: random.Random) -> bytes:
    step = -(-len(content) // 8)
    pieces = [content[start : start + step] for start in range(0, len(content), step)]
    chance.shuffle(pieces)
    return b"".join(pieces)


Damage = Callable[[bytes, random.Random], bytes]


def _cuts() -> dict[str, Damage]:
    def at(share: float) -> Damage:
        return lambda content, _: cut(content, share)

    cuts = {f"at-{share:g}": at(share) for share in (0.002, 0.05, 0.2, 0.4, 0.6, 0.8, 0.97)}
    return {
        **cuts,
        "at-0-bytes": lambda content, _: b"",
        "at-12-bytes": lambda content, _: content[:12],
        "by-1": lambda content, _: content[:-1],
    }


_DAMAGES: dict[str, dict[str, Damage]] = {
    "cut": _cuts(),
    "flipped": {
        "head": lambda content, chance: flip_bytes(content, chance, 0, 48 / len(content), 3),
        "early": lambda content, chance: flip_bytes(content, chance, 0, 0.15, 8),
        "middle": lambda content, chance: flip_bytes(content, chance, 0.3, 0.7, 8),
        "late": lambda content, chance: flip_bytes(content, chance, 0.85, 1, 8),
        "everywhere": lambda content, chance: flip_bytes(content, chance, 0, 1, max(4, len(content) // 100)),
    },
    "overwritten": {
        "noise": lambda content, chance: overwrite_bytes(content, chance, 0.4, 0.6),
        "zeros": lambda content, chance: overwrite_bytes(content, chance, 0.5, 1, 0),
        "ones": lambda content, chance: overwrite_bytes(content, chance, 32 / len(content), 0.1, 255),
    },
    "swapped": {
        "pieces": _shuffle_blocks,
        "doubled": lambda content, _: content + content,
        "junk-before": lambda content, chance: chance.randbytes(100) + content,
    },
}
_KINDS_PER_FILE = {"cut": 3, "flipped": 3, "overwritten": 2, "swapped": 1}


def _pairs(
    base: dict[str, bytes], damages: dict[str, Damage], group: str
) -> Iterator[tuple[tuple[str, bytes], str, Damage]]:
    """Yield some damages for each file, in turn so that all occur."""
    turn = cycle(damages.items())
    for item in base.items():
        for _ in range(_KINDS_PER_FILE[group]):
            kind, damage = next(turn)
            yield item, kind, damage


def _swapped(base: dict[str, bytes], chance: random.Random) -> NamedContents:
    """Yield files with headers of other formats or with other extensions."""
    names = list(base)
    for name, other in zip(names, names[3:] + names[:3], strict=True):
        yield f"head-of-{other.replace('.', '-')}-on-{name}", base[other][:48] + base[name][48:]
        yield f"{name.replace('.', '-')}-called{Path(other).suffix}", base[name]


def _strangers(chance: random.Random) -> NamedContents:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("film.mp4", "nothing")
    contents = {
        "empty": b"",
        "text": b"This is no video.\n" * 50,
        "zip": packed.getvalue(),
        "noise": chance.randbytes(20_000),
        "zeros": bytes(20_000),
        "ones": b"\xff" * 20_000,
        "pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
        "page": b"<!doctype html><title>404 Not Found</title>",
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n",
        "list": b"ffconcat version 1.0\nfile /dev/zero\nduration 5\n",
        "session": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        b"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "drawing": b'<svg xmlns="http://www.w3.org/2000/svg" width="1e9" height="1e9">'
        b'<rect width="9" height="9"/></svg>',
        "subtitles": b"1\n00:00:01,000 --> 00:00:02,000\nhello\n",
    }
    for name, content in contents.items():
        yield f"{name}.mp4", content
        yield f"{name}.png", content
    for ending in ("mkv", "gif", "avi", "mpg", "webm", "mov", "ts", "jpg", "webp", "tiff", "bmp", "ppm"):
        yield f"empty.{ending}", b""
    yield "text-without-ending", b"no ending\n"


def _names(folder: Path, base: dict[str, bytes]) -> list[Path]:
    folder.mkdir()
    composed = "Zoë Ångström 이름"
    stems = {
        "with space": ".mp4",
        " space before": ".png",
        "space after ": ".mp4",
        unicodedata.normalize("NFC", composed): ".mp4",
        unicodedata.normalize("NFD", composed): ".png",
        "\u202eright to left \u05e9\u05dc\u05d5\u05dd": ".mp4",
        "\U0001f600\U0001f469\u200d\U0001f680": ".png",
        "-n": ".mp4",
        "--out": ".png",
        "%d": ".mp4",
        "%03d": ".png",
        "%s%n": ".mp4",
        "new\nline": ".mp4",
        "new\nline\r": ".png",
        "tab\tin": ".mp4",
        "bell\a\x1b[31m": ".png",
        "quote'\"`": ".mp4",
        "$HOME": ".png",
        "*?[a]": ".mp4",
        "back\\slash": ".png",
        "file:x": ".mp4",
        "http:": ".mp4",
        "pipe:0": ".mp4",
        "concat:a|b": ".mp4",
        "C:x": ".png",
        "a=b&c;d": ".mp4",
        "~": ".mp4",
        "..dots..": ".mp4",
        ".hidden": ".mp4",
        "SHOUTED": ".MP4",
        "l" * 251: ".mp4",
        "\u00e9" * 125: ".png",
        "no-ending": "",
        "dot-at-end.mp4": ".",
        "two.endings.png": ".mp4",
        "two.endings.mp4": ".png",
    }
    contents = {
        "": base["faststart.mp4"],
        ".": base["faststart.mp4"],
        ".mp4": base["faststart.mp4"],
        ".MP4": base["faststart.mp4"],
        ".png": base["picture.png"],
    }
    paths = [write(folder / f"{stem}{ending}", contents[ending]) for stem, ending in stems.items()]
    paths += [
        write(folder / f"{stem}{ending}", b"nothing")
        for stem in ("no\nvideo", "no\r\x1b[2J", "%s {0}")
        for ending in (".avi", ".jpg")
    ]
    for name, ending in ((b"not utf-8 \xff\xfe", ".mp4"), (b"\x80\xe9", ".png")):
        try:
            paths.append(write(folder / os.fsdecode(name + ending.encode()), contents[ending]))
        except OSError:  # the file system accepts UTF-8 names only
            continue
    return paths


def _special(folder: Path, base: dict[str, bytes]) -> list[Path]:
    """Create files that are not regular and cannot be read to an end."""
    folder.mkdir()
    paths = []
    for ending in (".mp4", ".png"):
        (folder / f"folder{ending}").mkdir()
        (folder / f"dangling{ending}").symlink_to(folder / "nowhere")
        (folder / f"loop{ending}").symlink_to(folder / f"loop{ending}")
        (folder / f"zeros{ending}").symlink_to("/dev/zero")
        (folder / f"null{ending}").symlink_to("/dev/null")
        (folder / f"terminal{ending}").symlink_to("/dev/tty")
        os.mkfifo(folder / f"pipe{ending}")
        with socket.socket(socket.AF_UNIX) as bound:
            descriptor = os.open(folder, os.O_RDONLY)
            bound.bind(
                f"/proc/self/fd/{descriptor}/socket{ending}"
                if os.path.exists("/proc/self/fd")
                else str(folder / f"socket{ending}")
            )
            os.close(descriptor)
        paths += [
            folder / f"{name}{ending}"
            for name in (
                "folder",
                "dangling",
                "loop",
                "zeros",
                "null",
                "terminal",
                "pipe",
                "socket",
                "missing",
            )
        ]
    good = write(folder / "good" / "good.mp4", base["faststart.mp4"])
    (folder / "link.mp4").symlink_to(good)
    (folder / "good" / "round").symlink_to(folder / "good")  # a folder that contains itself
    (folder / "away").symlink_to(folder / "away")
    mixed = folder / "mixed"
    mixed.mkdir()
    for name in ("pipe.png", "folder.png", "dangling.png", "loop.png"):
        (mixed / name).symlink_to(folder / name)
    (mixed / "deep").symlink_to(mixed)
    write(mixed / "a.png", base["picture.png"])
    return [
        *paths,
        folder / "link.mp4",
        folder / "good",
        folder / "away",
        folder / "away" / "a.mp4",
        mixed,
        folder / "good/good.mp4/inside.mp4",
    ]
