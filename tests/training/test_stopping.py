import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import talkinghead.cli as cli
from conftest import RedSquare, draw_video, face_clip, face_points
from talkinghead.checkpoint import load_person, random_model
from talkinghead.clip import Clip
from talkinghead.errors import TalkingheadError
from talkinghead.perceptual import PerceptualNetwork
from talkinghead.training import stopping
from talkinghead.training.stopping import LOOK_EVERY, PATIENCE, Watch, finetune_until_settled, split


class Halves(PerceptualNetwork):
    layers, weights = ("half",), (1.0,)

    def forward(self, images):
        return [F.avg_pool2d(images, 2)]


def moved(clip: Clip, number: int, by: float) -> Clip:
    """The clip with one frame's mouth opened by a share of the frame."""
    points = clip.track.landmarks.copy()
    points[number, 55:60, 1] += by * clip.track.size[0]
    track = copy.copy(clip.track)
    object.__setattr__(track, "landmarks", points)
    return Clip(track, clip.frames, clip.name)


def test_of_enough_pictures_the_most_unusual_is_held_out(carphone_clip):
    clip = moved(carphone_clip[[0] * 5], 3, 0.2)
    learned, watched = split(clip)
    assert watched is not None and len(learned) == 4 and len(watched) == 1
    assert np.array_equal(watched.track.landmarks[0], clip.track.landmarks[3])
    few = carphone_clip[:3]
    assert split(few)[0] is few and split(few)[1] is None


def scripted(monkeypatch, distances):
    """Persons whose distance is as told, and the steps at which they were made."""
    looked = []

    def distance(self, person):
        looked.append(person.provenance["steps"])
        return distances[min(len(looked), len(distances)) - 1]

    monkeypatch.setattr(Watch, "distance", distance)
    monkeypatch.setattr(stopping, "LOOK_EVERY", 1)
    monkeypatch.setattr(stopping, "PATIENCE", 3)
    return looked


def test_it_stops_when_nothing_gets_better_and_gives_the_best(carphone_clip, monkeypatch):
    model, clip = random_model("tiny"), carphone_clip[:2]
    looked = scripted(monkeypatch, [5.0, 3.0, 2.99, 4.0, 2.98, 1.0])
    person = finetune_until_settled(model, clip, most=9, adversarial=False, perceptual=[Halves()])
    assert looked == [1, 2, 3, 4, 5]  # 2.99 and 2.98 are not a hundredth better
    assert person.provenance["steps"] == 2 and person.provenance["pictures"] == 2
    assert person.provenance["stopped"] == {
        "by": "views of the pictures",
        "distance": {"1": 5.0, "2": 3.0, "3": 2.99, "4": 4.0, "5": 2.98},
    }
    again = stopping.finetune_stages(model, clip, [2], adversarial=False, perceptual=[Halves()])
    assert torch.equal(person.generator.out.weight, next(iter(again)).generator.out.weight)


def test_it_goes_on_to_the_end_while_things_get_better(carphone_clip, monkeypatch):
    looked = scripted(monkeypatch, [5.0, 4.0, 3.0, 2.0])
    person = finetune_until_settled(random_model("tiny"), carphone_clip[:4], most=4, adversarial=False, perceptual=[Halves()])
    assert looked == [1, 2, 3, 4] and person.provenance["steps"] == 4
    assert person.provenance["stopped"]["by"] == "a picture held out" and person.provenance["pictures"] == 4


@pytest.mark.parametrize("pictures", [2, 5])
def test_the_distance_falls_as_a_person_is_learned(carphone_clip, pictures, monkeypatch):
    monkeypatch.setattr(stopping, "LOOK_EVERY", 8)
    person = finetune_until_settled(random_model("tiny"), carphone_clip[::20][:pictures], 24, adversarial=False, perceptual=[Halves()])
    distances = list(person.provenance["stopped"]["distance"].values())
    assert len(distances) == 3 and distances[2] < 0.9 * distances[0]


