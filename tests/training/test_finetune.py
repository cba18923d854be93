import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import face_points
from talkinghead.checkpoint import load_person, save_model, save_person
from talkinghead.clip import Clip, Track
from talkinghead.config import preset
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import random_model
from talkinghead.networks import ReferenceGuidedGenerator, References
from talkinghead.networks.references import ReferenceViewer
from talkinghead.pipelines.finetune import finetune
from talkinghead.pretrained.perceptual import PerceptualNetwork
from talkinghead.training.finetune import embed, finetune_at_steps
from talkinghead.training.finetune_inputs import prepare_images, sample_guidance
from talkinghead.training.finetune_trainer import FinetuneTrainer


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "spectral"])
def model(request):
    result = random_model("tiny", seed=2)
    if request.param:
        from talkinghead.model import Model
        from talkinghead.networks import Discriminator, Embedder, Generator

        networks = dataclasses.replace(
            result.config.networks,
            spectral_embedder=True,
            spectral_generator=True,
            spectral_discriminator=True,
            initialisation="orthogonal",
        )
        config = dataclasses.replace(result.config, networks=networks)
        result = Model(
            config, Embedder(networks), Generator(networks), Discriminator(networks), {"variant": "ft"}
        )
    with torch.no_grad():
        result.discriminator.w0.normal_()
        result.discriminator.b.fill_(0.3)
    return result


@pytest.fixture(scope="module")
def person_inputs(carphone_clip):
    clip = carphone_clip[:3]
    images = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return clip, images, landmark_image(torch.from_numpy(clip.track.landmarks / 64), 64)


def test_finetune_with_zero_steps_keeps_generator(model, person_inputs):
    clip, _, landmark_images = person_inputs
    person = finetune(model, clip, steps=0)
    trainer = FinetuneTrainer(model, embed(model, clip), model.config.finetune, adversarial=True)
    with torch.no_grad():
        expected = model.generator(landmark_images, model.generator.project(embed(model, clip)).expand(3, -1))
        assert torch.equal(person.generator(landmark_images, person.styles.expand(3, -1)), expected)
        assert torch.equal(trainer.generator(landmark_images, trainer.styles.expand(3, -1)), expected)
        assert torch.equal(
            trainer.average_generator(landmark_images, trainer.average_styles.expand(3, -1)), expected
        )


def test_finetune_accepts_model_with_frozen_averages(person_inputs):
    """Use a model as a run returns it: E and G are running averages without gradients."""
    model = random_model("tiny")
    model.embedder.requires_grad_(False)
    model.generator.requires_grad_(False)
    person = finetune(model, person_inputs[0], steps=1, perceptual=[])
    assert not torch.equal(person.generator.out.weight, model.generator.out.weight)


def test_discriminator_at_zero_steps_is_projection_with_embedding(model, person_inputs):
    clip, images, landmark_images = person_inputs
    embedding = embed(model, clip)
    trainer = FinetuneTrainer(model, embedding, model.config.finetune, adversarial=True)
    with torch.no_grad():
        score = trainer.discriminator(images, landmark_images, trainer.column)[0]
        _, _, pooled = model.discriminator(images, landmark_images, torch.zeros_like(model.discriminator.w0))
        expected = (pooled * (model.discriminator.w0 + embedding)).sum(1) + model.discriminator.b
    assert torch.equal(score, expected)


def test_step_changes_styles_video_embedding_and_weights(model, person_inputs):
    clip, images, landmark_images = person_inputs
    trainer = FinetuneTrainer(model, embed(model, clip), model.config.finetune, adversarial=True)
    before = {name: tensor.clone() for name, tensor in trainer.named_parameters()}
    trainer.step([], images, landmark_images)
    still = [name for name, tensor in trainer.named_parameters() if torch.equal(tensor, before[name])]
    assert "styles" not in still and "column" not in still
    # w0 is part of w' now; b's gradient cancels while all scores are within the margin; behind gamma 0
    # attention has no gradient yet
    unexpected = [
        name
        for name in still
        if "attention" not in name and name not in ("discriminator.w0", "discriminator.b")
    ]
    assert unexpected == []
    assert not torch.equal(trainer.average_styles, before["styles"])


