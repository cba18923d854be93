"""Merge the parts that several jobs prepared into the data set that one `prepare` of all videos writes.

Part I of N lies in the folder part-I-of-N. The merge is a run of `prepare` itself: it goes through all videos
in their order, and takes the outcome of each from its part instead of processing it. So duplicates across
parts are rejected, and an interrupted merge resumes, as in any run.
"""

import tarfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from ..data.output_paths import check_outputs, files_in
from ..errors import TalkingheadError, quantity
from ..system.process_pool import Work
from ..system.progress import Progress, check_callbacks, no_progress
from .discover import SourceVideo, list_paths
from .mixed_people import warn_of_mixed_people
from .parts import PART_FILE, Part, PartRecord, parts_in, read_part
from .prepare import FILES
from .prepare_result import PrepareResult
from .prepare_run import Entry, InspectedVideo, PrepareRun
from .process_video import VideoResult, VideoTask
from .report import REPORT, read_report
from .shard_reader import read_shard
from .staging import staging_folder
from .writer import DatasetWriter, dataset_write_error

_LINE_KEYS = frozenset(("file", "sha256", "bytes", "verdict", "reason", "person", "layout", "shard"))
"""Keys of a line of the report that every video has; the others are what processing it has told."""
_BLOCK = tarfile.BLOCKSIZE


def merge_parts(
    parts: str | Path | Iterable[str | Path],
    out: str | Path,
    progress: Progress = no_progress,
    shard_clips: int | None = None,
) -> PrepareResult:
    """Write the data set that one `prepare` of all videos would write, from the parts of several jobs.

    The bytes are the same. The videos are not read, and the parts stay. After an interruption the same call
    resumes.

    Args:
        parts: folders of parts, and folders that hold them.
        out: created when missing; an existing data set is extended.
        progress: shows the progress.
        shard_clips: as for `prepare`, whatever that of the parts was.

    Raises:
        TalkingheadError: a part is missing, incomplete, there twice or damaged, parts are of different videos
            or settings, or the folder cannot be written to.
    """
    check_callbacks(progress)
    folders, out = _find_parts(list_paths(parts)), Path(out)
    check_outputs(files_in(out, FILES), [file for folder in folders for file in files_in(folder, FILES)])
    records = _check_parts(folders)
    settings = records[0].settings
    lines = _read_lines(dict(zip(folders, records, strict=True)))
    videos = [_inspected(line) for _, line in lines]
    try:
        with staging_folder(out) as staging, DatasetWriter(out, settings, shard_clips) as writer:
            run = PrepareRun(writer, staging, _PartResults(lines))
            run.process(videos, len(videos), work=_refuse, progress=progress)
            run.check_not_empty(len(videos))
            writer.write_summary()
            if run.added:
                warn_of_mixed_people(out, run.added_people, progress)
            return run.summarize(out, [video.source for video in videos])
    except OSError as error:
        raise dataset_write_error(out, error) from error


def _find_parts(folders: Iterable[Path]) -> list[Path]:
    parts = []
    for folder in folders:
        inside = parts_in(folder)
        if not inside:
            raise TalkingheadError(
                f"{folder}: holds no parts; make them with: talkinghead prepare VIDEOS... --out {folder} "
                "--part I/N"
            )
        parts += inside
    return parts


def _check_parts(folders: list[Path]) -> list[PartRecord]:
    """Return the records of the parts, which have to be complete and to fit together."""
    by_number: dict[int, Path] = {}
    records: list[PartRecord] = []
    for folder in folders:
        record = read_part(folder)
        difference = record.difference_from(records[0]) if records else ""
        if difference:
            raise TalkingheadError(
                f"{folder}: {difference}, as {folders[0]}; prepare all parts by the same command"
            )
        if record.number in by_number:
            raise TalkingheadError(
                f"part {record.part} is there twice, in {by_number[record.number]} and in {folder}; leave "
                "one of them out"
            )
        if not record.complete:
            raise TalkingheadError(
                f"{folder}: is not complete; wait for its job to end, or start it again with --part "
                f"{record.part}"
            )
        by_number[record.number] = folder
        records.append(record)
    count = records[0].count
    missing = count - len(by_number)
    if missing:
        first = Part(next(number for number in range(1, count + 1) if number not in by_number), count)
        others = f" and {quantity(missing - 1, 'other')}" if missing > 1 else ""
        raise TalkingheadError(
            f"part {first}{others} is missing; prepare it with --part {first}, or name its folder too"
        )
    return records


