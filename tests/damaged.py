"""Damaged and odd files, made with a seed: what people's disks hold, and what somebody could make to break this.

`make_media` makes videos and pictures, `make_checkpoints`, `make_shards` and `make_tables` the project's own files, damaged likewise.
Every file is named after what is wrong with it; the same seed gives the same files. Real faces are in the pictures and videos: their
frames are parts of `skimage.data.astronaut()`.
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

from good_media import Made, cut, pictures, videos
from odd_pictures import odd_pictures
from odd_videos import odd_videos


def make_media(folder: Path, seed: int) -> dict[str, list[Path]]:
    """Videos, pictures, and what only looks like them, by group: "whole", "cut", "flipped", "overwritten", "swapped", "videos",
    "pictures", "strangers", "names", "special". Those of "whole" must work everywhere; the rest may be refused."""
    chance = random.Random(seed)
    folder.mkdir()
    base = {**videos(folder), **pictures()}
    groups: dict[str, list[Path]] = {"whole": _write(folder / "whole", iter(base.items()))}
    for group, damages in _DAMAGES.items():
        made = ((f"{kind}-{name}", damage(content, chance)) for (name, content), kind, damage in _pairs(base, damages, group))
        groups[group] = _write(folder / group, made)
    groups["swapped"] += _write(folder / "swapped", _swapped(base, chance))
    groups["videos"] = _write(folder / "videos", odd_videos(folder, base, chance))
    groups["pictures"] = _write(folder / "pictures", odd_pictures(base, chance))
    groups["strangers"] = _write(folder / "strangers", _strangers(chance))
    groups["names"] = _names(folder / "names", base)
    groups["special"] = _special(folder / "special", base)
    return groups


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _write(folder: Path, made: Made) -> list[Path]:
    return [write(folder / name, content) for name, content in made]


# what is done to a good file


def flipped(content: bytes, chance: random.Random, low: float, high: float, count: int) -> bytes:
    """`count` bytes between two shares of the file changed to others."""
    changed = bytearray(content)
    for _ in range(count):
        place = min(int(len(content) * chance.uniform(low, high)), len(content) - 1)
        changed[place] ^= chance.randrange(1, 256)
    return bytes(changed)


def overwritten(content: bytes, chance: random.Random, low: float, high: float, byte: int | None = None) -> bytes:
    low, high = int(len(content) * low), int(len(content) * high)
    return content[:low] + (chance.randbytes(high - low) if byte is None else bytes([byte]) * (high - low)) + content[high:]


def _shuffled(content: bytes, chance: random.Random) -> bytes:
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
        "head": lambda content, chance: flipped(content, chance, 0, 48 / len(content), 3),
        "early": lambda content, chance: flipped(content, chance, 0, 0.15, 8),
        "middle": lambda content, chance: flipped(content, chance, 0.3, 0.7, 8),
        "late": lambda content, chance: flipped(content, chance, 0.85, 1, 8),
        "everywhere": lambda content, chance: flipped(content, chance, 0, 1, max(4, len(content) // 100)),
    },
    "overwritten": {
        "noise": lambda content, chance: overwritten(content, chance, 0.4, 0.6),
        "zeros": lambda content, chance: overwritten(content, chance, 0.5, 1, 0),
        "ones": lambda content, chance: overwritten(content, chance, 32 / len(content), 0.1, 255),
    },
    "swapped": {
        "pieces": _shuffled,
        "doubled": lambda content, _: content + content,
        "junk-before": lambda content, chance: chance.randbytes(100) + content,
    },
}
_KINDS_PER_FILE = {"cut": 3, "flipped": 3, "overwritten": 2, "swapped": 1}


def _pairs(base: dict[str, bytes], damages: dict[str, Damage], group: str) -> Iterator[tuple[tuple[str, bytes], str, Damage]]:
    """Some damages for each file, taken in turn so that all occur."""
    turn = cycle(damages.items())
    for item in base.items():
        for _ in range(_KINDS_PER_FILE[group]):
            kind, damage = next(turn)
            yield item, kind, damage


def _swapped(base: dict[str, bytes], chance: random.Random) -> Made:
    """Heads of other formats, and endings of others."""
    names = list(base)
    for name, other in zip(names, names[3:] + names[:3], strict=True):
        yield f"head-of-{other.replace('.', '-')}-on-{name}", base[other][:48] + base[name][48:]
        yield f"{name.replace('.', '-')}-called{Path(other).suffix}", base[name]


# no pictures at all


def _strangers(chance: random.Random) -> Made:
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
        "session": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "drawing": b'<svg xmlns="http://www.w3.org/2000/svg" width="1e9" height="1e9"><rect width="9" height="9"/></svg>',
        "subtitles": b"1\n00:00:01,000 --> 00:00:02,000\nhello\n",
    }
    for name, content in contents.items():
        yield f"{name}.mp4", content
        yield f"{name}.png", content
    for ending in ("mkv", "gif", "avi", "mpg", "webm", "mov", "ts", "jpg", "webp", "tiff", "bmp", "ppm"):
        yield f"empty.{ending}", b""
    yield "text-without-ending", b"no ending\n"


# names and places


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
    made = [write(folder / f"{stem}{ending}", contents[ending]) for stem, ending in stems.items()]
    made += [
        write(folder / f"{stem}{ending}", b"nothing") for stem in ("no\nvideo", "no\r\x1b[2J", "%s {0}") for ending in (".avi", ".jpg")
    ]
    for name, ending in ((b"not utf-8 \xff\xfe", ".mp4"), (b"\x80\xe9", ".png")):
        try:
            made.append(write(folder / os.fsdecode(name + ending.encode()), contents[ending]))
        except OSError:  # a file system that holds UTF-8 alone
            continue
    return made


def _special(folder: Path, base: dict[str, bytes]) -> list[Path]:
    """What is no regular file; nothing here can be read to its end by reading on."""
    folder.mkdir()
    made = []
    for ending in (".mp4", ".png"):
        (folder / f"folder{ending}").mkdir()
        (folder / f"dangling{ending}").symlink_to(folder / "nowhere")
        (folder / f"loop{ending}").symlink_to(folder / f"loop{ending}")
        (folder / f"zeros{ending}").symlink_to("/dev/zero")
        (folder / f"null{ending}").symlink_to("/dev/null")
        (folder / f"terminal{ending}").symlink_to("/dev/tty")
        os.mkfifo(folder / f"pipe{ending}")
        with socket.socket(socket.AF_UNIX) as plug:
            here = os.open(folder, os.O_RDONLY)
            plug.bind(f"/proc/self/fd/{here}/socket{ending}" if os.path.exists("/proc/self/fd") else str(folder / f"socket{ending}"))
            os.close(here)
        made += [
            folder / f"{name}{ending}" for name in ("folder", "dangling", "loop", "zeros", "null", "terminal", "pipe", "socket", "missing")
        ]
    good = write(folder / "good" / "good.mp4", base["faststart.mp4"])
    (folder / "link.mp4").symlink_to(good)
    (folder / "good" / "round").symlink_to(folder / "good")  # a folder that holds itself
    (folder / "away").symlink_to(folder / "away")
    mixed = folder / "mixed"
    mixed.mkdir()
    for name in ("pipe.png", "folder.png", "dangling.png", "loop.png"):
        (mixed / name).symlink_to(folder / name)
    (mixed / "deep").symlink_to(mixed)
    write(mixed / "a.png", base["picture.png"])
    return [
        *made,
        folder / "link.mp4",
        folder / "good",
        folder / "away",
        folder / "away" / "a.mp4",
        mixed,
        folder / "good/good.mp4/inside.mp4",
    ]
