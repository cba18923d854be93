import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import face_points
from talkinghead.checkpoint import load_person, random_model, save_model, save_person
from talkinghead.clip import Clip, Track
from talkinghead.config import preset
from talkinghead.engines.eager import EagerEngine
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.draw import landmark_image
from talkinghead.networks import ReferenceGuidedGenerator, References
from talkinghead.networks.references import ReferenceViewer
from talkinghead.perceptual import PerceptualNetwork
from talkinghead.training.finetune import PersonLearner, embed, finetune, finetune_stages
from talkinghead.training.pictures import guide_pictures
from talkinghead.training.pictures import inputs as inputs_of


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "spectral"])
def model(request):
    made = random_model("tiny", seed=2)
    if request.param:
        from talkinghead.checkpoint import Model
        from talkinghead.networks import Discriminator, Embedder, Generator

        networks = dataclasses.replace(
            made.config.networks, spectral_embedder=True, spectral_generator=True, spectral_discriminator=True, initialisation="orthogonal"
        )
        config = dataclasses.replace(made.config, networks=networks)
        made = Model(config, Embedder(networks), Generator(networks), Discriminator(networks), {"variant": "ft"})
    with torch.no_grad():
        made.discriminator.w0.normal_()
        made.discriminator.b.fill_(0.3)
    return made


@pytest.fixture(scope="module")
def inputs(carphone_clip):
    clip = carphone_clip[:3]
    images = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return clip, images, landmark_image(torch.from_numpy(clip.track.landmarks / 64), 64)


def test_with_zero_steps_the_generator_is_the_models(model, inputs):
    clip, _, drawn = inputs
    person = finetune(model, clip, steps=0)
    learner = PersonLearner(model, embed(model, clip), model.config.finetune, adversarial=True)
    with torch.no_grad():
        wanted = model.generator(drawn, model.generator.project(embed(model, clip)).expand(3, -1))
        assert torch.equal(person.generator(drawn, person.styles.expand(3, -1)), wanted)
        assert torch.equal(learner.generator(drawn, learner.styles.expand(3, -1)), wanted)
        assert torch.equal(learner.average_generator(drawn, learner.average_styles.expand(3, -1)), wanted)


def test_model_that_a_run_returned_can_be_fine_tuned(inputs):
    """Its E and G are running averages, which no optimiser moves."""
    made = random_model("tiny")
    made.embedder.requires_grad_(False)
    made.generator.requires_grad_(False)
    person = finetune(made, inputs[0], steps=1, perceptual=[])
    assert not torch.equal(person.generator.out.weight, made.generator.out.weight)


def test_with_zero_steps_the_discriminator_is_v_times_w0_plus_e_plus_b(model, inputs):
    clip, images, drawn = inputs
    embedding = embed(model, clip)
    learner = PersonLearner(model, embedding, model.config.finetune, adversarial=True)
    with torch.no_grad():
        score = learner.discriminator(images, drawn, learner.column)[0]
        _, _, pooled = model.discriminator(images, drawn, torch.zeros_like(model.discriminator.w0))
        wanted = (pooled * (model.discriminator.w0 + embedding)).sum(1) + model.discriminator.b
    assert torch.equal(score, wanted)


def test_one_step_moves_the_styles_the_column_and_every_weight(model, inputs):
    clip, images, drawn = inputs
    learner = PersonLearner(model, embed(model, clip), model.config.finetune, adversarial=True)
    before = {name: tensor.clone() for name, tensor in learner.named_parameters()}
    learner.step([], images, drawn)
    still = [name for name, tensor in learner.named_parameters() if torch.equal(tensor, before[name])]
    assert "styles" not in still and "column" not in still
    # w0 is part of w' now; b's gradient cancels while all scores are within the margin; behind gamma 0 attention has no gradient yet
    unexpected = [name for name in still if "attention" not in name and name not in ("discriminator.w0", "discriminator.b")]
    assert unexpected == []
    assert not torch.equal(learner.average_styles, before["styles"])