def test_finetune_does_not_change_the_model(model, person_inputs):
    clip = person_inputs[0]
    before = copy.deepcopy(model.generator.state_dict()), copy.deepcopy(model.discriminator.state_dict())
    finetune(model, clip, steps=1, perceptual=[])
    for kept, network in zip(before, (model.generator, model.discriminator), strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())


def test_step_without_adversarial_keeps_discriminator(model, person_inputs):
    clip, images, landmark_images = person_inputs
    trainer = FinetuneTrainer(model, embed(model, clip), model.config.finetune, adversarial=False)
    column = trainer.column.detach().clone()
    figures = trainer.step([], images, landmark_images)
    assert set(figures) == {"content", "pixel"} and torch.equal(trainer.column, column)


def test_finetune_reduces_pixel_error(carphone_clip):
    model, clip = random_model("tiny"), carphone_clip[::30]
    truth = clip.frames.astype(np.float32)

    def error(steps):
        person = finetune(model, clip, steps=steps, adversarial=False, perceptual=[])
        return np.abs(TorchEngine(person).run(clip.track.landmarks / 64).astype(np.float32) - truth).mean()

    assert error(25) < 0.85 * error(0)


def test_finetune_with_equal_seed_is_repeatable(carphone_clip):
    model, clip = random_model("tiny"), carphone_clip[:9]
    styles = [finetune(model, clip, steps=2, seed=seed, perceptual=[]).styles for seed in (0, 0, 1)]
    assert torch.equal(styles[0], styles[1]) and not torch.equal(styles[0], styles[2])


