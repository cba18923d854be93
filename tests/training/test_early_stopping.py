import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import talkinghead.cli as cli
from conftest import RedSquare, draw_video, face_clip, face_points
from talkinghead.checkpoint import load_person
from talkinghead.clip import Clip
from talkinghead.errors import TalkingheadError
from talkinghead.model import random_model
from talkinghead.pretrained.perceptual import PerceptualNetwork
from talkinghead.training import early_stopping
from talkinghead.training.early_stopping import (
    CHECK_EVERY_STEPS,
    PATIENCE_STEPS,
    HoldOutLoss,
    finetune_with_early_stopping,
    split,
)


class Halves(PerceptualNetwork):
    layers, weights = ("half",), (1.0,)

    def forward(self, images):
        return [F.avg_pool2d(images, 2)]


def moved(clip: Clip, number: int, by: float) -> Clip:
    """Return the clip with one frame's mouth opened by a share of the frame."""
    points = clip.track.landmarks.copy()
    points[number, 55:60, 1] += by * clip.track.size[0]
    track = copy.copy(clip.track)
    object.__setattr__(track, "landmarks", points)
    return Clip(track, clip.frames, clip.name)


def test_split_holds_out_most_unusual_image(carphone_clip):
    clip = moved(carphone_clip[[0] * 5], 3, 0.2)
    learned, watched = split(clip)
    assert watched is not None and len(learned) == 4 and len(watched) == 1
    assert np.array_equal(watched.track.landmarks[0], clip.track.landmarks[3])
    few = carphone_clip[:3]
    assert split(few)[0] is few and split(few)[1] is None


def scripted(monkeypatch, distances):
    """Replace the hold-out losses by these values, and return the steps at which they were asked for."""
    looked = []

    def distance(self, person):
        looked.append(person.provenance["steps"])
        return distances[min(len(looked), len(distances)) - 1]

    monkeypatch.setattr(HoldOutLoss, "distance", distance)
    monkeypatch.setattr(early_stopping, "CHECK_EVERY_STEPS", 1)
    monkeypatch.setattr(early_stopping, "PATIENCE_STEPS", 3)
    return looked


def test_early_stopping_returns_best_person_after_patience(carphone_clip, monkeypatch):
    model, clip = random_model("tiny"), carphone_clip[:2]
    looked = scripted(monkeypatch, [5.0, 3.0, 2.99, 4.0, 2.98, 1.0])
    person = finetune_with_early_stopping(model, clip, max_steps=9, adversarial=False, perceptual=[Halves()])
    assert looked == [1, 2, 3, 4, 5]  # 2.99 and 2.98 are not a hundredth better
    assert person.provenance["steps"] == 2 and person.provenance["pictures"] == 2
    assert person.provenance["stopped"] == {
        "by": "views of the pictures",
        "distance": {"1": 5.0, "2": 3.0, "3": 2.99, "4": 4.0, "5": 2.98},
    }
    people = early_stopping.finetune_at_steps(model, clip, [2], adversarial=False, perceptual=[Halves()])
    assert torch.equal(person.generator.out.weight, next(iter(people)).generator.out.weight)


def test_early_stopping_with_improving_loss_reaches_max_steps(carphone_clip, monkeypatch):
    looked = scripted(monkeypatch, [5.0, 4.0, 3.0, 2.0])
    person = finetune_with_early_stopping(
        random_model("tiny"), carphone_clip[:4], max_steps=4, adversarial=False, perceptual=[Halves()]
    )
    assert looked == [1, 2, 3, 4] and person.provenance["steps"] == 4
    assert person.provenance["stopped"]["by"] == "a picture held out" and person.provenance["pictures"] == 4


@pytest.mark.parametrize("pictures", [2, 5])
def test_hold_out_loss_falls_during_fine_tuning(carphone_clip, pictures, monkeypatch):
    monkeypatch.setattr(early_stopping, "CHECK_EVERY_STEPS", 8)
    person = finetune_with_early_stopping(
        random_model("tiny"), carphone_clip[::20][:pictures], 24, adversarial=False, perceptual=[Halves()]
    )
    distances = list(person.provenance["stopped"]["distance"].values())
    assert len(distances) == 3 and distances[2] < 0.9 * distances[0]