def test_the_model_itself_is_not_changed(model, inputs):
    clip = inputs[0]
    before = copy.deepcopy(model.generator.state_dict()), copy.deepcopy(model.discriminator.state_dict())
    finetune(model, clip, steps=1, perceptual=[])
    for kept, network in zip(before, (model.generator, model.discriminator), strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())


def test_without_the_adversarial_term_d_is_left_alone(model, inputs):
    clip, images, drawn = inputs
    learner = PersonLearner(model, embed(model, clip), model.config.finetune, adversarial=False)
    column = learner.column.detach().clone()
    figures = learner.step([], images, drawn)
    assert set(figures) == {"content", "pixel"} and torch.equal(learner.column, column)


def test_fine_tuning_brings_the_pictures_nearer(carphone_clip):
    model, clip = random_model("tiny"), carphone_clip[::30]
    truth = clip.frames.astype(np.float32)

    def error(steps):
        person = finetune(model, clip, steps=steps, adversarial=False, perceptual=[])
        return np.abs(EagerEngine(person).run(clip.track.landmarks / 64).astype(np.float32) - truth).mean()

    assert error(25) < 0.85 * error(0)


def test_is_repeatable(carphone_clip):
    model, clip = random_model("tiny"), carphone_clip[:9]
    styles = [finetune(model, clip, steps=2, seed=seed, perceptual=[]).styles for seed in (0, 0, 1)]
    assert torch.equal(styles[0], styles[1]) and not torch.equal(styles[0], styles[2])