def test_finetune_default_steps_follow_preset(carphone_clip):
    assert preset("paper").finetune.steps(8) == 40 and preset("paper").finetune.steps(32) == 160
    assert [preset("tiny").finetune.steps(pictures) for pictures in (1, 8, 16, 32)] == [160, 160, 160, 320]
    seen = []
    config = dataclasses.replace(
        preset("tiny"), finetune=dataclasses.replace(preset("tiny").finetune, epochs=2, minimum_steps=0)
    )
    model = dataclasses.replace(random_model("tiny"), config=config)
    finetune(
        model,
        carphone_clip[:9],
        perceptual=[],
        on_step=lambda step, steps, figures: seen.append((step, steps)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_finetune_rejects_bad_input(carphone_clip):
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


def test_finetune_rejects_variant_ff_except_feed_forward(carphone_clip):
    model = random_model("tiny")
    model.provenance["variant"] = "ff"
    with pytest.raises(TalkingheadError, match="variant FF: it was trained without the matching loss"):
        finetune(model, carphone_clip[:1], steps=1)
    assert finetune(model, carphone_clip[:1], steps=0).feed_forward


def test_finetune_at_steps_equals_separate_runs(model, person_inputs):
    clip, _, landmark_images = person_inputs
    stages = [0, 1, 3]
    results = []
    for person in finetune_at_steps(model, clip, stages, seed=4):
        with torch.no_grad():
            results.append(
                (
                    person.provenance["steps"],
                    person.feed_forward,
                    person.generator(landmark_images, person.styles.expand(3, -1)),
                )
            )
    for steps, (person_steps, feed_forward, frames) in zip(stages, results, strict=True):
        separate = finetune(model, clip, steps=steps, seed=4)
        assert person_steps == steps and feed_forward is (steps == 0)
        with torch.no_grad():
            assert torch.equal(separate.generator(landmark_images, separate.styles.expand(3, -1)), frames)
    with pytest.raises(TalkingheadError, match="do not increase"):
        next(finetune_at_steps(model, clip, [3, 1]))


class Halves(PerceptualNetwork):
    """Network whose feature is the image at half its size; counts images without a gradient."""

    layers, weights = ("half",), (1.0,)

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += 0 if images.requires_grad else len(images)
        return [F.avg_pool2d(images, 2)]


@pytest.mark.parametrize("pictures", [3, 10])
def test_target_features_are_extracted_once(carphone_clip, pictures, monkeypatch):
    config = dataclasses.replace(preset("tiny").finetune, jitter=0.0, precision="fp32")
    model = dataclasses.replace(
        random_model("tiny"), config=dataclasses.replace(preset("tiny"), finetune=config)
    )
    network = Halves()
    once = finetune(model, carphone_clip[:pictures], steps=4, perceptual=[network])
    assert network.seen == pictures
    step = FinetuneTrainer.step
    monkeypatch.setattr(
        FinetuneTrainer,
        "step",
        lambda self, networks, real, landmark_images, expected: step(self, networks, real, landmark_images),
    )
    repeated = finetune(model, carphone_clip[:pictures], steps=4, perceptual=[network])
    assert network.seen > 2 * pictures and torch.equal(
        once.generator.out.weight, repeated.generator.out.weight
    )


def test_guided_finetune_with_zero_steps_keeps_generator(guided_model, guided_clip):
    """Compare G'(y) of the person with G(y, P e) of the model, with equal references."""
    person = finetune(guided_model, guided_clip, steps=0)
    trainer = FinetuneTrainer(
        guided_model, embed(guided_model, guided_clip), guided_model.config.finetune, adversarial=True
    )
    target = torch.from_numpy(face_points((0, 0), (0.04, -0.02), (-0.03, 0.03)))
    landmark_images, views = landmark_image(target, 32), ReferenceViewer(person.references)(target)
    assert person.feed_forward and len(person.references) == 4
    with torch.no_grad():
        small = F.avg_pool2d(torch.from_numpy(guided_clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1, 2)
        points = torch.from_numpy(guided_clip.track.landmarks / 64)
        embedding = guided_model.embedder(small, landmark_image(points, 32)).mean(0, keepdim=True)
        torch.testing.assert_close(embed(guided_model, guided_clip), embedding)
        expected = guided_model.generator(
            landmark_images, guided_model.generator.project(embedding).expand(3, -1), views
        )
        for generator, styles in (
            (person.generator, person.styles),
            (trainer.generator, trainer.styles),
            (trainer.average_generator, trainer.average_styles),
        ):
            torch.testing.assert_close(
                generator(landmark_images, styles.expand(3, -1), views), expected, atol=1e-5, rtol=0
            )
    assert expected.std() > 0.1


@pytest.mark.parametrize("pictures", [1, 4])
def test_guided_two_steps_change_every_weight(guided_model, guided_clip, pictures):
    clip = guided_clip[:pictures]
    before = copy.deepcopy(guided_model.generator.state_dict())
    seen = []
    person = finetune(
        guided_model, clip, steps=2, perceptual=[Halves()], on_step=lambda *arguments: seen.append(arguments)
    )
    own = person.generator.state_dict()
    still = [name for name in own if torch.equal(own[name], before[name])]
    assert still == [] and not person.feed_forward and len(person.references) == pictures
    assert [arguments[:2] for arguments in seen] == [(1, 2), (2, 2)]
    assert {
        "content",
        "pixel",
        "details",
        "details_pixel",
        "adversarial",
        "feature_matching",
        "discriminator",
    } <= set(seen[0][2])
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in guided_model.generator.state_dict().items()
    )  # the model is left alone
    frames = TorchEngine(person).run(face_points((0.02, 0), (0.05, 0.05)))
    assert frames.shape == (2, 64, 64, 3) and frames.std() > 20


def test_guided_references_equal_those_of_file(guided_model, guided_clip, tmp_path):
    model = copy.copy(guided_model)
    save_model(model, tmp_path / "model")
    for steps in (0, 1):
        person = finetune(model, guided_clip, steps=steps, adversarial=False, perceptual=[])
        save_person(person, tmp_path / "person")
        loaded = load_person(tmp_path / "person", model).references
        assert (
            np.array_equal(loaded.images, person.references.images)
            and loaded.jpegs == person.references.jpegs
        )
        assert np.array_equal(loaded.landmarks, guided_clip.track.landmarks / 64)
        assert np.array_equal(loaded.images, References.encode(guided_clip.frames, loaded.landmarks).images)


def test_guided_finetune_reduces_pixel_error(guided_model, guided_clip):
    """Measure the error of images that are generated from views of the others."""
    pictures = prepare_images(guided_model, guided_clip)
    config = dataclasses.replace(guided_model.config.finetune, own_picture=0.0)
    guidance = sample_guidance(pictures, [0, 1, 2, 3], config, np.random.default_rng(9))

    def error(steps):
        person = finetune(guided_model, guided_clip, steps=steps, adversarial=False, perceptual=[])
        with torch.no_grad():
            frames = person.generator(pictures.landmark_images, person.styles.expand(4, -1), guidance.views)
        return (frames - pictures.images).abs().mean()

    assert error(40) < 0.7 * error(0)


def test_guided_finetune_at_steps_equals_separate_runs(guided_model, guided_clip):
    results = [
        (p.generator.out.weight.clone(), p.styles.clone())
        for p in finetune_at_steps(guided_model, guided_clip, [0, 1, 3], perceptual=[])
    ]
    for steps, (weight, styles) in zip([1, 3], results[1:], strict=True):
        separate = finetune(guided_model, guided_clip, steps=steps, perceptual=[])
        assert torch.equal(separate.generator.out.weight, weight) and torch.equal(separate.styles, styles)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_guided_own_image_only_has_configured_share(guided_model, guided_clip, share, monkeypatch):
    config = dataclasses.replace(guided_model.config.finetune, own_picture=share, discriminator_steps=2)
    model = dataclasses.replace(
        guided_model, config=dataclasses.replace(guided_model.config, finetune=config)
    )
    seen = []
    real = ReferenceGuidedGenerator.forward

    def look(self, landmark_images, styles, views, own_image_only):
        seen.append(own_image_only)
        return real(self, landmark_images, styles, views, own_image_only)

    monkeypatch.setattr(ReferenceGuidedGenerator, "forward", look)
    finetune(model, guided_clip, steps=1, perceptual=[])
    assert [mask.tolist() for mask in seen] == [[share == 1.0] * 4] * 2  # for G, and for the second step of D


def test_invalid_pixels_do_not_affect_training(guided_model, guided_clip):
    """Check that the first step's gradient does not depend on pixels beyond the source."""
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
            guidance = sample_guidance(
                prepare_images(model, clip), [0, 1, 2, 3], config.finetune, np.random.default_rng(0)
            )
            trainer = FinetuneTrainer(model, embed(model, guided_clip), config.finetune, adversarial=False)
            pictures = prepare_images(model, clip)
            views = sample_guidance(
                prepare_images(model, guided_clip), [0, 1, 2, 3], config.finetune, np.random.default_rng(0)
            ).views
            guidance = dataclasses.replace(guidance, views=views)
            pixels.append(
                trainer.step([], pictures.images, pictures.landmark_images, guidance=guidance)["pixel"]
            )
    assert pixels[0] == pixels[2] and pixels[1] != pixels[3] and pixels[0] < pixels[1]


def test_finetune_rejects_other_crop_convention(guided_model, guided_clip):
    other = dataclasses.replace(guided_clip, convention=3 - guided_model.config.crop)
    with pytest.raises(
        TalkingheadError, match=r"was cropped by convention \d, .* read it with convention=\d"
    ):
        finetune(guided_model, other, steps=0)
    finetune(guided_model, dataclasses.replace(guided_clip, convention=guided_model.config.crop), steps=0)
