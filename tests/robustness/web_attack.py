"""Attacks on a running server of the page, and a table of what became of them.

    python -m tests.robustness.web_attack                         # starts a server of its own
    python -m tests.robustness.web_attack http://127.0.0.1:8000   # with ?token=... where there is one

Each attack opens its own connections and sends bytes that no browser would send. The two that are slow take
20 seconds, all together as long.
"""

import http.client
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.web_attacker import Attacker

REFUSED = (400, 401, 403, 404, 405, 408, 413, 414, 429, 431)
"""Statuses of HTTP that let nobody in."""


@dataclass(frozen=True)
class Attack:
    """An attack.

    Attributes:
        name: for the table.
        run: does it; returns what the server did, as text.
        expected: beginning of the text of a server that withstands it.
    """

    name: str
    run: Callable[[Attacker], str]
    expected: str


def status(reply: tuple[int, bytes]) -> str:
    """Return a reply's status, and the start of its body where it is more than an error of one line."""
    code, body = reply
    is_one_line = code in REFUSED and body.count(b"\n") == 0 and len(body) < 400
    return str(code) if is_one_line or code in (101, 200) else f"{code} {body[:80]!r}"


def forged(**headers: str) -> Callable[[Attacker], str]:
    """Return an attack that posts with other headers than the page's."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda attacker: status(attacker.request("POST", "/api/session", headers=names))


def path(address: str, method: str = "GET") -> Callable[[Attacker], str]:
    """Return an attack on an address."""

    def run(attacker: Attacker) -> str:
        code, body = attacker.request(method, address)
        return f"{code} leaks a file" if b"root:" in body else status((code, body))

    return run


def hostile_name(name: str) -> Callable[[Attacker], str]:
    """Return an attack by the name of an upload: it must stay a name, within the session's folder."""

    def run(attacker: Attacker) -> str:
        entry = attacker.upload(b"hello", name)
        kept = str(entry.get("name"))
        is_clean = "/" not in kept and kept.isprintable() and len(kept) < 100
        return "cleaned" if is_clean else f"kept as {kept[:40]!r}"

    return run


def refused_file(content: Callable[[], bytes]) -> Callable[[Attacker], str]:
    """Return an attack by the content of an upload."""

    def run(attacker: Attacker) -> str:
        entry = attacker.examine(attacker.upload(content(), "hostile.png"))
        error = str(entry.get("error", ""))
        is_one_line = error.startswith("hostile.png: ") and "\n" not in error and len(error) < 400
        return "refused" if entry.get("state") == "failed" and is_one_line else f"{entry}"

    return run


def body(content: bytes, address: str = "/api/learn") -> Callable[[Attacker], str]:
    """Return an attack by the body of a request."""
    return lambda attacker: status(attacker.request("POST", address, body=content))


