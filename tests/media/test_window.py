"""Tests of the window of live frames: with a fake OpenCV in its process, and on a display of its own."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from talkinghead.errors import TalkingheadError
from talkinghead.media import window
from talkinghead.media.frame_sink import Sink, open_sink
from talkinghead.system.atomic_file import atomic_write

SIZE = (32, 48)
FAKE_OPENCV = """
import os, sys, time
WINDOW_NORMAL, WINDOW_KEEPRATIO, WINDOW_GUI_NORMAL, WND_PROP_VISIBLE = 0, 0, 16, 4
folder = os.path.dirname(__file__)
class error(Exception):
    pass
def log(line):
    with open(folder + "/log", "a") as file:
        file.write(line + "\\n")
def namedWindow(title, flags):
    {opening}
    log("open " + title)
def resizeWindow(title, width, height):
    log(f"size {{width}} {{height}}")
def imshow(title, picture):
    assert picture.flags.c_contiguous  # cv2 refuses others
    log("frame " + " ".join(map(str, picture[0, 0])))
def waitKey(milliseconds):
    assert milliseconds > 0  # 0 waits for ever
    time.sleep(milliseconds / 1000)
    if os.path.exists(folder + "/keys"):
        with open(folder + "/keys") as file:
            keys = file.read().split()
        with open(folder + "/keys.left", "w") as file:
            file.write(" ".join(keys[1:]))
        os.replace(folder + "/keys.left", folder + "/keys")
        return int(keys[0]) if keys else -1
    return -1
def getWindowProperty(title, which):
    return 0.0 if os.path.exists(folder + "/closed") else 1.0
def destroyAllWindows():
    log("destroyed")
"""


@pytest.fixture
def opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that replaces OpenCV in the window's process; its argument is run when a window is
    opened. The folder that it returns gets the file `log`; `keys` and `closed` are read from there.
    """

    def replace_opencv(opening: str = "pass") -> Path:
        (tmp_path / "cv2.py").write_text(FAKE_OPENCV.format(opening=opening))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(window, "_END_S", 60.0)  # a busy machine is slow to close it
        return tmp_path

    return replace_opencv


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until something holds, for a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write_at_once(path: Path, text: str) -> None:
    """Write a file that the window's process never sees empty: it would replace that, and lose the text."""
    with atomic_write(path) as temp_path:
        temp_path.write_text(text)


def show(sink: Sink, shade: int = 10) -> None:
    """Show a frame whose red, green and blue differ."""
    sink.show(np.full((*SIZE, 3), (shade, 20, 30), np.uint8), 0)


@pytest.mark.parametrize("closing", [{"keys": "113"}, {"keys": "27"}, {"keys": "283"}, {"closed": ""}])
def test_window_shows_frames_until_closed(opencv: Callable[[], Path], closing: dict[str, str]) -> None:
    folder = opencv()
    with open_sink("window", 25, SIZE) as sink:
        assert sink.is_open()
        show(sink)
        wait_until(lambda: "frame" in (folder / "log").read_text())
        assert sink.is_open()
        for name, content in closing.items():
            write_at_once(folder / name, content)
        wait_until(lambda: not sink.is_open())
        show(sink)  # is ignored
    lines = (folder / "log").read_text().splitlines()
    assert lines == [
        "open talkinghead",
        "size 512 341",
        "frame 30 20 10",
        "destroyed",
    ]  # cv2's order of colours


def test_window_reports_keys_once(opencv: Callable[[], Path]) -> None:
    folder = opencv()
    with open_sink("window", 25, SIZE) as sink:
        write_at_once(folder / "keys", "109 -1 32")
        keys = ""

        def has_both() -> bool:
            nonlocal keys
            keys += sink.read_keys()
            return len(keys) == 2

        wait_until(has_both)
        assert keys == "m " and sink.read_keys() == "" and sink.is_open()
    assert (folder / "log").read_text().endswith("destroyed\n")


def test_window_shows_newest_frame_and_holds_none(opencv: Callable[[], Path]) -> None:
    folder = opencv()
    with open_sink("window", 25, SIZE) as sink:
        for shade in range(200):
            show(sink, shade)
        wait_until(lambda: "30 20 199" in (folder / "log").read_text())
    assert (folder / "log").read_text().count("frame") < 200


@pytest.mark.parametrize(
    "opening, reason",
    [
        (
            "print('qt.qpa.xcb: could not connect to display :99\\nno plugin', file=sys.stderr, flush=True); "
            "os.abort()",
            "the display cannot be used .*could not connect.*name an .mp4 or v4l2",
        ),
        ("os.abort()", r"the display cannot be used \(SIGABRT\)"),
        ("os._exit(3)", r"the display cannot be used \(exit code 3\)"),
        ("time.sleep(60)", "the display cannot be used .*did not answer"),
        (
            "raise error('not implemented.\\nRebuild the library')",
            r"OpenCV cannot open one \(not implemented. Rebuild .*opencv-python \(without -headless\)",
        ),
    ],
)
def test_unusable_display_reports_user_error(
    opening: str, reason: str, opencv: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opencv(opening)
    if "sleep" in opening:
        monkeypatch.setattr(window, "_START_S", 1.0)
        monkeypatch.setattr(window, "_END_S", 0.1)
    with pytest.raises(TalkingheadError, match=f"^window: {reason}") as caught, open_sink("window", 25, SIZE):
        pass
    assert "\n" not in str(caught.value) and not (folder / "log").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="displays are tested on Linux only")
def test_missing_display_reports_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TalkingheadError, match="window: there is no display"), open_sink("window", 25, SIZE):
        pass


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start an X server without a screen, and make it the display; skip without one."""
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'talkinghead[live]'")
    program = shutil.which("Xvfb")
    if program is None:
        if os.environ.get("TALKINGHEAD_TESTS_NEED_BROWSER"):
            pytest.fail("Xvfb is not installed: apt-get install xvfb")
        pytest.skip("Xvfb, a display without a screen, is not installed: apt-get install xvfb")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        [program, "-displayfd", str(writing), "-screen", "0", "640x480x24", "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as numbers:
        name = f":{numbers.readline().strip()}"
    monkeypatch.setenv("DISPLAY", name)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    yield name
    server.terminate()
    server.wait()


def test_window_opens_where_pyav_is_loaded(display: str) -> None:
    """OpenCV in this very process would hang: PyAV brings another libxcb."""
    import av  # noqa: F401
    from PIL import ImageGrab

    def is_shown() -> bool:
        screen = np.asarray(ImageGrab.grab(xdisplay=display))
        return bool((np.abs(screen.astype(int) - (10, 200, 30)).max(axis=2) < 3).sum() > 50_000)

    with open_sink("window", 25, SIZE) as sink:
        assert not is_shown()
        sink.show(np.full((*SIZE, 3), (10, 200, 30), np.uint8), 0)
        wait_until(is_shown)
        assert sink.is_open()
    wait_until(lambda: not is_shown())


@pytest.mark.skipif(sys.platform != "linux", reason="displays are tested on Linux only")
def test_opencv_on_missing_display_reports_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept both an abort by Qt and an error that OpenCV reports."""
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'talkinghead[live]'")
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with (
        pytest.raises(TalkingheadError, match="^window: .*name an .mp4 or v4l2 as the sink$"),
        open_sink("window", 25, SIZE),
    ):
        pass
