"""Tests of the nodes for ComfyUI, by a stand-in for the part of ComfyUI that calls them.

ComfyUI calls a node's method named FUNCTION with an argument for every input, after it has checked values
against INPUT_TYPES, and connects sockets of equal type.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch

import talkinghead
from talkinghead.errors import TalkingheadError

FOLDER = Path(__file__).resolve().parents[2] / "comfyui"


def load_nodes() -> Any:
    """Import the folder as ComfyUI imports one of custom_nodes: by its path, under another name."""
    spec = importlib.util.spec_from_file_location(
        "custom_talkinghead", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


NODES = load_nodes().NODE_CLASS_MAPPINGS


def run_node(name: str, **inputs: Any) -> dict[str, Any]:
    """Run a node as ComfyUI does, and return its results by the types of its sockets."""
    node = NODES[name]
    declared = node.INPUT_TYPES()["required"]
    assert set(inputs) == set(declared)
    for key, (kind, *options) in declared.items():
        if isinstance(kind, list):
            assert inputs[key] in kind
        elif kind == "INT":
            assert options[0]["min"] <= inputs[key] <= options[0]["max"]
    results = getattr(node(), node.FUNCTION)(**inputs)
    assert isinstance(results, tuple) and len(results) == len(node.RETURN_TYPES)
    return dict(zip(node.RETURN_TYPES, results, strict=True))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Return a batch of two images as ComfyUI holds them."""
    picture = torch.from_numpy(skimage.data.astronaut()[:300, 100:400]).float() / 255
    return torch.stack([picture, picture.roll(4, 1)])


@pytest.fixture(scope="module")
def person(images: torch.Tensor) -> talkinghead.Person:
    """Return a person as the node learns it."""
    return run_node("TalkingheadLearnPerson", pictures=images, model="tiny", steps=0, seed=0)[
        "TALKINGHEAD_PERSON"
    ]


def test_every_node_has_what_comfyui_reads() -> None:
    module = sys.modules["custom_talkinghead"]
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(NODES)
    for node in NODES.values():
        assert node.CATEGORY == "talkinghead" and callable(getattr(node, node.FUNCTION))
        assert len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)) == len(node.RETURN_TYPES)
        assert node.RETURN_TYPES or node.OUTPUT_NODE


def test_driver_moves_learned_person(person: talkinghead.Person, images: torch.Tensor) -> None:
    frames = run_node("TalkingheadAnimatePerson", person=person, driver=images, retarget="on")["IMAGE"]
    assert frames.shape == (2, 64, 64, 3) and frames.dtype == torch.float32
    assert frames.min() >= 0 and 0.2 < frames.max() <= 1
    expected = talkinghead.animate(
        person, [(image * 255).round().byte().numpy() for image in images], retarget="on"
    )
    for frame, other in zip(frames, expected, strict=True):
        assert torch.equal((frame * 255).round().byte(), torch.from_numpy(other))


def test_alpha_is_ignored_and_long_batches_are_thinned(images: torch.Tensor) -> None:
    batch = torch.cat([images, torch.ones_like(images[..., :1])], -1)[:1].repeat(40, 1, 1, 1)
    person = run_node("TalkingheadLearnPerson", pictures=batch, model="tiny", steps=0, seed=0)
    assert person["TALKINGHEAD_PERSON"].provenance["pictures"] == 32


def test_person_is_saved_and_loaded(person: talkinghead.Person, tmp_path: Path) -> None:
    file = str(tmp_path / "anna.safetensors")
    assert run_node("TalkingheadSavePerson", person=person, file=file) == {}
    loaded = run_node("TalkingheadLoadPerson", file=file)["TALKINGHEAD_PERSON"]
    assert torch.equal(loaded.styles, person.styles)
    node = NODES["TalkingheadLoadPerson"]
    assert node.IS_CHANGED(file) > 0 and node.IS_CHANGED(file + ".missing") == 0


def test_pictures_without_a_face_are_refused() -> None:
    with pytest.raises(TalkingheadError, match="no face was found"):
        run_node("TalkingheadLearnPerson", pictures=torch.zeros(1, 64, 64, 3), model="tiny", steps=0, seed=0)


def test_nodes_import_nothing_of_comfyui() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER.parent)!r}); import comfyui; "
        "assert not {'folder_paths', 'comfy', 'nodes', 'execution'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
