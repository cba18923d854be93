"""The command `web`."""

import argparse
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .argument_types import int_in_range, positive_float
from .options import add_device, parse_detector
from .parser import add_command

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead web                                # then open http://127.0.0.1:8000
  talkinghead web --host 0.0.0.0                 # for others in the network; prints the address with a token

Pictures, persons and videos stay on this machine, in --folder, and are there again after a restart.
Ctrl-C ends the server; a job that runs then is started again with the server."""


def add_parser(commands: Any) -> None:
    """Add the parser of `web`."""
    parser = add_command(commands, "web", EXAMPLE)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the address to listen on; any other than the default is reached by others, who need the token "
        "(default: %(default)s, this machine alone)",
    )
    parser.add_argument(
        "--port", type=int_in_range(0, 65535), default=8000, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--token",
        metavar="TEXT",
        help="16 characters or more that a browser must show once (default: with another --host a random "
        "one, which is printed as part of the address; else none)",
    )
    parser.add_argument(
        "--folder",
        metavar="FOLDER",
        help="where uploads and results are kept, private to you (default: talkinghead/web in your folder of "
        "user data)",
    )
    _add_limits(parser)
    parser.add_argument(
        "--landmarks",
        type=parse_detector,
        default="auto",
        metavar="DETECTOR",
        help="the landmark detector (default: %(default)s, the networks of this package)",
    )
    add_device(parser, fast=False)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-upload",
        type=positive_float,
        default=200.0,
        metavar="MB",
        help="the largest file that is taken, in MB (default: %(default)g)",
    )
    parser.add_argument(
        "--max-sessions",
        type=int_in_range(1),
        default=16,
        metavar="N",
        help="browsers whose files are kept at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--max-disk",
        type=positive_float,
        default=8.0,
        metavar="GB",
        help="disk space for all files, in GB (default: %(default)g)",
    )
    parser.add_argument(
        "--max-job",
        type=positive_float,
        default=30.0,
        metavar="MINUTES",
        help="the longest time of one job (default: %(default)g)",
    )
    parser.add_argument(
        "--keep-days",
        type=positive_float,
        default=7.0,
        metavar="DAYS",
        help="days without use after which a browser's files are removed (default: %(default)g)",
    )


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `web`."""
    from ..system.user_folders import data_folder
    from ..web.server import serve
    from ..web.settings import LOOPBACK_HOSTS, Limits, ServerSettings

    token = args.token or ""
    if args.token is None and args.host not in LOOPBACK_HOSTS:
        token = secrets.token_urlsafe(24)
    settings = ServerSettings(
        folder=Path(args.folder) if args.folder else data_folder() / "web",
        host=args.host,
        port=args.port,
        token=token,
        device=args.device,
        landmarks=args.landmarks,
        limits=Limits(
            upload_bytes=int(args.max_upload * (1 << 20)),
            sessions=args.max_sessions,
            disk_bytes=int(args.max_disk * (1 << 30)),
            job_seconds=60 * args.max_job,
            keep_days=args.keep_days,
        ),
    )

    def announce(host: str, port: int) -> None:
        name = f"[{host}]" if ":" in host else host
        query = f"/?token={token}" if token else ""
        console.print(f"files are kept in {settings.folder}, each for {args.keep_days:g} days without use")
        console.print(f"open http://{name}:{port}{query} in a browser; Ctrl-C ends the server")

    serve(settings, announce)
    console.result({"folder": str(settings.folder)}, ["the server has ended"])
