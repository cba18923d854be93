"""Videos with a sound track."""

from pathlib import Path
from typing import Any

import av
import numpy as np

from conftest import drawn_frame


def sounding_video(path: Path, codec: str, seconds: int, rate: int = 44100) -> Path:
    """Write grey frames at 25 fps, with a tone of 440 Hz that is loud in the second half."""
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("mpeg1video" if path.suffix == ".mpg" else "libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound: Any = container.add_stream(codec, rate=rate, layout="mono")
        for number in range(25 * seconds):
            container.mux(
                pictures.encode(
                    av.VideoFrame.from_ndarray(drawn_frame((48, 64), None, number), format="rgb24")
                )
            )
        container.mux(pictures.encode(None))
        time = np.arange(rate * seconds) / rate
        wave = (np.sin(2 * np.pi * 440 * time) * np.where(time < seconds / 2, 0.05, 0.8)).astype(np.float32)[
            None
        ]
        resampler = av.AudioResampler(format=sound.codec_context.format, layout="mono", rate=rate)
        for start in range(0, wave.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(wave[:, start : start + 1024]), format="fltp", layout="mono"
            )
            frame.rate, frame.pts = rate, start
            for piece in resampler.resample(frame):
                container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path
