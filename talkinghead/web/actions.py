"""Actions of a user: uploads, learning, driving, export and removal, as jobs and as changes of a session."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..constants import DEFAULT_MODEL, LAYOUTS, RETARGET
from ..errors import TalkingheadError, one_line, quantity, shorten
from ..weights import shipped_models
from .jobs import ENDED, Job, JobQueue
from .sessions import Session, SessionStore
from .settings import ServerSettings

QUALITIES = ("at-once", "quick", "standard", "thorough")
ENGINE_CHOICES = ("onnx", "aoti")
_MAX_NAME_CHARACTERS = 60
_REMOVABLE = ("pictures", "drivers", "persons", "results", "engines")
_PARENTS = {"persons": ("results", "engines")}
"""Kinds of entries that are removed with an entry of another kind, whose id they hold as `person`."""
_MAX_RESTARTS = 2  # of a job whose server ended while it waited or ran


class Actions:
    """Actions on sessions.

    Args:
        settings: of the server.
        store: of the sessions.
    """

    def __init__(self, settings: ServerSettings, store: SessionStore) -> None:
        self._settings, self._store = settings, store
        common = {"landmarks": settings.landmarks, "device": settings.device}
        self._common = common
        limits = settings.limits
        self.uploads = JobQueue("uploads", limits, common)
        self.work = JobQueue("work", limits, {**common, "model": DEFAULT_MODEL})

    def resume(self) -> None:
        """Queue again what waited or ran when the server last ended."""
        for session in self._store:
            for kind in ("pictures", "drivers", "jobs"):
                for entry in session.entries(kind):
                    if entry.get("state") in ENDED:
                        continue
                    entry["restarts"] = entry.get("restarts", 0) + 1
                    try:
                        if entry["restarts"] > _MAX_RESTARTS:
                            raise TalkingheadError("the server ended while it was done; start it again")
                        self._submit(session, entry)
                    except (TalkingheadError, KeyError, TypeError) as error:
                        entry.update(state="failed", error=str(error))
            session.save()

    def check_room(self, session: Session, role: str) -> None:
        """Check that one more file may be uploaded.

        Raises:
            TalkingheadError: there are too many.
        """
        most = self._settings.limits.pictures
        if len(session.entries(role)) >= most:
            raise TalkingheadError(f"{role}: there are {most} already, the most; remove one")

    def add_upload(self, session: Session, role: str, name: str, file: Path) -> dict[str, Any]:
        """Examine an uploaded file, which is of a role, "pictures" or "drivers".

        Returns:
            its entry in the session.
        """
        entry = session.add(role, name=clean_name(name), kind="", state="waiting", job="examine", role=role)
        file.rename(session.path(entry["id"], ".upload"))
        return self._start(session, role, entry)

    def learn(self, session: Session, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Learn a person from those of the session's pictures that can be used.

        Raises:
            TalkingheadError: there are none, or a choice is unknown.
        """
        pictures = [entry["id"] for entry in session.entries("pictures") if entry["state"] == "done"]
        if not pictures:
            raise TalkingheadError("pictures: there is none to learn from; add one that shows a face")
        model = choice(fields, "model", tuple(shipped_models()), DEFAULT_MODEL)
        quality = choice(fields, "quality", QUALITIES, "standard")
        session.state["named"] += 1
        name = clean_name(str(fields.get("name") or "")) or f"Person {session.state['named']}"
        entry = session.add("jobs", job="learn", name=name, pictures=pictures, model=model, quality=quality)
        return self._start(session, "jobs", entry)

    def animate(self, session: Session, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Animate one or more persons with one driver.

        Raises:
            TalkingheadError: a person or the driver is not there, or a choice is unknown.
        """
        persons = fields.get("persons")
        if not isinstance(persons, list) or not persons:
            raise TalkingheadError("persons: none is chosen; choose one or more")
        if len(persons) > self._settings.limits.session_jobs:
            raise TalkingheadError(
                f"persons: at most {quantity(self._settings.limits.session_jobs, 'person')} at a time; "
                "choose fewer"
            )
        driver = session.entry("drivers", fields.get("driver"))
        if driver["state"] != "done":
            raise TalkingheadError(f"{driver['name']}: cannot drive; choose another video or picture")
        retarget = choice(fields, "retarget", RETARGET, "auto")
        layout = choice(fields, "layout", LAYOUTS, LAYOUTS[0])
        started = []
        for number in dict.fromkeys(map(str, persons)):
            person = session.entry("persons", number)
            entry = session.add(
                "jobs",
                job="animate",
                name=f"{person['name']} as {driver['name']}",
                person=person["id"],
                driver=driver["id"],
                retarget=retarget,
                layout=layout,
            )
            started.append(self._start(session, "jobs", entry))
        return started

    def export(self, session: Session, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Export a person as an engine.

        Raises:
            TalkingheadError: the person is not there, or the format is unknown.
        """
        person = session.entry("persons", fields.get("person"))
        format = choice(fields, "format", ENGINE_CHOICES, "onnx")
        name = f"engine of {person['name']}"
        entry = session.add("jobs", job="export", name=name, person=person["id"], format=format)
        return self._start(session, "jobs", entry)

    def stop(self, session: Session, number: str) -> None:
        """Stop a job; learning keeps the person so far.

        Raises:
            TalkingheadError: there is no such job.
        """
        if not (self.work.stop(session, number) or self.uploads.stop(session, number)):
            session.entry("jobs", number)  # one that has ended is no error

    def remove(self, session: Session, kind: str, number: str) -> None:
        """Remove an entry with its files and with what was made of it.

        Raises:
            TalkingheadError: there is no such entry, or a job uses it.
        """
        if kind not in _REMOVABLE:
            raise TalkingheadError(f"{shorten(one_line(kind), 20)}: nothing of that kind can be removed")
        session.entry(kind, number)
        for job in session.entries("jobs"):
            in_use = number in (job.get("person"), job.get("driver"), *job.get("pictures", ()))
            if in_use and job["state"] not in ENDED:
                raise TalkingheadError(f"{job['name']}: this job uses it; stop the job first")
        self.uploads.stop(session, number)
        for child in _PARENTS.get(kind, ()):
            for entry in [entry for entry in session.entries(child) if entry.get("person") == number]:
                session.remove(child, entry["id"])
        session.remove(kind, number)

    def remove_session(self, session: Session) -> None:
        """Remove all that a user has uploaded and made."""
        self.uploads.forget(session)
        self.work.forget(session)
        self._store.remove(session)

    def _start(self, session: Session, kind: str, entry: dict[str, Any]) -> dict[str, Any]:
        """Queue a new entry's job; an entry that cannot be queued is removed."""
        try:
            self._submit(session, entry)
        except TalkingheadError:
            session.remove(kind, entry["id"])
            raise
        session.save()
        return entry

    def _submit(self, session: Session, entry: dict[str, Any]) -> None:
        """Queue the job that an entry describes."""
        build = {
            "examine": self._examine_request,
            "learn": self._learn_request,
            "animate": self._animate_request,
            "export": self._export_request,
        }[entry["job"]]
        request = {"kind": entry["job"], **self._common, **build(session, entry)}
        queue = self.uploads if entry["job"] == "examine" else self.work
        queue.submit(Job(session, entry, request, on_done=_keep_result, on_end=_remove_remains))

    def _examine_request(self, session: Session, entry: dict[str, Any]) -> dict[str, Any]:
        stem = session.path(entry["id"])
        return {
            "path": str(stem.with_suffix(".upload")),
            "stem": str(stem),
            "name": entry["name"],
            "max_seconds": self._settings.limits.clip_seconds,
        }

    def _learn_request(self, session: Session, entry: dict[str, Any]) -> dict[str, Any]:
        pictures = [session.entry("pictures", number) for number in entry["pictures"]]
        paths = [[str(session.path(one["id"], one["suffix"])), one["name"]] for one in pictures]
        out = str(session.path(entry["id"]))
        return {"pictures": paths, "model": entry["model"], "quality": entry["quality"], "out": out}

    def _animate_request(self, session: Session, entry: dict[str, Any]) -> dict[str, Any]:
        driver = session.entry("drivers", entry["driver"])
        return {
            "person": person_file(session, entry["person"]),
            "drive": str(session.path(driver["id"], driver["suffix"])),
            "kind_of_driver": driver["kind"],
            "name": driver["name"],
            "out": str(session.path(entry["id"])),
            "retarget": entry["retarget"],
            "layout": entry["layout"],
        }

    def _export_request(self, session: Session, entry: dict[str, Any]) -> dict[str, Any]:
        return {
            "person": person_file(session, entry["person"]),
            "format": entry["format"],
            "out": str(session.path(entry["id"])),
        }


def person_file(session: Session, number: object) -> str:
    """Return the file of a person of a session.

    Raises:
        TalkingheadError: there is no such person.
    """
    return str(session.path(session.entry("persons", number)["id"], ".safetensors"))


def choice(fields: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    """Return a choice of a request.

    Raises:
        TalkingheadError: it is unknown.
    """
    value = fields.get(name, default)
    if value not in choices:
        raise TalkingheadError(f"{name}: no such choice; choose one of {', '.join(choices)}")
    return value


def clean_name(name: str) -> str:
    """Return a user's name of a file or person without what does not print, shortened; it is no path."""
    text = re.sub(r"\s+", " ", one_line(name.replace("\\", "/").rpartition("/")[2])).strip()
    return shorten(text, _MAX_NAME_CHARACTERS)


def _keep_result(job: Job, result: dict[str, Any]) -> None:
    """Put the result of a job into the session."""
    entry, session = job.entry, job.session
    if entry["job"] == "examine":
        entry.update(result)
        return
    fields = {"id": entry["id"], "name": entry["name"], "notes": entry.get("notes", [])}
    if entry["job"] == "learn":
        session.add("persons", **fields, model=entry["model"], **result)
        return
    fields["person"] = entry["person"]
    if entry["job"] == "animate":
        settings = {name: entry[name] for name in ("driver", "retarget", "layout")}
        session.add("results", **fields, **settings, **result)
    else:
        session.add("engines", **fields, format=entry["format"], **result)


def _remove_remains(job: Job, error: str) -> None:
    """Remove files of a job that has no result."""
    number = job.number
    job.session.path(number, ".preview").unlink(missing_ok=True)
    if job.entry["state"] == "done":
        return
    for path in job.session.folder.glob(f"{number}.*"):
        path.unlink(missing_ok=True)
