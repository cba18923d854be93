import logging
import os
from pathlib import Path

import pytest

from talkinghead.dataset.discover import SourceVideo, find_videos
from talkinghead.dataset.people_table import read_people
from talkinghead.errors import TalkingheadError


def create_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def people(sources: list[SourceVideo]) -> list[str]:
    return [source.person for source in sources]


def layouts(sources: list[SourceVideo]) -> set[str]:
    return {source.layout for source in sources}


def names(sources: list[SourceVideo], folder: Path) -> list[str]:
    return [str(source.path.relative_to(folder)) for source in sources]


VOX = [
    "id10001/7w0IBEWc9Qw/00001.mp4",
    "id10001/7w0IBEWc9Qw/00002.mp4",
    "id10001/J9lHsKG98U8/00001.mp4",
    "id10002/_Ab-defghij/00001.mp4",
]


def test_voxceleb_layout_gives_person(tmp_path: Path) -> None:
    create_files(tmp_path / "dev/mp4", *VOX)
    for root in (tmp_path, tmp_path / "dev/mp4"):
        sources = find_videos([root])
        assert people(sources) == ["id10001", "id10001", "id10001", "id10002"]
        assert layouts(sources) == {"VoxCeleb"}
    # also when the folder of one person is named, or every file
    assert people(find_videos([tmp_path / "dev/mp4/id10001"])) == ["id10001"] * 3
    assert people(find_videos([tmp_path / "dev/mp4" / name for name in VOX])) == [
        "id10001",
        "id10001",
        "id10001",
        "id10002",
    ]


def test_flattened_voxceleb_layout_gives_person(tmp_path: Path) -> None:
    create_files(
        tmp_path / "train",
        "id10001#7w0IBEWc9Qw#000993#001143.mp4",
        "id10001#J9lHsKG98U8#00003.txt#001.mp4",
        "id10283#r9-0pljhZqs#009636#009808.mp4",
    )
    sources = find_videos([tmp_path])
    assert people(sources) == ["id10001", "id10001", "id10283"]
    assert layouts(sources) == {"VoxCeleb, flattened"}


def test_hdtf_layout_joins_videos_of_person(tmp_path: Path) -> None:
    create_files(
        tmp_path,
        "RD_Radio1_000.mp4",
        "RD_Radio10_000.mp4",
        "RD_Radio10_001.mp4",
        "WDA_AdamSchiff_000.mp4",
        "WRA_AdamKinzinger0_000.mp4",
        "WRA_AdamKinzinger2_000_cfr25.mp4",
    )
    sources = find_videos([tmp_path])
    assert people(sources) == ["Radio1", "Radio10", "Radio10", "AdamSchiff", "AdamKinzinger", "AdamKinzinger"]
    assert layouts(sources) == {"HDTF"}


def test_celebv_hq_layout_joins_clips_of_video(tmp_path: Path) -> None:
    create_files(
        tmp_path, "_b8ITBB5Oxk_13_0.mp4", "_b8ITBB5Oxk_2.mp4", "0A4uuYNxg44_0_0.mp4", "__f2KtcXAxI_0.mp4"
    )
    sources = find_videos([tmp_path])
    assert dict(zip(names(sources, tmp_path), people(sources), strict=True)) == {
        "_b8ITBB5Oxk_2.mp4": "_b8ITBB5Oxk",
        "_b8ITBB5Oxk_13_0.mp4": "_b8ITBB5Oxk",
        "0A4uuYNxg44_0_0.mp4": "0A4uuYNxg44",
        "__f2KtcXAxI_0.mp4": "__f2KtcXAxI",
    }
    assert layouts(sources) == {"CelebV-HQ"}


@pytest.mark.parametrize(
    "odd",
    [
        [
            "holidayclip_1.mp4",
            "holidayclip_2.mp4",
            "birthday2nd_1.mp4",
        ],  # eleven letters, but none that YouTube would draw
        ["id10001#7w0IBEWc9Qw#000993#001143.mp4", "anna.mp4", "bob.mp4", "carl.mp4"],  # one of four
        ["WRA_AdamKinzinger0_000.mp4", "WRA_AdamKinzinger2_000.mp4"],  # two prove nothing
    ],
)
def test_few_videos_prove_no_layout(tmp_path: Path, odd: list[str]) -> None:
    sources = find_videos([create_files(tmp_path, *odd)])
    assert people(sources) == [source.path.stem for source in sources]
    assert layouts(sources) == {"file name"}