def test_default_steps_follow_the_preset(carphone_clip):
    assert preset("paper").finetune.steps(8) == 40 and preset("paper").finetune.steps(32) == 160
    assert [preset("tiny").finetune.steps(pictures) for pictures in (1, 8, 16, 32)] == [160, 160, 160, 320]
    seen = []
    config = dataclasses.replace(preset("tiny"), finetune=dataclasses.replace(preset("tiny").finetune, epochs=2, minimum_steps=0))
    model = dataclasses.replace(random_model("tiny"), config=config)
    finetune(model, carphone_clip[:9], perceptual=[], progress=lambda step, steps, figures: seen.append((step, steps)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_bad_input_is_named(carphone_clip):
    model = random_model("tiny")
    wide = Clip(Track(np.zeros((1, 68, 2)), (8, 9)), np.zeros((1, 8, 9, 3), np.uint8), name="wide.png")
    for clip, message in (
        (carphone_clip[:0], "no picture"),
        (carphone_clip[:33], "at most 32"),
        (wide, "wide.png: frames of 8x9 are not square"),
    ):
        with pytest.raises(TalkingheadError, match=message):
            finetune(model, clip, steps=0)
    with pytest.raises(TalkingheadError, match="steps -1"):
        finetune(model, carphone_clip[:1], steps=-1)


def test_variant_ff_is_refused_with_the_reason_but_serves_feed_forward(carphone_clip):
    model = random_model("tiny")
    model.provenance["variant"] = "ff"
    with pytest.raises(TalkingheadError, match="variant FF: it was trained without the matching loss"):
        finetune(model, carphone_clip[:1], steps=1)
    assert finetune(model, carphone_clip[:1], steps=0).feed_forward


def test_stages_are_what_each_number_of_steps_alone_gives(model, inputs):
    clip, _, drawn = inputs
    stages = [0, 1, 3]
    made = []
    for person in finetune_stages(model, clip, stages, seed=4):
        with torch.no_grad():
            made.append((person.provenance["steps"], person.feed_forward, person.generator(drawn, person.styles.expand(3, -1))))
    for steps, (said, feed_forward, picture) in zip(stages, made, strict=True):
        alone = finetune(model, clip, steps=steps, seed=4)
        assert said == steps and feed_forward is (steps == 0)
        with torch.no_grad():
            assert torch.equal(alone.generator(drawn, alone.styles.expand(3, -1)), picture)
    with pytest.raises(TalkingheadError, match="rising numbers"):
        next(finetune_stages(model, clip, [3, 1]))


class Halves(PerceptualNetwork):
    """Pictures at half their size; counts those it saw without a gradient."""

    layers, weights = ("half",), (1.0,)

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += 0 if images.requires_grad else len(images)
        return [F.avg_pool2d(images, 2)]


@pytest.mark.parametrize("pictures", [3, 10])
def test_targets_that_do_not_change_are_looked_at_once(carphone_clip, pictures, monkeypatch):
    config = dataclasses.replace(preset("tiny").finetune, jitter=0.0, precision="fp32")
    model = dataclasses.replace(random_model("tiny"), config=dataclasses.replace(preset("tiny"), finetune=config))
    network = Halves()
    once = finetune(model, carphone_clip[:pictures], steps=4, perceptual=[network])
    assert network.seen == pictures
    step = PersonLearner.step
    monkeypatch.setattr(PersonLearner, "step", lambda self, networks, real, drawn, wanted: step(self, networks, real, drawn))
    again = finetune(model, carphone_clip[:pictures], steps=4, perceptual=[network])
    assert network.seen > 2 * pictures and torch.equal(once.generator.out.weight, again.generator.out.weight)


def test_guided_zero_steps_are_the_models_generator(guided_model, guided_clip):
    """G'(y) of the person is G(y, P e) of the model, shown the same references."""
    person = finetune(guided_model, guided_clip, steps=0)
    learner = PersonLearner(guided_model, embed(guided_model, guided_clip), guided_model.config.finetune, adversarial=True)
    target = torch.from_numpy(face_points((0, 0), (0.04, -0.02), (-0.03, 0.03)))
    drawn, views = landmark_image(target, 32), ReferenceViewer(person.references)(target)
    assert person.feed_forward and len(person.references) == 4
    with torch.no_grad():
        small = F.avg_pool2d(torch.from_numpy(guided_clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1, 2)
        points = torch.from_numpy(guided_clip.track.landmarks / 64)
        embedding = guided_model.embedder(small, landmark_image(points, 32)).mean(0, keepdim=True)
        torch.testing.assert_close(embed(guided_model, guided_clip), embedding)
        expected = guided_model.generator(drawn, guided_model.generator.project(embedding).expand(3, -1), views)
        for generator, styles in (
            (person.generator, person.styles),
            (learner.generator, learner.styles),
            (learner.average_generator, learner.average_styles),
        ):
            torch.testing.assert_close(generator(drawn, styles.expand(3, -1), views), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.1


@pytest.mark.parametrize("pictures", [1, 4])
def test_guided_two_steps_move_every_weight(guided_model, guided_clip, pictures):
    clip = guided_clip[:pictures]
    before = copy.deepcopy(guided_model.generator.state_dict())
    seen = []
    person = finetune(guided_model, clip, steps=2, perceptual=[Halves()], progress=lambda *told: seen.append(told))
    own = person.generator.state_dict()
    still = [name for name in own if torch.equal(own[name], before[name])]
    assert still == [] and not person.feed_forward and len(person.references) == pictures
    assert [told[:2] for told in seen] == [(1, 2), (2, 2)]
    assert {"content", "pixel", "details", "details_pixel", "adversarial", "feature_matching", "discriminator"} <= set(seen[0][2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in guided_model.generator.state_dict().items())  # the model is left alone
    frames = EagerEngine(person).run(face_points((0.02, 0), (0.05, 0.05)))
    assert frames.shape == (2, 64, 64, 3) and frames.std() > 20


def test_guided_references_are_those_of_the_file(guided_model, guided_clip, tmp_path):
    model = copy.copy(guided_model)
    save_model(model, tmp_path / "model")
    for steps in (0, 1):
        person = finetune(model, guided_clip, steps=steps, adversarial=False, perceptual=[])
        save_person(person, tmp_path / "person")
        again = load_person(tmp_path / "person", model).references
        assert np.array_equal(again.pictures, person.references.pictures) and again.jpegs == person.references.jpegs
        assert np.array_equal(again.landmarks, guided_clip.track.landmarks / 64)
        assert np.array_equal(again.pictures, References.stored(guided_clip.frames, again.landmarks).pictures)


def test_guided_fine_tuning_brings_pictures_nearer(guided_model, guided_clip):
    """Of pictures seen by way of the others, as `guide_pictures` has it."""
    pictures = inputs_of(guided_model, guided_clip)
    config = dataclasses.replace(guided_model.config.finetune, own_picture=0.0)
    guide = guide_pictures(pictures, [0, 1, 2, 3], config, np.random.default_rng(9))

    def error(steps):
        person = finetune(guided_model, guided_clip, steps=steps, adversarial=False, perceptual=[])
        with torch.no_grad():
            made = person.generator(pictures.drawn, person.styles.expand(4, -1), guide.views)
        return (made - pictures.images).abs().mean()

    assert error(40) < 0.7 * error(0)


def test_guided_stages_are_what_each_alone_gives(guided_model, guided_clip):
    made = [
        (p.generator.out.weight.clone(), p.styles.clone()) for p in finetune_stages(guided_model, guided_clip, [0, 1, 3], perceptual=[])
    ]
    for steps, (weight, styles) in zip([1, 3], made[1:], strict=True):
        alone = finetune(guided_model, guided_clip, steps=steps, perceptual=[])
        assert torch.equal(alone.generator.out.weight, weight) and torch.equal(alone.styles, styles)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_guided_own_picture_stands_alone_as_told(guided_model, guided_clip, share, monkeypatch):
    config = dataclasses.replace(guided_model.config.finetune, own_picture=share, discriminator_steps=2)
    model = dataclasses.replace(guided_model, config=dataclasses.replace(guided_model.config, finetune=config))
    seen = []
    real = ReferenceGuidedGenerator.forward

    def look(self, drawn, styles, views, own_alone):
        seen.append(own_alone)
        return real(self, drawn, styles, views, own_alone)

    monkeypatch.setattr(ReferenceGuidedGenerator, "forward", look)
    finetune(model, guided_clip, steps=1, perceptual=[])
    assert [each.tolist() for each in seen] == [[share == 1.0] * 4] * 2  # for G, and for the second step of D


def test_pixels_beyond_the_source_do_not_teach(guided_model, guided_clip):
    """What lies there may be anything: the first step's gradient at the person's weights does not see it."""
    valid = np.ones((4, 64, 64), dtype=bool)
    valid[:, :, :16] = False
    noisy = guided_clip.frames.copy()
    noisy[:, :, :16] = np.random.default_rng(0).integers(0, 256, noisy[:, :, :16].shape)
    config = dataclasses.replace(guided_model.config.finetune, own_picture=1.0, details=0.0)
    config = dataclasses.replace(guided_model.config, finetune=config)
    model = dataclasses.replace(guided_model, config=config)
    pixels = []
    for frames in (guided_clip.frames, noisy):
        for mask in (valid, None):
            clip = dataclasses.replace(guided_clip, frames=frames, valid=mask)
            guide = guide_pictures(inputs_of(model, clip), [0, 1, 2, 3], config.finetune, np.random.default_rng(0))
            learner = PersonLearner(model, embed(model, guided_clip), config.finetune, adversarial=False)
            pictures = inputs_of(model, clip)
            views = guide_pictures(inputs_of(model, guided_clip), [0, 1, 2, 3], config.finetune, np.random.default_rng(0)).views
            guide = dataclasses.replace(guide, views=views)
            pixels.append(learner.step([], pictures.images, pictures.drawn, guide=guide)["pixel"])
    assert pixels[0] == pixels[2] and pixels[1] != pixels[3] and pixels[0] < pixels[1]


def test_pictures_of_another_crop_are_refused(guided_model, guided_clip):
    other = dataclasses.replace(guided_clip, convention=3 - guided_model.config.crop)
    with pytest.raises(TalkingheadError, match=r"was cropped by convention \d, .* read it with convention=\d"):
        finetune(guided_model, other, steps=0)
    finetune(guided_model, dataclasses.replace(guided_clip, convention=guided_model.config.crop), steps=0)
