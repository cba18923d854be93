"""The server of the page by its own addresses: upload, learn, animate, export, live, restart, limits."""

import asyncio
import io
import json
import stat
import struct
import time
import zipfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="aiohttp, which the page needs, is not installed")

import av
from skimage import data

from support import web_media
from support.web_server import WAIT_S, PageClient, WebServer, running_server
from talkinghead.checkpoint import load_person
from talkinghead.pipelines.animate import SYNTHESISED

OPTIONS = ("--max-upload", "2", "--max-sessions", "100")
Work = Callable[[PageClient], Coroutine[Any, Any, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """Return a server with uploads of at most 2 MB."""
    with running_server(tmp_path_factory.mktemp("web") / "sessions", *OPTIONS) as running:
        yield running


@pytest.fixture(scope="module")
def frames(carphone: Path) -> list[np.ndarray]:
    """Return ten frames of a man who speaks."""
    return web_media.carphone_frames(carphone, 10)


@pytest.fixture(scope="module")
def face(frames: list[np.ndarray]) -> bytes:
    """Return a picture of his."""
    return web_media.picture(frames[0])


def run(server: WebServer, work: Work) -> Any:
    """Run a client's work in a session of its own."""

    async def main() -> Any:
        async with PageClient(server.url) as client:
            return await work(client)

    return asyncio.run(main())


def test_picture_becomes_person_video_and_engine(
    server: WebServer, face: bytes, frames: list[np.ndarray], tmp_path: Path
) -> None:
    async def work(client: PageClient) -> None:
        uploaded = await client.add("pictures", face, "folder/anna.png")
        assert (
            uploaded["state"] == "done" and uploaded["name"] == "anna.png" and uploaded["kind"] == "picture"
        )
        look = await client.get_bytes(f"/files/pictures/{uploaded['id']}/look")
        assert web_media.comment_of(look) == ""  # it is no synthesised picture
        person = await client.learn(name="Anna")
        assert person["name"] == "Anna" and person["steps"] == 0 and person["size"] == 64
        file = tmp_path / "anna.safetensors"
        file.write_bytes(await client.get_bytes(f"/files/persons/{person['id']}/file"))
        assert load_person(file).feed_forward
        assert_marked(await client.get_bytes(f"/files/persons/{person['id']}/sample"), tmp_path)
        driver = await client.add("drivers", web_media.video(frames, tmp_path), "bob.mp4")
        (job,) = await client.post("/api/animate", persons=[person["id"]], driver=driver["id"])
        assert (await client.wait("jobs", job))["state"] == "done"
        (result,) = (await client.state())["results"]
        assert result["frames"] == 10 and result["without_face"] == 0
        assert_marked(await client.get_bytes(f"/files/results/{result['id']}/file"), tmp_path)
        picture = await client.add("drivers", face, "face.png")
        (job,) = await client.post("/api/animate", persons=[person["id"]], driver=picture["id"])
        await client.wait("jobs", job)
        still = (await client.state())["results"][-1]
        jpeg = await client.get_bytes(f"/files/results/{still['id']}/file")
        assert web_media.comment_of(jpeg) == SYNTHESISED
        await client.delete(f"/api/persons/{person['id']}")
        left = await client.state()
        assert left["persons"] == left["results"] == []
        await client.get_bytes(f"/files/results/{result['id']}/file", status=404)

    run(server, work)


def assert_marked(video: bytes, folder: Path) -> None:
    """Check that a video says that it is synthesised."""
    path = folder / "checked.mp4"
    path.write_bytes(video)
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == SYNTHESISED


def test_two_persons_are_moved_by_one_driver(
    server: WebServer, face: bytes, frames: list[np.ndarray], tmp_path: Path
) -> None:
    async def work(client: PageClient) -> None:
        await client.add("pictures", face)
        people = [(await client.learn())["id"] for _ in range(2)]
        driver = await client.add("drivers", web_media.video(frames[:3], tmp_path))
        jobs = await client.post("/api/animate", persons=people, driver=driver["id"], layout="side-by-side")
        for job in jobs:
            assert (await client.wait("jobs", job))["state"] == "done"
        results = (await client.state())["results"]
        assert [result["person"] for result in results] == people
        assert {result["driver"] for result in results} == {driver["id"]}

    run(server, work)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("notes.txt", b"hello", "is no picture or video that can be read; choose a JPEG"),
        ("engine.pt2", b"PK\x03\x04" + bytes(100), "is no picture or video that can be read"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture or video"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is no picture or video"),
        ("bomb.png", web_media.png_bomb(), "million pixels"),
        ("coffee.png", web_media.saved(web_media.Image.fromarray(data.coffee()), "PNG"), "no face was found"),
    ],
    ids=["text", "engine", "svg", "playlist", "bomb", "no face"],
)
def test_file_that_cannot_be_used_reports_reason(
    name: str, content: bytes, problem: str, server: WebServer
) -> None:
    async def work(client: PageClient) -> None:
        entry = await client.add("pictures", content, name)
        assert entry["state"] == "failed" and problem in entry["error"]
        assert entry["error"].startswith(f"{name}: ") and str(server.folder) not in entry["error"]
        assert entry["id"] not in entry["error"]
        assert not list(server.folder.rglob(f"{entry['id']}.*"))
        error = await client.post("/api/learn", status=400, model="tiny")
        assert error["error"] == "pictures: there is none to learn from; add one that shows a face"

    run(server, work)