def test_stray_file_changes_no_layout(tmp_path: Path) -> None:
    create_files(tmp_path / "corpus", *(f"WDA_Person{letter}_000.mp4" for letter in "ABCDEFGHIJ"), "zoe.mp4")
    sources = find_videos([tmp_path / "corpus"])
    assert people(sources) == [*(f"Person{letter}" for letter in "ABCDEFGHIJ"), "zoe"]
    # another folder does not change the layout
    both = find_videos(
        [tmp_path / "corpus", create_files(tmp_path / "other", "anna/WRA_X_000.mp4", "anna/2.mp4")]
    )
    assert people(both)[-2:] == ["anna", "anna"] and people(both)[0] == "PersonA"


def test_folder_name_is_person(tmp_path: Path) -> None:
    create_files(
        tmp_path, "10.mp4", "2.MOV", "anna/x.mp4", "anna/2021/y.webm", "bob/x.mp4", "notes.txt", "anna/x.jpg"
    )
    sources = find_videos([tmp_path])
    assert names(sources, tmp_path) == ["2.MOV", "10.mp4", "anna/2021/y.webm", "anna/x.mp4", "bob/x.mp4"]
    assert people(sources) == ["2", "10", "anna", "anna", "bob"]
    assert [source.layout for source in sources] == ["file name"] * 2 + ["folder name"] * 3


def test_table_of_people_overrides_layout(tmp_path: Path) -> None:
    create_files(tmp_path, *VOX)
    table = {"00001.mp4": "someone", "_Ab-defghij/00001.mp4": "another", "elsewhere/00002.mp4": "nobody"}
    sources = find_videos([tmp_path], table)
    assert people(sources) == ["someone", "id10001", "someone", "another"]
    assert [source.layout for source in sources] == [
        "table of people",
        "VoxCeleb",
        "table of people",
        "table of people",
    ]


def test_links_are_followed_once(tmp_path: Path) -> None:
    create_files(tmp_path, "videos/anna/1.mp4", "elsewhere/2.mp4")
    videos = tmp_path / "videos"
    (videos / "anna/back").symlink_to(videos)
    (videos / "bob").symlink_to(tmp_path / "elsewhere")
    (videos / "carl").symlink_to(tmp_path / "elsewhere")
    (videos / "self").symlink_to("self")
    (videos / "self.mp4").symlink_to("self.mp4")
    sources = find_videos([videos])
    # the last is no folder and no file; that it cannot be read is for the report
    assert names(sources, videos) == ["anna/1.mp4", "bob/2.mp4", "self.mp4"]


def test_hidden_and_repeated_files_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_files(tmp_path, "1.mp4", ".2.mp4", ".trash/3.mp4", "video without ending")
    monkeypatch.chdir(tmp_path)
    sources = find_videos(["1.mp4", tmp_path, "./1.mp4", "video without ending"])
    assert [source.path for source in sources] == [Path("1.mp4"), Path("video without ending")]


def test_unreadable_folder_is_listed_with_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_files(tmp_path, "a/1.mp4", "b/2.mp4", "c/3.mp4")
    listdir = os.listdir

    def refusing(path: Path) -> list[str]:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refusing)
    sources = find_videos([tmp_path])
    assert names(sources, tmp_path) == ["a/1.mp4", "b", "c/3.mp4"]
    assert [source.problem for source in sources] == ["", "the folder cannot be read (Permission denied)", ""]


def test_names_of_all_kinds(tmp_path: Path) -> None:
    odd = [
        "with space.mp4",
        "ünïcode 人.mp4",
        "new\nline.mp4",
        os.fsdecode(b"not-utf8-\xff.mp4"),
        "-rf.mp4",
        "#%20.mp4",
    ]
    sources = find_videos([create_files(tmp_path, *odd)])
    assert sorted(names(sources, tmp_path)) == sorted(odd)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "^no videos were given, expected at least one"),
        (["gone.mp4"], r"gone\.mp4: no such file; name a video or a folder of videos"),
        (["folder"], r"folder: holds no videos; name a folder of files that end in .*\.mp4"),
    ],
)
def test_missing_videos_report_user_error(tmp_path: Path, paths: list[str], message: str) -> None:
    create_files(tmp_path, "folder/notes.txt")
    with pytest.raises(TalkingheadError, match=message):
        find_videos([tmp_path / name for name in paths])


def test_other_files_are_logged_by_suffix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    create_files(tmp_path, "anna/1.mp4", "anna/1.TXT", "bob/2.txt", "photo.heic", "README", ".hidden.txt")
    with caplog.at_level(logging.INFO, "talkinghead"):
        assert names(find_videos([tmp_path]), tmp_path) == ["anna/1.mp4"]
    [record] = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}: not taken, as they are no videos: 2 .txt, ")
    assert "1 .heic" in record.getMessage() and "1 without an ending" in record.getMessage()


def test_missing_table_of_people_reports_user_error(tmp_path: Path) -> None:
    with pytest.raises(
        TalkingheadError, match=r"people\.tsv: no such file; name the table of people by --people"
    ):
        read_people(str(tmp_path / "people.tsv"))
