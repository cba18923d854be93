"""Fuzz of all readers; `python -m tests.robustness.fuzz --seed N --case NUMBER` repeats one of its cases."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mutations
import pytest
from fuzz import ROOT, Fuzz

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="calls are forked, and their memory read from /proc"
)

SEED = 18


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzz]:
    with Fuzz(tmp_path_factory.mktemp("fuzz"), SEED) as fuzz:
        yield fuzz


@pytest.mark.slow
def test_fuzz_80_cases_finds_no_fault(fuzz: Fuzz) -> None:
    failures = [str(failure) for failure in fuzz.run(range(80))]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_fuzz_2000_cases_finds_no_fault(fuzz: Fuzz) -> None:
    failures = [str(failure) for failure in fuzz.run(range(80, 2000))]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_fuzz_of_valid_files_succeeds(fuzz: Fuzz, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the reader of an invalid package refuses its undamaged files; otherwise the fuzz would test
    # nothing but refusals.
    monkeypatch.setattr("readers.BYTE_MUTATIONS", (lambda content, rng: [content],))
    monkeypatch.setattr("readers.HEADER_SHARE", 0.0)
    cases = [(name, *fuzz.prepare(number)) for number, name in enumerate(fuzz.readers)]
    outcomes = fuzz.sandbox.run([call for *_, call in cases])
    refused = {
        name: outcome.stderr for (name, *_), outcome in zip(cases, outcomes, strict=True) if outcome.code != 0
    }
    assert set(refused) == {"package"}, refused


@pytest.mark.slow
def test_fuzz_case_depends_on_seed_and_number_only(fuzz: Fuzz, tmp_path: Path) -> None:
    for name, reader in fuzz.readers.items():
        results = []
        for attempt in ("first", "second"):
            folder = tmp_path / f"{name}-{attempt}"
            folder.mkdir()
            path, damage = reader.damage(folder, random.Random(f"5 {name}"))
            results.append(
                (
                    damage,
                    path.name,
                    path.stat().st_size,
                    path.read_bytes() if path.stat().st_size < 1 << 24 else b"",
                )
            )
        assert results[0] == results[1]


def test_edit_json_differs_by_seed() -> None:
    text = '{"a": [1, 2, {"b": "c"}], "d": null}'
    assert len({mutations.edit_json(text, random.Random(seed)) for seed in range(50)}) > 30


@pytest.mark.slow
def test_fuzz_runs_as_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.fuzz", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "--cases" in done.stdout, done.stderr