ATTACKS = (
    Attack("DNS rebinding: another host name", forged(Host="evil.example"), "403"),
    Attack("DNS rebinding: the host name as a prefix", forged(Host="127.0.0.1.evil.example"), "403"),
    Attack("no host name", forged(Host=""), "40"),
    Attack("cross-site request", forged(Origin="http://evil.example"), "403"),
    Attack("cross-site request from another port", forged(Origin="http://127.0.0.1:1"), "403"),
    Attack("request of a sandboxed page", forged(Origin="null"), "403"),
    Attack("request without an origin", forged(Origin=""), "403"),
    Attack("cross-site WebSocket", lambda one: one.open_socket(origin="http://evil.example"), "403"),
    Attack("WebSocket without a session", lambda one: one.open_socket(has_session=False), "401"),
    Attack("no token", lambda one: one.without_token(""), "403"),
    Attack("wrong token", lambda one: one.without_token("x" * 32), "403"),
    Attack("guessed session", lambda one: one.with_session("A" * 43), "401"),
    Attack("session that is a path", lambda one: one.with_session("../../../../etc"), "401"),
    Attack("another's files", Attacker.read_others_files, "404"),
    Attack("another's person, live", Attacker.drive_others_person, "persons: this one is no longer here"),
    Attack("live without consent", Attacker.drive_without_consent, "consent: is missing"),
    Attack("path traversal, static", path("/static/../../../../../../etc/passwd"), "40"),
    Attack("path traversal, encoded", path("/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd"), "40"),
    Attack("path traversal, twice encoded", path("/static/%252e%252e/%252e%252e/etc/passwd"), "40"),
    Attack("path traversal, absolute", path("/static//etc/passwd"), "40"),
    Attack("path traversal, files", path("/files/pictures/..%2f..%2fstate/look"), "404"),
    Attack("the state file", path("/files/jobs/state/json"), "404"),
    Attack("unknown method", path("/", "TRACE"), "405"),
    Attack("removal of a kind that is none", path("/api/__class__/x", "DELETE"), "400"),
    Attack("name that is a path", hostile_name("../../../../tmp/owned.png"), "cleaned"),
    Attack("name with control characters", hostile_name("a\x00b\r\nSet-Cookie: x=1\x1b[2J"), "cleaned"),
    Attack("name of 4,000 characters", hostile_name("x" * 4000), "cleaned"),
    Attack("name that is HTML", Attacker.read_name_as_json, "application/json"),
    Attack("decompression bomb, PNG", refused_file(Attacker.png_bomb), "refused"),
    Attack("pickle in a .pt2", Attacker.upload_pickle, "refused, not run"),
    Attack("playlist of local files", refused_file(lambda: b"#EXTM3U\nfile:///etc/passwd\n"), "refused"),
    Attack("SVG with a script", refused_file(lambda: b"<svg><script>1</script></svg>"), "refused"),
    Attack("random bytes", refused_file(lambda: bytes(range(256)) * 64), "refused"),
    Attack("oversize by its stated length", Attacker.state_oversize, "413"),
    Attack("negative length", Attacker.state_negative_length, "400"),
    Attack("empty upload", body(b"", "/api/upload/pictures"), "400"),
    Attack("upload of an unknown role", body(b"x", "/api/upload/engines"), "404"),
    Attack("JSON that is none", body(b"{"), "400"),
    Attack("JSON that is a list", body(b"[]"), "400"),
    Attack("JSON nested 60,000 deep", body(b"[" * 60_000), "400"),
    Attack("JSON of 1 MB", body(b" " * (1 << 20)), "413"),
    Attack("header of 100 kB", forged(X_Large="x" * 100_000), "4"),
    Attack("camera picture that is none", lambda one: one.send_live(b"x" * 100), "the camera's picture"),
    Attack("camera picture of 65,000 pixels", Attacker.send_jpeg_bomb, "the camera's picture"),
    Attack("message of 2 MB", Attacker.send_large_message, "closed 1009"),
    Attack("messages that are no JSON", Attacker.send_garbage, "message: cannot be understood"),
    Attack("ten uploads at a time", Attacker.upload_many, "429"),
    Attack("slow headers", Attacker.send_slow_headers, "closed"),
    Attack("slow upload", Attacker.send_slow_body, "408"),
)


def attack(attacker: Attacker) -> list[tuple[Attack, str]]:
    """Run all attacks, several at a time; return what became of each."""

    def run(one: Attack) -> str:
        try:
            return one.run(attacker)
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(6) as pool:
        slow_first = sorted(ATTACKS, key=lambda one: not one.name.startswith("slow"))
        outcomes = dict(zip(slow_first, pool.map(run, slow_first), strict=True))
    return [(one, outcomes[one]) for one in ATTACKS]


def table(outcomes: list[tuple[Attack, str]]) -> list[str]:
    """Return the lines of a table."""
    width = max(len(one.name) for one in ATTACKS)
    return [
        f"{'withstood' if outcome.startswith(one.expected) else 'FAILED':9}  {one.name:{width}}  {outcome}"
        for one, outcome in outcomes
    ]


def attack_own_server(folder: Path) -> list[tuple[Attack, str]]:
    """Start a server with a token, attack it, and check that it still answers."""
    from support.web_server import running_server

    token = "a token of the test's own"
    options = ("--token", token, "--max-upload", "8", "--max-sessions", "1000")
    with running_server(folder / "sessions", *options) as server:
        return attack(Attacker(server.url, token))


def main(arguments: list[str]) -> int:
    """Attack the server of an address, or one of its own; return 1 where an attack succeeded."""
    if arguments:
        address = urlsplit(arguments[0])
        token = parse_qs(address.query).get("token", [""])[0]
        outcomes = attack(Attacker(f"{address.scheme}://{address.netloc}", token))
    else:
        with tempfile.TemporaryDirectory() as folder:
            outcomes = attack_own_server(Path(folder))
    lines = table(outcomes)
    print(*lines, sep="\n")
    return int(any(line.startswith("FAILED") for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