def _read_lines(records: dict[Path, PartRecord]) -> list[tuple[Path, dict[str, Any]]]:
    """Return the lines of all reports, in the order of the videos, each with the folder of its part.

    Raises:
        TalkingheadError: a report and the record of its part contradict each other.
    """
    lines: list[tuple[Path, dict[str, Any]]] = []
    of_parts = {record.number: (folder, _lines_of_part(folder, record)) for folder, record in records.items()}
    for folder, record in records.items():
        expected, count = record.part.num_selected(record.videos), len(of_parts[record.number][1])
        if count != expected:
            raise TalkingheadError(
                f"{folder / REPORT}: tells of {quantity(count, 'video')}, expected {expected}; remove the "
                "folder, and prepare the part again"
            )
    first = next(iter(records.values()))
    for index in range(first.videos):
        folder, part_lines = of_parts[index % first.count + 1]
        lines.append((folder, part_lines[index // first.count]))
    return lines


def _lines_of_part(folder: Path, record: PartRecord) -> list[dict[str, Any]]:
    """Return the last line of each video of a part, in the order of the videos."""
    try:
        settings, *lines = [line for line, _ in read_report(folder / REPORT)] or [dict(record.settings)]
    except OSError as error:
        raise TalkingheadError(f"{folder / REPORT}: cannot be read ({error.strerror})") from error
    if settings != record.settings:
        raise TalkingheadError(
            f"{folder / REPORT}: has other settings than {PART_FILE}; remove the folder, and prepare the "
            "part again"
        )
    return list({line["file"]: line for line in lines}.values())


def _inspected(line: dict[str, Any]) -> InspectedVideo:
    source = SourceVideo(Path(line["file"]), line["person"], line.get("layout", ""))
    digest = line["sha256"]
    reason = "" if digest else line.get("reason", "")
    return InspectedVideo(source, digest, line.get("bytes", 0), stamp=None, reason=reason)


def _refuse(job: Any, heartbeat: Any) -> Any:
    raise AssertionError("a merge processes no video")


class _PartResults:
    """Executor that takes results from parts.

    Args:
        lines: of the reports, with the folders of their parts.
    """

    workers = 1

    def __init__(self, lines: Iterable[tuple[Path, dict[str, Any]]]) -> None:
        self._lines = {line["file"]: (folder, line) for folder, line in lines}
        # folder of a part -> the shard that was read last, and the places of its clips
        self._places: dict[Path, tuple[Path, dict[str, tuple[int, int]]]] = {}

    def map_ordered(
        self, work: Work, jobs: Iterable[tuple[Entry, VideoTask | None]], *, caller: str
    ) -> Generator[tuple[Entry, VideoResult | None], None, None]:
        """Yield (entry, result); the clips of a video that was taken are copied from its part."""
        for entry, task in jobs:
            yield entry, None if task is None else self._result(task)

    def _result(self, task: VideoTask) -> VideoResult:
        folder, line = self._lines[str(task.path)]
        keys = [shot["clip"] for shot in line.get("shots", []) if "clip" in shot]
        frames = sum(shot["kept"] for shot in line.get("shots", []) if "clip" in shot)
        if keys:
            self._copy_clips(folder / line["shard"], keys, task.clips)
        return VideoResult(
            record={key: value for key, value in line.items() if key not in _LINE_KEYS},
            reason=line.get("reason", ""),
            clips=len(keys),
            frames=frames,
            num_bytes=task.clips.stat().st_size if keys else 0,
        )

    def _copy_clips(self, shard: Path, keys: Iterable[str], target: Path) -> None:
        """Copy clips of a shard, without the end of the archive.

        Raises:
            TalkingheadError: the shard is damaged or lacks a clip.
        """
        if self._places.get(shard.parent, (None, {}))[0] != shard:
            self._places[shard.parent] = shard, _clip_places(shard)
        places = self._places[shard.parent][1]
        with open(shard, "rb") as file, open(target, "wb") as output:
            for key in keys:
                if key not in places:
                    raise TalkingheadError(
                        f"{shard}: lacks the clip {key}; remove the folder, and prepare the part again"
                    )
                start, end = places[key]
                file.seek(start)
                output.write(file.read(end - start))


def _clip_places(shard: Path) -> dict[str, tuple[int, int]]:
    """Return key of a clip -> start and end of its members in a shard."""
    places: dict[str, tuple[int, int]] = {}
    start = 0
    for clip, _ in read_shard(shard):
        offset, size = clip.json  # its last member
        end = offset + -(-size // _BLOCK) * _BLOCK
        places[clip.key] = start, end
        start = end
    return places
