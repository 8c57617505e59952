"""The page's jobs: a queue that is worked off one by one, whoever is looking, and a folder for each job.

    <folder>/jobs/<id>/job.json          what was asked, how it stands
                       inputs/<role>/    the files that it reads
                       result.mp4 ...    what it made
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from difftalk_cli.ui.worker import Worker, WorkerGone
from stages.artifacts import remove_tree, write_json
from stages.artifacts.files import explain_os_errors, make_folder, read_json
from stages.errors import DiskError, InputError, UsageError

Kind = Literal["preview", "video", "smooth", "scores", "mark"]
State = Literal["waiting", "running", "stopping", "done", "failed", "stopped"]
MOST_WAITING = 20
KEPT_LINES = 40
STOPPED = "stopped; what was finished is kept, and going on starts from there"
ID = re.compile(r"[0-9a-f]{12}")


@dataclass
class Job:
    """One piece of work and how it stands."""

    id: str
    number: int
    kind: Kind
    title: str
    folder: Path
    request: dict[str, Any]
    state: State = "waiting"
    bar: dict[str, Any] = field(default_factory=dict)
    """The last bar: title, done, total, unit, rate, left (seconds), note."""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return self.state in ("waiting", "running", "stopping")

    def path(self, name: str) -> Path:
        return self.folder / name

    def result(self) -> Path | None:
        """The video that was made."""
        path = self.path("result.mp4")
        return path if self.state == "done" and path.exists() else None

    def save(self) -> None:
        kept = {k: v for k, v in asdict(self).items() if k not in ("folder", "bar", "lines")}
        write_json(self.path("job.json"), kept | {"lines": list(self.lines)})


class Table:
    """All jobs, by id, oldest first. Methods may be called from any thread."""

    def __init__(self, folder: Path, worker: Worker):
        self.folder, self.worker = folder / "jobs", worker
        make_folder(self.folder)
        self._jobs: dict[str, Job] = {job.id: job for job in sorted(_read(self.folder), key=lambda j: j.number)}
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)
        self._thread.start()

    # -- what the page asks for

    def all(self) -> list[Job]:
        with self._changed:
            return list(self._jobs.values())

    def get(self, id: str | None) -> Job | None:
        with self._changed:
            return self._jobs.get(id or "")

    def add(self, kind: Kind, title: str, request: dict[str, Any], files: dict[str, Path], out: str = "") -> Job:
        """Queue a job. `files` (role -> path) are linked or copied into its folder, and the request names them there.

        Raises UsageError when too many wait, InputError for a file that is gone.
        """
        with self._changed:
            if len(self._queue) >= MOST_WAITING:
                raise UsageError(f"{MOST_WAITING} jobs wait already; let some end, or stop them")
        id = secrets.token_hex(6)
        folder = self.folder / id
        make_folder(folder)
        out = str(folder / out)
        try:
            placed = {role: str(_bring(path, folder / "inputs" / role)) for role, path in files.items()}
        except BaseException:
            remove_tree(folder)
            raise
        job = Job(id, 0, kind, title, folder, request | placed | {"job": id, "kind": kind, "out": out})
        with self._changed:
            job.number = 1 + max((j.number for j in self._jobs.values()), default=0)
            self._jobs[id] = job
            self._enter(job)
        return job

    def stop(self, id: str) -> None:
        """Take a job out of the queue, or interrupt it."""
        with self._changed:
            job = self._jobs.get(id)
            if job and job.state == "waiting":
                self._queue.remove(job)
                job.state = "stopped"
                job.save()
            elif job and job.state == "running":
                job.state = "stopping"
                self.worker.interrupt()

    def again(self, id: str) -> None:
        """Queue a job that was stopped or failed once more: it goes on where it was."""
        with self._changed:
            job = self._jobs.get(id)
            if job and job.state in ("stopped", "failed"):
                job.error, job.bar = "", {}
                self._enter(job)

    def remove(self, id: str) -> None:
        """Forget a job that has ended, and delete its files."""
        with self._changed:
            job = self._jobs.get(id)
            if job and not job.active:
                del self._jobs[id]
                remove_tree(job.folder)

    def close(self) -> None:
        """Stop what runs; what was finished of it stays."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self.worker.interrupt()
        self._thread.join()
        self.worker.close()

    # -- the one thread that works

    def _enter(self, job: Job) -> None:
        job.state = "waiting"
        job.save()
        self._queue.append(job)
        self._changed.notify_all()

    def _serve(self) -> None:
        while job := self._next():
            try:
                self._do(job)
            except DiskError as error:  # the record cannot be written; the job is told, the queue goes on
                job.state, job.error = "failed", str(error)
            if not self._closing:
                self.worker.start()  # ready for the next, also after a stop

    def _next(self) -> Job | None:
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            if self._closing:
                return None
            job = self._queue.popleft()
            job.state = "running"
            return job

    def _do(self, job: Job) -> None:
        try:
            for event in self.worker.run(job.request):
                self._hear(job, event)
        except WorkerGone as gone:
            with self._changed:
                stopped = job.state == "stopping" or self._closing
                job.state, job.error = ("stopped", STOPPED) if stopped else ("failed", explain_end(gone.code))
        with self._changed:
            job.bar = {} if job.state == "done" else job.bar
            job.save()

    def _hear(self, job: Job, event: dict[str, Any]) -> None:
        with self._changed:
            if job.state == "stopping" and event["event"] != "end":
                self.worker.interrupt()  # it was asked before the process that now works had started
            if event["event"] == "bar":
                job.bar = event
            elif event["event"] == "end":
                job.state, job.facts = event["state"], event.get("facts", {})
                job.error = readable(event.get("error", ""), job)
            else:
                job.lines.append(readable(("warning: " if event["event"] == "warn" else "") + event["text"], job))


def readable(text: str, job: Job) -> str:
    """Messages name files as the user knows them, not where the page keeps them."""
    return re.sub(re.escape(str(job.folder / "inputs")) + r"/[a-z_]+/", "", text).replace(f"{job.folder}/", "")


def explain_end(code: int) -> str:
    """Why a worker may have ended by itself."""
    if code == -signal.SIGKILL:
        return "the job was killed from outside, most likely for lack of memory; give a smaller video, or close other programs"
    return f"the worker ended unexpectedly (code {code}); the terminal may show why. Going on starts from what was finished"


def _bring(path: Path, folder: Path) -> Path:
    """`path` linked into `folder`, or copied where that cannot be."""
    if not path.is_file():
        raise InputError(f"{path.name}: the upload is no longer there; drop the file again")
    make_folder(folder)
    target = folder / clean_name(path.name)
    with explain_os_errors(target):
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
    return target


def clean_name(name: str) -> str:
    """A file name that is safe anywhere and can still be recognised."""
    stem, suffix = os.path.splitext(os.path.basename(name))
    return (re.sub(r"[^\w .()+-]+", "_", stem).strip(". ")[:80] or "file") + re.sub(r"[^\w.]+", "", suffix)[:10]


def _read(folder: Path) -> Iterator[Job]:
    """Jobs of an earlier server in the same folder; what ran when it ended can be gone on with."""
    for path in folder.glob("*/job.json"):
        told = read_json(path)
        if not told or not ID.fullmatch(path.parent.name) or told.get("id") != path.parent.name:
            continue
        with suppress(TypeError, KeyError):
            lines = deque(told.pop("lines"), maxlen=KEPT_LINES)
            job = Job(**told, folder=path.parent, lines=lines)
            if job.active:
                job.state, job.error = "stopped", STOPPED
            yield job
