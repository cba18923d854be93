"""Tests that the model cards are what the Hugging Face Hub reads at the top of a model's page."""

from pathlib import Path

import pytest

from talkinghead.weights import shipped_models

CARDS = Path(__file__).resolve().parents[2] / "docs" / "models"


@pytest.mark.parametrize("name", shipped_models())
def test_card_has_metadata_of_hub(name: str) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    card = hub.ModelCard.load(CARDS / f"{name}.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "talkinghead")
    assert card.data.pipeline_tag == "image-to-video" and "talking-head" in card.data.tags
    assert card.text.lstrip().startswith(f"# Model card: `{name}`")
