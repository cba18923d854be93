"""Files of measurements."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from talkinghead.config import preset
from talkinghead.errors import TalkingheadError
from talkinghead.evaluation.measurement_keys import MeasurementKeys
from talkinghead.evaluation.measurement_store import MeasurementKey, MeasurementStore

KEY = MeasurementKey("clip", "T1-nearest", {"versions": {"torch": "2"}, "seed": 0})


def test_store_reads_what_was_written(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "clips")
    assert KEY not in store
    store.write(KEY, {"figures": {"ssim": 0.1 + 0.2, "csim": float("nan")}, "features": torch.arange(3.0)})
    for other in (store, MeasurementStore(tmp_path / "clips")):
        assert KEY in other
        values = other.read(KEY)
        assert values["figures"]["ssim"] == 0.1 + 0.2 and torch.equal(values["features"], torch.arange(3.0))
    assert [path.name for path in (tmp_path / "clips").iterdir()] == [KEY.file_name]


def test_store_counts_changed_settings(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path)
    store.write(KEY, {"figures": {}})
    store.write(MeasurementKey("clip", "T1-nearest", {"versions": {"torch": "1"}, "seed": 2}), {})
    nearer = MeasurementKey("clip", "T1-nearest", {"versions": {"torch": "3"}, "seed": 0})
    assert nearer not in store and store.changed_settings([nearer]) == {"versions": 1}
    others = [MeasurementKey("clip", "T2-nearest", {"seed": 1}), MeasurementKey("other", "T1-nearest", {})]
    assert store.changed_settings(others) == {}


def test_store_rejects_file_of_other_key(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path)
    store.write(KEY, {"figures": {}})
    other = MeasurementKey("clip", "T1-nearest", {"seed": 3})
    (tmp_path / KEY.file_name).rename(tmp_path / other.file_name)
    with pytest.raises(
        TalkingheadError, match="cannot be read again; remove it, it is then measured once more"
    ):
        MeasurementStore(tmp_path).read(other)


def test_keys_tell_landmark_weights_apart() -> None:
    def key(digest: str) -> MeasurementKey:
        evaluator = SimpleNamespace(
            loaded=SimpleNamespace(config=preset("tiny")),
            scorer=SimpleNamespace(detector=SimpleNamespace(name="network", digest=digest)),
            device="cpu",
        )
        return MeasurementKeys(evaluator).landmarks("clip")  # type: ignore[arg-type]

    assert key("a") == key("a")
    assert key("a") != key("b")
