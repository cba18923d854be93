import io
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch

from talkinghead import TalkingheadError, save_person
from talkinghead.cli import main
from talkinghead.engines import trust
from talkinghead.engines.aoti_engine import AotiEngine
from talkinghead.engines.load import open_engine
from talkinghead.engines.manifest import MAX_ENGINE_BYTES, manifest_with_checksum, read_sidecar, sidecar
from talkinghead.engines.report import verify_engine
from talkinghead.engines.trust import check_package, engines_made_here, remember_engine
from talkinghead.exporters.export import export_person

pytestmark = pytest.mark.slow  # an engine is compiled first


@pytest.fixture(scope="module")
def package(people, tmp_path_factory):
    """Export an engine with native code here; its person is in the same folder."""
    folder = tmp_path_factory.mktemp("package")
    save_person(people["feed-forward"], folder / "person.safetensors")
    export_person(
        people["feed-forward"],
        folder / "it.pt2",
        "aoti",
        batch=1,
        input="image",
        portable=True,
        name=str(folder / "person.safetensors"),
    )
    return folder / "it.pt2"


@pytest.fixture
def other_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def rewritten(package: Path, out: Path, change) -> Path:
    """Write the package with changed records and a valid checksum, as an attacker would."""
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(out, "w") as target:
        for name, data in change({name: source.read(name) for name in source.namelist()}).items():
            target.writestr(name, data)
    sidecar(out).write_text(manifest_with_checksum(read_sidecar(package), out))
    return out


def test_own_engine_opens_without_trust(package):
    assert len(engines_made_here().read_text().split()) >= 1
    assert verify_engine(package).psnr_db > 60


@pytest.mark.usefixtures("other_machine")
def test_foreign_engine_is_refused_before_loading(package, monkeypatch):
    monkeypatch.setattr(
        "torch._inductor.aoti_load_package", lambda *_, **__: pytest.fail("native code was loaded")
    )
    with pytest.raises(
        TalkingheadError, match="it.pt2: holds native code, and this machine did not make it; .*--trust"
    ):
        open_engine(package)
    with pytest.raises(TalkingheadError, match="holds native code"):
        AotiEngine(package)


@pytest.mark.usefixtures("other_machine")
def test_trusted_foreign_engine_opens(package, people):
    assert open_engine(package, people["feed-forward"], trust=True).size == 64
    assert not engines_made_here().exists()


@pytest.mark.usefixtures("other_machine")
def test_command_line_asks_for_trust(package, capsys):
    assert main(["verify", str(package)]) == 0
    assert "not run here: " in (printed := capsys.readouterr().out) and "pass --trust" in printed
    assert main(["verify", str(package), "--trust"]) == 0
    assert "torch's" in capsys.readouterr().out
    person = str(package.parent / "person.safetensors")
    assert (
        main(["animate", person, "--drive", "nothing.mp4", "--out", "o.mp4", "--engine", str(package)]) == 2
    )
    assert "holds native code" in capsys.readouterr().err


def test_trusted_package_with_pickle_is_refused(package, tmp_path):
    from torch.export.pt2_archive._package import package_pt2

    archive = io.BytesIO()
    package_pt2(
        archive, exported_programs={"model": torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))}
    )
    program = tmp_path / "program.pt2"
    program.write_bytes(archive.getvalue())
    sidecar(program).write_text(manifest_with_checksum(read_sidecar(package), program))
    with pytest.raises(TalkingheadError, match="program.pt2: holds '.*', expected compiled code alone"):
        open_engine(program, trust=True)


@pytest.mark.parametrize(
    "name",
    [
        "it/data/weights/weight_0",
        "it/data/aotinductor/model/../../x.so",
        "../x.so",
        "/etc/x.so",
        "other/version",
    ],
)
def test_package_with_unknown_record_is_refused(package, tmp_path, name):
    changed = rewritten(package, tmp_path / "it.pt2", lambda records: {**records, name: b"x"})
    with pytest.raises(TalkingheadError, match="expected compiled code alone"):
        open_engine(changed, trust=True)


def test_compressed_package_is_refused(package, tmp_path):
    with (
        zipfile.ZipFile(package) as source,
        zipfile.ZipFile(tmp_path / "it.pt2", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(TalkingheadError, match="it.pt2: is compressed"):
        check_package(tmp_path / "it.pt2")


def test_failed_load_leaves_no_temporary_folder(package, tmp_path, monkeypatch):
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    no_library = rewritten(
        package,
        tmp_path / "it.pt2",
        lambda records: {n: b"no library" * 400 if n.endswith(".so") else d for n, d in records.items()},
    )
    with pytest.raises(TalkingheadError, match="it.pt2: cannot be loaded"):
        open_engine(no_library, trust=True)
    assert list(place.iterdir()) == [] and os.environ["TMPDIR"] == str(place)
    engine = open_engine(package)
    assert [path.name[:12] for path in place.iterdir()] == ["talkinghead_"]
    del engine
    assert list(place.iterdir()) == []


def test_remember_engine_reports_unwritable_list(package, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    assert not remember_engine(package)


def test_missing_home_folder_requires_trust(package, monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    assert not remember_engine(package)
    with pytest.raises(TalkingheadError, match="holds native code"):
        open_engine(package)
    assert open_engine(package, trust=True).size == 64


@pytest.mark.parametrize(
    "folder, message", [("/proc/nowhere", "cannot be used"), ("with space", "has a space in its path")]
)
def test_unusable_cache_folder_reports_user_error(people, tmp_path, monkeypatch, folder, message):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / folder))
    with pytest.raises(
        TalkingheadError, match=f"aoti: torch's cache folder .*{message}.*; set TORCHINDUCTOR_CACHE_DIR"
    ):
        export_person(
            people["feed-forward"], tmp_path / "it.pt2", "aoti", batch=1, input="image", portable=True
        )
    assert not list(tmp_path.glob("*.pt2*")) and not list(tmp_path.glob(".*"))


def test_oversized_engine_is_refused(tmp_path):
    path = tmp_path / "it.onnx"
    with open(path, "wb") as file:
        file.truncate(MAX_ENGINE_BYTES + 1)
    with pytest.raises(TalkingheadError, match="it.onnx: is 536,870,913 bytes, expected 1 to 536,870,912"):
        open_engine(path)


def test_damaged_engine_list_is_read(package, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    engines_made_here().parent.mkdir(parents=True)
    engines_made_here().write_bytes(b"\xff\x00 damaged\n" + trust.sha256(package).encode() + b"\n")
    assert open_engine(package).size == 64
