"""Names of tensors in state, model and person files, which files of earlier versions have too."""

from itertools import product

import numpy as np
import torch
from safetensors import safe_open

from support.minimal_training import minimal_config
from talkinghead.checkpoint import save_model, save_person
from talkinghead.clip import Clip, Track
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.model import random_model
from talkinghead.pipelines.finetune import finetune
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.resume import save_state


def layers(prefix, *names, bias=True):
    """Return the names of the tensors of layers."""
    return {
        f"{prefix}.{name}.{kind}"
        for name, kind in product(names, ("weight", "bias") if bias else ("weight",))
    }


def attention(prefix):
    """Return the names of an attention's tensors."""
    return {f"{prefix}.gamma"} | layers(prefix, "query", "key", "value", "out")


def encoder(prefix, down=2, extra=0):
    """Return the names of E's tensors, or those of V."""
    names = attention(f"{prefix}.attention")
    for block in range(down):
        names |= layers(f"{prefix}.blocks.{block}", "conv1", "conv2", "shortcut")
    for block in range(down, down + extra):
        names |= layers(f"{prefix}.blocks.{block}", "conv1", "conv2")
    return names


def generator(prefix, projection=True):
    """Return the names of G's tensors."""
    names = layers(prefix, "out", *(["projection"] if projection else []))
    names |= attention(f"{prefix}.down_attention") | attention(f"{prefix}.up_attention")
    names |= layers(f"{prefix}.down.0", "conv1", "conv2", "shortcut")
    for block in ("down.1", "residual.0", "up.0", "up.1"):
        names |= layers(f"{prefix}.{block}", "conv1", "conv2", bias=False)
    for block in ("down.1", "up.0", "up.1"):
        names |= layers(f"{prefix}.{block}", "shortcut")
    norms = product(("norm1", "norm2"), ("scale", "shift"))
    return names | {f"{prefix}.down.1.{norm}.{kind}" for norm, kind in norms}


def discriminator(prefix):
    """Return the names of D's tensors."""
    return encoder(prefix, extra=1) | {f"{prefix}.w0", f"{prefix}.b"}


def optimiser(name, parameters, *keys):
    """Return the names of an optimiser's tensors."""
    return {f"{name}.{index}.{key}" for index, key in product(range(parameters), keys)}


def stored_names(path):
    """Return the names of the tensors in a file."""
    with safe_open(path, "pt") as file:
        return set(file.keys())


def test_state_file_keeps_stored_names(tmp_path):
    learner = MetaLearner(random_model(minimal_config()), 3, [])
    save_state(tmp_path / "state", learner.modules, learner.optimisers, {"step": 0})
    moments = "step", "exp_avg", "exp_avg_sq"
    expected = encoder("embedder") | encoder("average_embedder") | generator("generator")
    expected |= generator("average_generator") | discriminator("discriminator") | {"columns.weight"}
    expected |= optimiser("generator_optimiser", 67, *moments)
    expected |= optimiser("discriminator_optimiser", 27, *moments)
    expected |= optimiser("columns_optimiser", 1, *moments, "last_step", "weight_sum", "weight_sum_sq")
    assert stored_names(tmp_path / "state") == expected


def test_model_and_person_files_keep_stored_names(tmp_path):
    model = random_model(minimal_config())
    save_model(model, tmp_path / "model")
    networks = encoder("embedder") | generator("generator") | discriminator("discriminator")
    assert stored_names(tmp_path / "model") == networks
    points = ((MEAN_FACE[:, :2] * 0.15 + 0.5) * 32).astype(np.float32)
    clip = Clip(Track(points[None], (32, 32)), np.zeros((1, 32, 32, 3), np.uint8))
    person = finetune(model, clip, steps=1, perceptual=[])
    save_person(person, tmp_path / "person")
    assert stored_names(tmp_path / "person") == generator("generator", projection=False) | {
        "styles",
        "reference",
        "video_embedding",
    }
    assert torch.isfinite(person.styles).all()