def test_sessions_do_not_see_each_other(server: WebServer, face: bytes) -> None:
    async def other(client: PageClient, uploaded: dict[str, Any]) -> None:
        assert (await client.state())["pictures"] == []
        await client.get_bytes(f"/files/pictures/{uploaded['id']}/look", status=404)
        await client.delete(f"/api/pictures/{uploaded['id']}", status=400)
        client.http.cookie_jar.clear()
        await client.get_bytes("/api/state", status=401)

    async def work(client: PageClient) -> None:
        uploaded = await client.add("pictures", face)
        async with PageClient(server.url) as stranger:
            await other(stranger, uploaded)
        assert len((await client.state())["pictures"]) == 1

    run(server, work)


def test_folder_is_private_and_named_by_hash_of_cookie(server: WebServer) -> None:
    async def work(client: PageClient) -> str:
        (cookie,) = [one for one in client.http.cookie_jar if one.key == "talkinghead_session"]
        assert cookie["httponly"] and cookie["samesite"] == "Strict"
        return cookie.value

    key = run(server, work)
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    for folder in server.folder.iterdir():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and key not in folder.name
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600 or path.name == "state.json"
            assert not path.is_file() or path.suffix != ".json" or key not in path.read_text()


def test_oversized_upload_is_refused(server: WebServer) -> None:
    async def work(client: PageClient) -> None:
        error = await client.upload("pictures", bytes(3 << 20), status=413)
        assert error["error"] == "upload: is larger than 2 MB, the most; choose a smaller file"
        assert (await client.upload("pictures", b"", status=400))["error"].startswith("upload: is empty")
        assert (await client.state())["pictures"] == []

    run(server, work)


def test_stopped_learning_keeps_person_so_far(server: WebServer, face: bytes) -> None:
    async def work(client: PageClient) -> None:
        await client.add("pictures", face)
        job = await client.post("/api/learn", model="tiny", quality="thorough")
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            (current,) = [one for one in (await client.state())["jobs"] if one["id"] == job["id"]]
            if current.get("preview") and (current.get("progress") or {}).get("done"):
                break
            await asyncio.sleep(0.05)
        preview = await client.get_bytes(f"/files/jobs/{job['id']}/preview")
        assert web_media.comment_of(preview) == SYNTHESISED
        await client.post(f"/api/jobs/{job['id']}/stop")
        assert (await client.wait("jobs", job))["state"] == "done"
        person = (await client.state())["persons"][-1]
        assert person["ended_early"] and 0 < person["steps"] < 320

    run(server, work)


def test_removed_session_leaves_no_file_though_its_job_ran(server: WebServer, face: bytes) -> None:
    async def work(client: PageClient) -> None:
        before = set(server.folder.iterdir())
        async with PageClient(server.url) as other:
            await other.add("pictures", face)
            job = await other.post("/api/learn", model="tiny", quality="thorough")
            await other.wait("jobs", job, "running")
            assert len(set(server.folder.iterdir()) - before) == 1
            await other.delete("/api/session")
            await other.get_bytes("/api/state", status=401)
        await client.add("pictures", face)
        await client.learn()  # it waits until the other job has ended
        assert set(server.folder.iterdir()) == before

    run(server, work)


