"""Settings and limits of the server."""

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import TalkingheadError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN_CHARACTERS = 16


@dataclass(frozen=True)
class Limits:
    """Limits of what users may do.

    Attributes:
        upload_bytes: of one file.
        pictures: that a person is learned from; of drivers and persons as many again.
        clip_seconds: of one video.
        chunk_timeout_s: seconds without a byte after which an upload is given up.
        min_upload_rate: bytes a second that an upload must have on average after `upload_grace_s` seconds.
        job_seconds: after which a job is ended.
        session_jobs: that wait or run at a time.
        sessions: that exist at a time; the oldest empty one makes room.
        session_bytes: of all files of one session.
        disk_bytes: of all sessions.
        keep_days: without use after which a session is removed.
        live: people who are driven live at a time.
        sockets: open tabs of one session.
    """

    upload_bytes: int = 200 << 20
    pictures: int = 32
    clip_seconds: float = 300.0
    chunk_timeout_s: float = 15.0
    upload_grace_s: float = 20.0
    min_upload_rate: float = 10_000.0
    job_seconds: float = 1800.0
    session_jobs: int = 8
    sessions: int = 16
    session_bytes: int = 2 << 30
    disk_bytes: int = 8 << 30
    keep_days: float = 7.0
    live: int = 2
    sockets: int = 8


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes:
        folder: of all sessions.
        host, port: to listen on; port 0 is any free one.
        token: that a browser must show once, empty for none.
        device: where networks run.
        landmarks: the landmark detector.
        limits: of what users may do.
    """

    folder: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str = ""
    device: str = "auto"
    landmarks: str = "auto"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.is_local and not self.token:
            raise TalkingheadError(
                f"host {self.host}: is reached by others, and there is no token; "
                "give one, or leave the host out"
            )
        if self.token and len(self.token) < MIN_TOKEN_CHARACTERS:
            raise TalkingheadError(
                f"token: has {len(self.token)} characters; give {MIN_TOKEN_CHARACTERS} or more, or leave "
                "it out for a random one"
            )

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can reach the server."""
        return self.host in LOOPBACK_HOSTS
