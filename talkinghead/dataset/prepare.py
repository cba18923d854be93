"""Prepare videos: write the data set that `train` reads."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.crop import CONVENTIONS
from ..data.output_paths import check_outputs, files_in, videos_in
from ..errors import TalkingheadError
from ..landmarks.detector import Detector
from ..landmarks.open_detector import resolve_detector
from ..system.executor import open_executor
from ..system.progress import Progress, check_callbacks, no_progress
from ..system.torch_state import with_default_torch_state
from .discover import FILE_NAME, SourceVideo, find_videos, list_paths
from .mixed_people import warn_of_mixed_people
from .parts import PART_FILE, Part, parse_part, part_record, recorded_part
from .people_table import resolve_people
from .prepare_result import PrepareResult
from .prepare_run import PrepareRun, inspect_video
from .process_video import VideoProcessor
from .quality_filters import Filters
from .report import REPORT, read_report
from .shard_reader import MAX_SIDE, SHARDS, VERSION
from .staging import staging_folder
from .writer import SUMMARY, DatasetWriter, dataset_write_error

log = logging.getLogger(__name__)

FILES = (SHARDS, REPORT, SUMMARY, PART_FILE, "sheet.png")
"""Patterns of the files in a data set's folder."""


@with_default_torch_state
def prepare(
    videos: str | Path | Iterable[str | Path],
    out: str | Path,
    size: int = 256,
    detector: Detector | str = "auto",
    people: Mapping[str, str] | str | Path | None = None,
    workers: int | None = None,
    filters: Filters | None = None,
    progress: Progress = no_progress,
    convention: int = 2,
    part: str | None = None,
    ray: str | None = None,
    shard_clips: int | None = None,
) -> PrepareResult:
    """Add the faces of videos to the data set in a folder.

    The folder then holds tar shards (see `talkinghead.dataset.shard_reader`), `report.jsonl` (see
    `talkinghead.dataset.writer`) and `dataset.json` (settings, clips, frames, people). A worker process that
    crashes or hangs costs its current video. Shards appear one by one, each when it is complete. After an
    interruption the same call resumes after the last shard, and gives the same bytes, whatever the number of
    workers; files whose content is in the report are not processed again.

    Args:
        videos: files, and folders whose videos are used, including those in subfolders.
        out: created when missing; an existing data set is extended.
        size: side of the stored crops in pixels, at most `talkinghead.dataset.shard_reader.MAX_SIDE`.
        detector: its name, such as "network" or "dlib", or a detector, which is pickled for the workers.
        people: who is in which video, where the layout does not tell (see `talkinghead.dataset.discover`): a
            mapping of file name to person, or the path of a table of tab-separated columns file and person.
        workers: the number of processes; by default one for each core that this process may use.
        filters: thresholds for the shots; ``Filters()`` by default.
        progress: shows the progress.
        convention: of the crops (see `talkinghead.data.crop`) in a new data set; another keeps its own.
        part: "I/N" prepares every N-th video from the I-th on: see `talkinghead.dataset.merge_parts`.
        ray: address of a Ray cluster that shares videos and `out`, or "auto" for that of this machine.
        shard_clips: clips after which a shard is finished, by default 16; fewer make more shards.

    Raises:
        TalkingheadError: no video exists or could be used; an argument is wrong; the folder cannot be written
            to, is written by another run, or was prepared with other settings; the cluster cannot be used.
    """
    _check_arguments(size, convention, progress)
    chosen = None if part is None else parse_part(part)
    videos, out = list_paths(videos), Path(out, chosen.folder_name if chosen else "")
    sources = _find_sources(videos, people, out)
    filters, opened = filters or Filters(), resolve_detector(detector)
    try:
        # read the existing data set only while no other run can write to it
        with (
            staging_folder(out) as staging,
            open_executor(workers, ray, staging=staging, out=out) as executor,
        ):
            settings = _settings(out, opened, size=size, filters=filters, convention=convention)
            processor = VideoProcessor(opened, size, filters, out=out, convention=settings.get("crop", 1))
            with DatasetWriter(out, settings, shard_clips) as writer:
                run = PrepareRun(writer, staging, executor)
                own_sources = _process(run, sources, chosen, processor=processor, progress=progress)
                return run.summarize(out, own_sources)
    except OSError as error:
        raise dataset_write_error(out, error) from error


def _find_sources(
    videos: list[Path], people: Mapping[str, str] | str | Path | None, out: Path
) -> list[SourceVideo]:
    """Find the videos, and say how many count as people of their own, because nothing tells who is in them.

    Raises:
        TalkingheadError: there are none, or the data set would overwrite one.
    """
    check_outputs(files_in(out, FILES), [file for video in videos for file in videos_in(video)])
    sources = find_videos(videos, resolve_people(people))
    names = {source.person for source in sources if source.layout == FILE_NAME}
    if len(names) > 1:
        log.info(
            "%d videos count as %d people, one for each file name; put the videos of a person into a "
            "subfolder of the person's name, or name a table by --people",
            sum(source.layout == FILE_NAME for source in sources),
            len(names),
        )
    return sources


def _process(
    run: PrepareRun,
    sources: list[SourceVideo],
    part: Part | None,
    *,
    processor: VideoProcessor,
    progress: Progress,
) -> list[SourceVideo]:
    """Process all videos or those of a part, write the summary, and return the videos."""
    own_sources = part.select(sources) if part else sources
    record = part_record(part, sources, run.writer.settings) if part else None
    with recorded_part(run.writer.out, record):
        run.process(map(inspect_video, own_sources), len(own_sources), work=processor, progress=progress)
        if part is None:  # of some part, no video may be good
            run.check_not_empty(len(own_sources))
        run.writer.write_summary()
        if part is None and run.added:
            warn_of_mixed_people(run.writer.out, run.added_people, progress)
    return own_sources


def _check_arguments(size: int, convention: int, progress: object) -> None:
    check_callbacks(progress)
    if convention not in CONVENTIONS:
        raise TalkingheadError(
            f"convention {convention!r}: unknown, expected 1 or 2; name one of them, or none"
        )
    if not 0 < size <= MAX_SIDE:
        raise TalkingheadError(
            f"prepare: a size of {size} is none of crops; choose one from 1 to {MAX_SIDE}, such as 256"
        )


def _settings(
    out: Path, detector: Detector, *, size: int, filters: Filters, convention: int
) -> dict[str, Any]:
    """Return the settings that all clips share, with the convention of an existing data set."""
    settings = {"version": VERSION, "size": size, "detector": detector.name, "filters": asdict(filters)}
    # there is no first line without a report, or when a run was interrupted while it wrote that line
    first = next(read_report(out / REPORT), None)
    if first is not None:
        stored = first[0].get("crop", 1)
        # DatasetWriter refuses an unknown one
        convention = stored if stored in CONVENTIONS else convention
    # a data set of convention 1 does not store it, as in earlier versions
    return settings | ({"crop": convention} if convention != 1 else {})