def test_waiting_job_shows_position_and_can_be_stopped(server: WebServer, face: bytes) -> None:
    async def work(client: PageClient) -> None:
        await client.add("pictures", face)
        first = await client.post("/api/learn", model="tiny", quality="thorough")
        await client.wait("jobs", first, "running")
        async with PageClient(server.url) as other:
            await other.add("pictures", face)
            second = await other.post("/api/learn", model="tiny", quality="at-once")
            assert (await other.wait("jobs", second, "waiting"))["position"] == 1
            await other.delete(f"/api/pictures/{second['pictures'][0]}", status=400)  # a job uses it
            await other.post(f"/api/jobs/{second['id']}/stop")
            assert (await other.wait("jobs", second))["state"] == "stopped"
            await other.post(f"/api/jobs/{first['id']}/stop", status=400)  # another's
        await client.post(f"/api/jobs/{first['id']}/stop")
        assert (await client.wait("jobs", first))["state"] == "done"

    run(server, work)


def test_live_frames_come_back_marked(server: WebServer, face: bytes, frames: list[np.ndarray]) -> None:
    async def work(client: PageClient) -> None:
        await client.add("pictures", face)
        person = await client.learn()
        async with client.http.ws_connect("/socket") as socket:
            await socket.send_json({"live": {"person": person["id"]}})
            assert "consent: is missing" in (await live_message(socket))["error"]
            await socket.send_json({"live": {"person": person["id"], "consent": True, "mirror": True}})
            assert await live_message(socket) == {"state": "ready", "size": 64}
            seen = []
            for number, frame in enumerate(frames, 1):
                await socket.send_bytes(struct.pack(">I", number) + web_media.camera_jpeg(frame))
                answer = await binary_message(socket)
                got, has_face = struct.unpack_from(">IB", answer)
                assert got == number
                seen.append(has_face)
                assert web_media.comment_of(answer[5:]) == SYNTHESISED
            assert all(seen)
            await socket.send_bytes(struct.pack(">I", 99) + b"no picture")
            error = (await live_message(socket))["error"]
            assert error.startswith("the camera's picture cannot be read")

    run(server, work)


async def live_message(socket: Any) -> dict[str, Any]:
    """Return the next message of live driving."""
    while True:
        message = await socket.receive(timeout=WAIT_S)
        if isinstance(message.data, str) and "live" in json.loads(message.data):
            return json.loads(message.data)["live"]


async def binary_message(socket: Any) -> bytes:
    """Return the next frame; an error of live driving fails the test."""
    while True:
        message = await socket.receive(timeout=WAIT_S)
        if isinstance(message.data, bytes):
            return message.data
        assert "live" not in json.loads(message.data), message.data


def test_newest_camera_frame_wins(server: WebServer, face: bytes, frames: list[np.ndarray]) -> None:
    async def work(client: PageClient) -> None:
        await client.add("pictures", face)
        person = await client.learn()
        async with client.http.ws_connect("/socket") as socket:
            await socket.send_json({"live": {"person": person["id"], "consent": True}})
            await live_message(socket)
            jpeg = web_media.camera_jpeg(frames[0])
            for number in range(1, 301):
                await socket.send_bytes(struct.pack(">I", number) + jpeg)
            numbers = [0]
            while numbers[-1] != 300:
                numbers += struct.unpack_from(">I", await binary_message(socket))
            assert numbers == sorted(set(numbers)) and len(numbers) < 150

    run(server, work)


@pytest.mark.slow
def test_killed_server_loses_nothing(face: bytes, tmp_path: Path) -> None:
    async def before(client: PageClient, server: WebServer) -> dict[str, Any]:
        await client.add("pictures", face)
        await client.learn(name="First")
        job = await client.post("/api/learn", model="tiny", quality="quick", name="Second")
        await client.wait("jobs", job, "running")
        server.kill()
        return job

    async def main() -> None:
        with running_server(tmp_path / "sessions") as server:
            async with PageClient(server.url) as client:
                job = await before(client, server)
                server.restart()
                assert (await client.wait("jobs", job))["state"] == "done"
                names = [person["name"] for person in (await client.state())["persons"]]
                assert names == ["First", "Second"]
                assert len((await client.state())["pictures"]) == 1
                assert server.stop() == 0

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "aoti"])
def test_engine_is_downloaded(format: str, server: WebServer, face: bytes) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")

    async def work(client: PageClient) -> None:
        await client.add("pictures", face)
        person = await client.learn()
        job = await client.post("/api/export", person=person["id"], format=format)
        ended = await client.wait("jobs", job)
        assert ended["state"] == "done", ended
        (engine,) = (await client.state())["engines"]
        content = await client.get_bytes(f"/files/engines/{engine['id']}/file?download")
        assert len(content) == engine["bytes"] > 10_000
        if format == "aoti":
            names = zipfile.ZipFile(io.BytesIO(content)).namelist()
            assert names[0] == "person.pt2" and names[1].endswith(".json")

    run(server, work)
