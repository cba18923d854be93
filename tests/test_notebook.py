"""The public API as a user's notebook: one cell a test, on real frames, with every type of argument."""

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

import talkinghead as th
from talkinghead.data.crop import crop_around
from talkinghead.media.images import write_image
from talkinghead.media.video import VideoReader

SIZE = 64


@pytest.fixture(scope="module")
def frames(carphone: Path) -> list[np.ndarray]:
    """Return four whole frames uint8 [144, 176, 3] of the clip."""
    return list(VideoReader(carphone))[:40:10]


@pytest.fixture(scope="module")
def picture(frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a picture file of the man."""
    path = tmp_path_factory.mktemp("pictures") / "anna.png"
    write_image(path, frames[0])
    return path


@pytest.fixture(scope="module")
def person(frames: list[np.ndarray]) -> th.Person:
    """Return a person of `tiny`, from two pictures in memory, fine-tuned a little."""
    return th.finetune("tiny", frames[:2], steps=1, adversarial=False)


@pytest.fixture(scope="module")
def track(carphone_clip: th.Clip) -> th.Track:
    """Return three frames of landmarks."""
    return carphone_clip.track[:3]


def first(frames: Iterator[np.ndarray]) -> np.ndarray:
    """Return the first frame, checked."""
    frame = next(frames)
    assert frame.shape == (SIZE, SIZE, 3) and frame.dtype == np.uint8 and frame.std() > 10
    return frame


# What goes in: pictures


def test_cell_finetune_from_a_path(picture: Path) -> None:
    assert th.finetune("tiny", picture, steps=0).provenance["pictures"] == 1


def test_cell_finetune_from_a_list_of_mixed_types(picture: Path, frames: list[np.ndarray]) -> None:
    tensor = torch.from_numpy(frames[2]).permute(2, 0, 1) / 255
    with open(picture, "rb") as file:
        person = th.finetune(
            "tiny",
            [str(picture), Image.fromarray(frames[1]), frames[2], tensor, picture.read_bytes(), file],
            steps=0,
        )
    assert person.provenance["pictures"] == 6
    assert person.provenance["source"] == "anna.png and 5 more"


def test_cell_finetune_gives_the_same_person_for_every_type_of_picture(
    picture: Path, frames: list[np.ndarray]
) -> None:
    one = th.finetune("tiny", picture, steps=0)
    for same in (frames[0], Image.fromarray(frames[0]), torch.from_numpy(frames[0]).permute(2, 0, 1)):
        assert torch.equal(th.finetune("tiny", same, steps=0).styles, one.styles)


def test_cell_finetune_from_a_video_takes_frames_of_it(carphone: Path) -> None:
    assert th.finetune("tiny", carphone, steps=0, shots=3).provenance["pictures"] == 3


def test_cell_finetune_from_a_model_object_and_a_clip(carphone_clip: th.Clip) -> None:
    model = th.load_model("tiny")
    person = th.finetune(model, carphone_clip[:4], steps=0)
    assert person.feed_forward and model.device == person.device


def test_cell_read_clip_of_pictures_in_memory(frames: list[np.ndarray]) -> None:
    clip = th.read_clip(np.stack(frames), size=SIZE)
    assert len(clip) == 4 and clip[0].shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("pictures", "problem"),
    [
        ([], "finetune: no pictures to learn from; give at least one picture or video"),
        (None, "finetune: pictures: got NoneType None; give a path, bytes, an open file, a PIL image"),
        ([3.5], "finetune: picture 1: got float 3.5; give a path"),
        (["absent.jpg"], "absent.jpg: no such file"),
        (np.zeros((3, 64, 64), np.uint8), "is an array [3, 64, 64], expected [H, W, 3]"),
        (np.zeros((64, 64, 3), np.uint8), "picture 1: no face was found in it"),
        (b"nothing", "picture 1: cannot be read as a picture"),
    ],
)
def test_cell_finetune_of_no_picture_says_what_would_do(pictures: Any, problem: str) -> None:
    with pytest.raises(th.TalkingheadError) as caught:
        th.finetune("tiny", pictures, steps=0)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        (3, "finetune: got int to start from; give a Model, its name or file, or a Person"),
        ("huge", "huge: no such file, and no model that comes with the package"),
    ],
)
def test_cell_finetune_from_no_model_says_what_would_do(start: Any, problem: str, picture: Path) -> None:
    with pytest.raises(th.TalkingheadError, match=problem):
        th.finetune(start, picture)


def test_cell_random_model_is_named_none() -> None:
    one, other = th.load_model("none", seed=1), th.load_model("none", seed=2)
    assert not torch.equal(one.generator.out.weight, other.generator.out.weight)


# What goes in: drivers


def test_cell_animate_by_a_track(person: th.Person, track: th.Track) -> None:
    assert len(list(th.animate(person, track))) == 3


def test_cell_animate_by_landmarks(person: th.Person, track: th.Track) -> None:
    expected = first(th.animate(person, track))
    for landmarks in (track.landmarks, torch.from_numpy(track.landmarks), track.landmarks.astype(np.float64)):
        assert np.array_equal(first(th.animate(person, landmarks)), expected)
    assert len(list(th.animate(person, track[0]))) == 1


def test_cell_animate_by_a_path(person: th.Person, carphone: Path) -> None:
    assert len(list(th.animate(person, carphone, retarget="on"))) == 120


def test_cell_animate_by_an_iterator_of_frames(person: th.Person, frames: list[np.ndarray]) -> None:
    images = (Image.fromarray(frame) for frame in frames)
    results = list(th.animate(person, images))
    assert len(results) == 4
    repeated = list(th.animate(person, frames))
    assert all(np.array_equal(a, b) for a, b in zip(results, repeated, strict=True))


def test_cell_animate_by_a_clip(person: th.Person, carphone_clip: th.Clip) -> None:
    assert len(list(th.animate(person, carphone_clip[:2]))) == 2


def test_cell_animate_by_a_picture(person: th.Person, picture: Path) -> None:
    expected = first(th.animate(person, picture))
    for same in (Image.open(picture), np.asarray(Image.open(picture))):
        assert np.array_equal(first(th.animate(person, same)), expected)


def test_cell_engine_file_and_steps_of_wrong_type_say_what_would_do(
    person: th.Person, track: th.Track, picture: Path
) -> None:
    with pytest.raises(th.TalkingheadError, match="engine: got str; open the file by talk"):
        th.animate(person, track, engine="anna.onnx")  # type: ignore[arg-type]
    for steps in ("1", 1.5, True):
        with pytest.raises(th.TalkingheadError, match="steps .*: is no whole number; give one, such as 40"):
            th.finetune("tiny", picture, steps=steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("drive", "problem"),
    [
        (7, "animate: driver: got int 7; give a path of a video, a Track, landmarks [N, 68 or 78, 2]"),
        (None, "animate: driver: got NoneType None; give"),
        (b"bytes", "animate: driver: got bytes b'bytes'; give"),
        ([], "animate: the driver has no frames; give at least one"),
        (np.zeros((0, 68, 2)), "animate: the driving track has no frames"),
        (np.full((1, 68, 2), np.nan), "Track: landmarks of frame 0 are not finite; leave that frame out"),
        (np.zeros((1, 68, 2)), "there are no landmarks, or all are one point; give a video"),
        ("absent.mp4", "absent.mp4: no such file"),
        (
            [np.zeros((64, 64, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)],
            "frame 2 is 32x32",
        ),
        ([np.zeros((64, 64, 3), np.uint8)], "no face was found"),
    ],
)
def test_cell_animate_by_no_driver_says_what_would_do(person: th.Person, drive: Any, problem: str) -> None:
    with pytest.raises(th.TalkingheadError) as caught:
        list(th.animate(person, drive))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("retarget", "problem"),
    [
        (True, 'is a bool; write "on"'),
        (False, 'is a bool; write "off"'),
        ("yes", "is unknown; choose one of auto, on, off"),
    ],
)
def test_cell_retarget_takes_three_words(
    person: th.Person, track: th.Track, retarget: Any, problem: str
) -> None:
    for call in (
        lambda: th.animate(person, track, retarget=retarget),
        lambda: th.animate_video(person, "bob.mp4", "out.mp4", retarget=retarget),
        lambda: th.live(person, "bob.mp4", "out.mp4", retarget=retarget),
    ):
        with pytest.raises(th.TalkingheadError, match=f"^retarget .*: {problem}"):
            call()


def test_cell_retarget_on_and_off_differ_and_auto_without_frames_is_on(
    person: th.Person, track: th.Track
) -> None:
    results = {how: first(th.animate(person, track, retarget=how)) for how in ("on", "off", "auto")}
    assert np.array_equal(results["auto"], results["on"])
    assert not np.array_equal(results["off"], results["on"])


def test_cell_person_drives_themself_in_their_own_crop(person: th.Person, carphone: Path) -> None:
    clip = th.read_clip(carphone, size=SIZE, limit=3)
    square = crop_around(clip.track.landmarks, clip.track.size)
    assert len(list(th.animate(person, clip.track, square))) == 3


# Callbacks, devices and precision


def test_cell_tqdm_shows_progress_and_on_step_is_called(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, int]] = []
    th.finetune(
        "tiny",
        [picture],
        steps=2,
        adversarial=False,
        progress=tqdm,
        on_step=lambda step, steps, metrics: seen.append((step, steps)),
    )
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("callbacks", [{"progress": lambda step, steps, metrics: None}, {"on_step": tqdm}])
def test_cell_callbacks_of_the_other_kind_are_refused(picture: Path, callbacks: dict[str, Any]) -> None:
    with pytest.raises(th.TalkingheadError, match="cannot be called as"):
        th.finetune("tiny", picture, steps=0, **callbacks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_cell_device_that_is_not_there_is_one_line(person: th.Person, track: th.Track, picture: Path) -> None:
    calls = (
        lambda: th.finetune("tiny", picture, device="cuda"),
        lambda: th.animate(person, track, device="cuda"),
        lambda: th.animate_video(person, "bob.mp4", "out.mp4", device="cuda"),
        lambda: person.to("cuda"),
        lambda: th.load_model("tiny").to("cuda"),
        lambda: th.open_engine("absent.onnx", device="cuda"),
    )
    for call in calls[:-1]:
        with pytest.raises(th.TalkingheadError, match=r"^device 'cuda': torch .* sees no GPU.*; choose cpu"):
            call()
    for device in ("gpu", "mps", 7.5):
        with pytest.raises(th.TalkingheadError, match=r"^device .*: (is unknown|networks run on)"):
            th.animate(person, track, device=device)  # type: ignore[arg-type]


def test_cell_models_and_persons_move_by_to(person: th.Person) -> None:
    assert person.to("cpu") is person and person.to("auto").device.type in ("cpu", "cuda")
    model = th.load_model("tiny").to(torch.device("cpu"))
    assert model.device.type == "cpu"


def test_cell_precision_is_an_argument_everywhere(person: th.Person, track: th.Track, picture: Path) -> None:
    for precision in ("fp32", "bf16", "auto"):
        first(th.animate(person, track, precision=precision))
    tuned = th.finetune("tiny", picture, steps=1, adversarial=False, precision="fp32")
    assert tuned.provenance["precision"] == "fp32"
    with pytest.raises(th.TalkingheadError, match="precision 'fp16': fine-tuning runs in fp32 or bf16"):
        th.finetune("tiny", picture, precision="fp16")


# What comes out


@pytest.mark.slow
def test_cell_repr_fits_into_a_few_lines(person: th.Person, carphone_clip: th.Clip, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")
    person.export(tmp_path / "anna.onnx", "onnx", batch=1)
    engine = th.open_engine(tmp_path / "anna.onnx", person)
    for value in (th.load_model("tiny"), person, carphone_clip, carphone_clip.track, engine):
        assert len(repr(value)) < 240 and "\n" not in repr(value)
    assert repr(person).startswith("Person(of 'tiny', 64x64, 1 step,")
    assert repr(engine).startswith("OnnxEngine(onnx, 64x64, fp32")
    track = carphone_clip.track[:1]
    by_torch = first(th.animate(person, track, precision="fp32")).astype(int)
    assert np.abs(first(th.animate(person, track, engine=engine)) - by_torch).max() < 3


def test_cell_clip_is_a_sequence_of_frames(carphone_clip: th.Clip) -> None:
    clip = carphone_clip[:3]
    assert [frame.shape for frame in clip] == [(SIZE, SIZE, 3)] * 3
    assert len(clip) == 3 and clip[1:] == carphone_clip[1:3] and clip.track[0].shape == (68, 2)


def test_cell_person_methods_are_the_functions(person: th.Person, track: th.Track, tmp_path: Path) -> None:
    person.save(tmp_path / "anna.safetensors")
    reloaded = th.load_person(tmp_path / "anna.safetensors")
    expected = first(th.animate(person, track))
    for frames in (
        person.animate(track),
        reloaded.animate(track),
        th.animate(tmp_path / "anna.safetensors", track),
    ):
        assert np.array_equal(first(frames), expected)


def test_cell_metrics_compare_frames(person: th.Person, carphone_clip: th.Clip, track: th.Track) -> None:
    result = first(th.animate(person, track))
    truth = carphone_clip[0]
    assert 0 < th.metrics.ssim(result[None], truth[None]) < 1
    assert 5 < th.metrics.psnr(result[None], truth[None]) < 60


def test_cell_callers_state_is_left_alone(picture: Path, track: th.Track, capfd: Any) -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = caller_state()
    with torch.no_grad():
        person = th.finetune("tiny", picture, steps=1)
        list(th.animate(person, track))
        assert not torch.is_grad_enabled()
    assert caller_state() == before
    assert capfd.readouterr() == ("", "")


def caller_state() -> list[Any]:
    """Return settings that belong to the caller."""
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        logging.getLogger().level,
        list(logging.getLogger().handlers),
        logging.getLogger("talkinghead").level,
        logging.getLogger("talkinghead").propagate,
    ]


# The rest of a person's life


def test_cell_live_from_a_video_to_a_file(person: th.Person, carphone: Path, tmp_path: Path) -> None:
    report = th.live(person, carphone, tmp_path / "out.mp4", seconds=0.4, realtime=False, detector="network")
    assert report.frames == report.captured > 5 and (tmp_path / "out.mp4").stat().st_size > 500


def test_cell_person_learns_further(person: th.Person, frames: list[np.ndarray], tmp_path: Path) -> None:
    person.save(tmp_path / "anna.safetensors", keep_discriminator=True)
    start = th.load_person(tmp_path / "anna.safetensors")
    further = th.finetune(start, frames[2], steps=1)
    assert further.provenance["steps"] == 2 and "in it" not in repr(further)


def test_cell_video_of_a_person_is_written(person: th.Person, carphone: Path, tmp_path: Path) -> None:
    animation = th.animate_video(person, carphone, tmp_path / "out.mp4", retarget="on", progress=tqdm)
    assert animation.frames == 120 and (tmp_path / "out.mp4").stat().st_size > 1000


def test_cell_evaluate_and_prepare_check_what_they_get(tmp_path: Path) -> None:
    with pytest.raises(th.TalkingheadError, match="methods: 'magic' is unknown; choose of feed-forward"):
        th.evaluate("tiny", tmp_path, tmp_path / "out", methods=["magic"])
    for work in (th.prepare, lambda videos, out: th.evaluate("tiny", videos, out)):
        with pytest.raises(th.TalkingheadError, match="absent"):
            work(tmp_path / "absent", tmp_path / "out")