@pytest.mark.parametrize("pictures, by", [(1, "views of the pictures"), (5, "a picture held out")])
def test_guided_early_stopping_returns_all_references(guided_model, pictures, by, monkeypatch):
    monkeypatch.setattr(early_stopping, "CHECK_EVERY_STEPS", 2)
    clip = face_clip(face_points((0, 0), (0.06, 0.02), (-0.06, 0), (0.02, -0.06), (0.09, 0.09))[:pictures])
    person = finetune_with_early_stopping(guided_model, clip, max_steps=4, perceptual=[Halves()])
    stopped = person.provenance["stopped"]
    assert (
        stopped["by"] == by
        and list(stopped["distance"]) == ["2", "4"]
        and person.provenance["pictures"] == pictures
    )
    assert len(person.references) == pictures and not person.feed_forward
    assert np.array_equal(person.references.landmarks, clip.track.landmarks / 64)
    assert np.abs(person.references.images.astype(int) - clip.frames).mean() < 2
    assert all(0 < distance < 10 for distance in stopped["distance"].values())


def test_guided_hold_out_loss_warps_few_references(guided_model, guided_clip):
    """Check that the references are warped for one image, and are the others for a held-out image."""
    clip, network = guided_clip[:1], Halves()
    person = next(iter(early_stopping.finetune_at_steps(guided_model, clip, [1], perceptual=[network])))
    calls = []
    real = person.generator.forward
    person.generator.forward = lambda landmark_images, styles, views: (
        calls.append((landmark_images, views)) or real(landmark_images, styles, views)
    )
    of_views, of_others = (
        HoldOutLoss(guided_model, clip, [network], True, 0),
        HoldOutLoss(guided_model, guided_clip[[2]], [network], False, 0),
    )
    distances = of_views.distance(person), of_others.distance(person)
    (landmark_images, views), (_, of_first) = calls
    assert (
        landmark_images.shape == (8, 3, 32, 32) and (landmark_images == landmark_images[:1]).all()
    )  # the picture itself is what is wanted
    assert (
        views.warped.shape == (8, 3, 64, 64)
        and (views.warped - views.warped[:1]).abs().amax((1, 2, 3))[1:].min() > 0.02
    )
    assert views.motion.abs().amax((1, 2, 3)).min() > 0.003
    assert of_first.warped.shape == (1, 3, 64, 64) and of_first.motion.abs().max() > 0.02
    assert all(distance > 0 for distance in distances) and of_views.distance(person) == distances[0]


def test_guided_hold_out_loss_falls_during_fine_tuning(guided_model, guided_clip, monkeypatch):
    monkeypatch.setattr(early_stopping, "CHECK_EVERY_STEPS", 15)
    for clip in (guided_clip, guided_clip[:2]):
        person = finetune_with_early_stopping(
            guided_model, clip, max_steps=45, adversarial=False, perceptual=[Halves()]
        )
        distances = list(person.provenance["stopped"]["distance"].values())
        assert distances[-1] < 0.9 * distances[0]


def test_early_stopping_rejects_zero_steps(carphone_clip, monkeypatch):
    assert PATIENCE_STEPS % CHECK_EVERY_STEPS == 0
    stages_seen = []
    monkeypatch.setattr(
        early_stopping,
        "finetune_at_steps",
        lambda model, clip, stages, *_, **__: stages_seen.append(stages) or iter(()),
    )
    with pytest.raises(AssertionError):
        finetune_with_early_stopping(random_model("tiny"), carphone_clip[:2], perceptual=[Halves()])
    assert stages_seen[0][0] == CHECK_EVERY_STEPS and stages_seen[0][-1] == 640
    with pytest.raises(TalkingheadError, match="steps 0: expected 1 or more with early stopping"):
        finetune_with_early_stopping(
            random_model("tiny"), carphone_clip[:2], max_steps=0, perceptual=[Halves()]
        )


def test_finetune_command_prints_where_it_stopped(tmp_path, monkeypatch, capsys):
    scripted(monkeypatch, [3.0, 5.0])
    monkeypatch.setattr(early_stopping, "open_perceptual", lambda *_: [Halves()])
    monkeypatch.setattr("talkinghead.landmarks.open_detector.open_detector", lambda name, device: RedSquare())
    drive = draw_video(tmp_path / "drive.mp4", [(40 + i, 30, 40) for i in range(4)])
    command = [
        "finetune",
        str(drive),
        "--shots",
        "4",
        "--no-adversarial",
        "--steps",
        "2",
        "--early-stopping",
        "--out",
        str(tmp_path / "p"),
    ]
    assert cli.main(command) == 0
    assert (
        "a person from 4 pictures, 1 step, where the distance to a picture held out was least"
        in capsys.readouterr().out
    )
    assert load_person(tmp_path / "p").provenance["stopped"]["distance"] == {"1": 3.0, "2": 5.0}
