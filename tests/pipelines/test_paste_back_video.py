import sys
from pathlib import Path

import av
import numpy as np
import pytest

import talkinghead.cli as cli
from conftest import RedSquare, draw_video, drawn_frame
from support.red_square_person import red_square_person
from talkinghead import Person, animate_video
from talkinghead.clip import Clip, Track
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.media.images import write_image
from talkinghead.media.video import VideoReader
from talkinghead.pipelines.finetune import finetune
from talkinghead.pipelines.paste_back import PasteBack, find_place

FACES = [(40 + 2 * i, 30, 40) for i in range(4)]
FRAMING = (20 / 64, 20 / 64, 24 / 64)  # left, top and side of the person's red square, fractions of the crop


@pytest.fixture(scope="module")
def person() -> Person:
    return red_square_person("digest", feed_forward=False)


# animate_video


def test_animate_video_into_picture_has_its_size(person: Person, tmp_path: Path) -> None:
    picture = drawn_frame((1080, 1920), (900, 300, 300))
    write_image(tmp_path / "place.png", picture)
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    animation = animate_video(
        person,
        drive,
        tmp_path / "out.mp4",
        detector=RedSquare(),
        retarget="off",
        paste_back=tmp_path / "place.png",
    )
    assert animation.size == (1080, 1920)
    assert animation.frames == len(FACES)
    with av.open(str(animation.out)) as container:
        assert "synthesised by talkinghead" in container.metadata["comment"]
    animate_video(person, drive, tmp_path / "head.mp4", detector=RedSquare(), retarget="off")
    crop = find_place(person, picture, RedSquare())
    place = PasteBack(picture, crop)
    heads = list(VideoReader(tmp_path / "head.mp4"))
    frames = list(VideoReader(animation.out))
    assert len(frames) == len(FACES)
    for frame, head in zip(frames, heads, strict=True):
        assert frame.shape == picture.shape
        assert np.abs(frame[:, :500].astype(int) - picture[:, :500]).max() <= 3
        difference = np.abs(frame.mean(axis=2) - place.frame(head).mean(axis=2))
        assert difference.mean() < 2  # both went through h264


def test_animate_video_into_video_has_its_size(person: Person, tmp_path: Path) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    place = draw_video(tmp_path / "place.mp4", [None, (60, 40, 30)], size=(120, 200))
    animation = animate_video(
        person,
        drive,
        tmp_path / "out.mp4",
        detector=RedSquare(),
        retarget="off",
        paste_back=str(place),
    )
    assert animation.size == (120, 200)
    assert VideoReader(animation.out).size == (120, 200)


def test_animate_video_side_by_side_into_picture_raises(person: Person, tmp_path: Path) -> None:
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    with pytest.raises(TalkingheadError, match="^place.png: only the result is put into a picture"):
        animate_video(person, drive, tmp_path / "o.mp4", "side-by-side", RedSquare(), paste_back="place.png")


@pytest.mark.parametrize("kind", ["missing", "damaged", "faceless"])
def test_animate_video_into_bad_picture_fails_before_work(
    kind: str,
    person: Person,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture, drive = tmp_path / "place.png", draw_video(tmp_path / "drive.mp4", FACES)
    if kind == "damaged":
        picture.write_bytes(b"no picture")
    elif kind == "faceless":
        write_image(picture, drawn_frame((100, 100), None))
    module = sys.modules[animate_video.__module__]
    monkeypatch.setattr(module, "read_track", lambda *rest, **more: pytest.fail("work"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TalkingheadError, match="place.png: "):
        animate_video(person, drive, tmp_path / "out.mp4", detector=RedSquare(), paste_back=picture)
    assert sorted(tmp_path.iterdir()) == before


# the command line


def test_animate_command_with_picture_has_its_size(
    person: Person,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("talkinghead.landmarks.open_detector.open_detector", lambda name, device: RedSquare())
    monkeypatch.setattr("talkinghead.checkpoint.load_person", lambda *names: person)
    write_image(tmp_path / "place.png", drawn_frame((150, 211), (80, 50, 40)))
    drive = draw_video(tmp_path / "drive.mp4", FACES)
    command = ["animate", "person", "--drive", drive, "--out", tmp_path / "out.mp4", "--quiet"]
    more = ["--retarget", "off", "--paste-back", tmp_path / "place.png"]
    assert cli.main([str(argument) for argument in command + more]) == 0
    assert VideoReader(tmp_path / "out.mp4").size == (150, 210)


def test_rank_drivers_command_rejects_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rank-drivers", "person", "clips", "--paste-back", "place.png"]) == 2
    assert "unknown option --paste-back" in capsys.readouterr().err


def test_animate_video_into_picture_adds_scene(guided_model, tmp_path, monkeypatch):
    # For a person whose pictures are shown, the surroundings of the head are the picture it is put into.
    size, framing = guided_model.config.networks.image_size, FRAMING
    own = drawn_frame((size, size), tuple(int(size * part) for part in framing))
    points = RedSquare()(own)
    clip = Clip(Track(points[None], (size, size)), own[None])
    person = finetune(guided_model, clip, steps=0)
    picture = drawn_frame((200, 300), (120, 70, 50), shade=20)
    write_image(tmp_path / "place.png", picture)
    seen = []
    real = sys.modules[animate_video.__module__].render
    monkeypatch.setattr(
        sys.modules[animate_video.__module__],
        "render",
        lambda who, points, **options: seen.append(who) or real(who, points, **options),
    )
    drive, out = draw_video(tmp_path / "drive.mp4", FACES), tmp_path / "out.mp4"
    animate_video(person, drive, out, detector=RedSquare(), retarget="off", paste_back=tmp_path / "place.png")
    references = seen[-1].references
    assert (len(references), references.scene, references.one_scene) == (2, 1, False)
    crop = find_place(person, picture, RedSquare())
    assert np.array_equal(references.images[1], crop.pixels(picture, size))
    np.testing.assert_allclose(references.landmarks[1], crop.points(RedSquare()(picture), 1), atol=1e-5)
    assert len(person.references) == 1  # the caller's person is unchanged

    engine = TorchEngine(person)
    before, viewer = engine.run(points[None] / size), engine.viewer
    animate_video(
        person,
        drive,
        out,
        detector=RedSquare(),
        retarget="off",
        paste_back=tmp_path / "place.png",
        engine=engine,
    )
    assert engine.viewer is viewer and np.array_equal(
        engine.run(points[None] / size), before
    )  # and so is the engine
