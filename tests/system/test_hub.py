"""Tests of models on the Hugging Face Hub, from its local cache and without a network."""

import shutil
from pathlib import Path

import pytest
import skimage
import torch
from PIL import Image

import talkinghead as th
from talkinghead.cli import main
from talkinghead.errors import TalkingheadError
from talkinghead.system.hub import hub_file
from talkinghead.weights import shipped_models

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cached version of the repository anna/heads, which holds the model tiny; cut the network."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
    repository = tmp_path / "models--anna--heads"
    snapshot = repository / "snapshots" / COMMIT
    (snapshot / "more").mkdir(parents=True)
    for name in ("model.safetensors", "more/other.safetensors"):
        shutil.copy(shipped_models()["tiny"], snapshot / name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("hf://anna/heads", "model.safetensors"),
        ("hf://anna/heads@main", "model.safetensors"),
        (f"hf://anna/heads@{COMMIT}:more/other.safetensors", "more/other.safetensors"),
    ],
)
def test_address_is_read_from_the_cache(cache: Path, address: str, name: str) -> None:
    assert hub_file(address) == cache / name
    model, expected = th.load_model(address), th.load_model("tiny")
    assert model.digest == expected.digest
    pairs = zip(model.generator.parameters(), expected.generator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "address", ["hf://anna", "hf://anna/heads/", "hf://anna/heads@", "hf://a b/c", "hf://"]
)
def test_malformed_address_is_one_line(address: str) -> None:
    with pytest.raises(TalkingheadError, match="is no address of a model; write hf://OWNER/NAME") as error:
        th.load_model(address)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "address", ["hf://anna/heads:none.safetensors", "hf://anna/heads@v2", "hf://bob/heads"]
)
def test_missing_file_without_a_network_is_one_line(cache: Path, address: str) -> None:
    with pytest.raises(TalkingheadError, match=f"^{address}: cannot be fetched") as error:
        th.load_model(address)
    assert "\n" not in str(error.value)


def test_folder_holds_a_model(cache: Path, tmp_path: Path) -> None:
    assert th.load_model(cache).digest == th.load_model("tiny").digest
    with pytest.raises(TalkingheadError, match=r"model.safetensors: no such file"):
        th.load_model(tmp_path)


def test_commands_take_addresses(cache: Path, tmp_path: Path) -> None:
    picture, out = tmp_path / "anna.png", tmp_path / "anna.safetensors"
    Image.fromarray(skimage.data.astronaut()[:300, 100:400]).save(picture)
    arguments = ["--model", "hf://anna/heads", "--steps", "0", "--out", str(out)]
    assert main(["finetune", str(picture), *arguments]) == 0
    assert th.load_person(out, model="hf://anna/heads").config.preset == "tiny"