@pytest.mark.parametrize("pictures, by", [(1, "views of the pictures"), (5, "a picture held out")])
def test_guided_early_stopping_shows_all_pictures(guided_model, pictures, by, monkeypatch):
    monkeypatch.setattr(stopping, "LOOK_EVERY", 2)
    clip = face_clip(face_points((0, 0), (0.06, 0.02), (-0.06, 0), (0.02, -0.06), (0.09, 0.09))[:pictures])
    person = finetune_until_settled(guided_model, clip, most=4, perceptual=[Halves()])
    stopped = person.provenance["stopped"]
    assert stopped["by"] == by and list(stopped["distance"]) == ["2", "4"] and person.provenance["pictures"] == pictures
    assert len(person.references) == pictures and not person.feed_forward
    assert np.array_equal(person.references.landmarks, clip.track.landmarks / 64)
    assert np.abs(person.references.pictures.astype(int) - clip.frames).mean() < 2
    assert all(0 < distance < 10 for distance in stopped["distance"].values())


def test_guided_watch_shows_bent_pictures_of_few(guided_model, guided_clip):
    """What is watched is not shown as it is: of one picture the references are bent, of a picture held out they are the others."""
    clip, network = guided_clip[:1], Halves()
    person = next(iter(stopping.finetune_stages(guided_model, clip, [1], perceptual=[network])))
    shown = []
    real = person.generator.forward
    person.generator.forward = lambda drawn, styles, views: shown.append((drawn, views)) or real(drawn, styles, views)
    of_views, of_others = Watch(guided_model, clip, [network], True, 0), Watch(guided_model, guided_clip[[2]], [network], False, 0)
    distances = of_views.distance(person), of_others.distance(person)
    (drawn, views), (_, of_first) = shown
    assert drawn.shape == (8, 3, 32, 32) and (drawn == drawn[:1]).all()  # the picture itself is what is wanted
    assert views.warped.shape == (8, 3, 64, 64) and (views.warped - views.warped[:1]).abs().amax((1, 2, 3))[1:].min() > 0.02
    assert views.motion.abs().amax((1, 2, 3)).min() > 0.003
    assert of_first.warped.shape == (1, 3, 64, 64) and of_first.motion.abs().max() > 0.02
    assert all(distance > 0 for distance in distances) and of_views.distance(person) == distances[0]


def test_guided_distance_falls_as_a_person_is_learned(guided_model, guided_clip, monkeypatch):
    monkeypatch.setattr(stopping, "LOOK_EVERY", 15)
    for clip in (guided_clip, guided_clip[:2]):
        person = finetune_until_settled(guided_model, clip, most=45, adversarial=False, perceptual=[Halves()])
        distances = list(person.provenance["stopped"]["distance"].values())
        assert distances[-1] < 0.9 * distances[0]


def test_defaults_and_bad_input(carphone_clip, monkeypatch):
    assert PATIENCE % LOOK_EVERY == 0
    given = []
    monkeypatch.setattr(stopping, "finetune_stages", lambda model, clip, stages, *_, **__: given.append(stages) or iter(()))
    with pytest.raises(AssertionError):
        finetune_until_settled(random_model("tiny"), carphone_clip[:2], perceptual=[Halves()])
    assert given[0][0] == LOOK_EVERY and given[0][-1] == 640
    with pytest.raises(TalkingheadError, match="steps 0: to stop by itself"):
        finetune_until_settled(random_model("tiny"), carphone_clip[:2], most=0, perceptual=[Halves()])


def test_the_command_says_where_it_stopped(tmp_path, monkeypatch, capsys):
    scripted(monkeypatch, [3.0, 5.0])
    monkeypatch.setattr(stopping, "open_perceptual", lambda *_: [Halves()])
    monkeypatch.setattr(cli, "open_detector", lambda name, device: RedSquare())
    drive = draw_video(tmp_path / "drive.mp4", [(40 + i, 30, 40) for i in range(4)])
    command = ["finetune", str(drive), "--shots", "4", "--no-adversarial", "--steps", "2", "--stop", "auto", "--out", str(tmp_path / "p")]
    assert cli.main(command) == 0
    assert "a person from 4 pictures, 1 steps, where the distance to a picture held out was least" in capsys.readouterr().out
    assert load_person(tmp_path / "p").provenance["stopped"]["distance"] == {"1": 3.0, "2": 5.0}
