"""Writing an artifact: plan, build each unit aside, commit it by one rename, seal with artifact.json.

    with Store(root, kind="clips", stage="preprocess", code=1, config=cfg, runtime=runtime) as store:
        for unit in store.plan(units):               # only what is missing or out of date
            with store.draft(unit) as draft:         # an exception is recorded, the rest go on
                np.save(draft.path / "crops.npy", crops)
                draft.facts["frames"] = len(crops)
        report = store.seal()
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stages
from stages.artifacts.files import explain_os_errors, make_folder, remove_tree, replace_tree, write_json
from stages.artifacts.fingerprint import (
    DigestCache,
    Input,
    Weight,
    config_dict,
    digest_json,
    explain,
    file_digest,
    make_key,
)
from stages.artifacts.lock import lock
from stages.artifacts.read import SCHEMA, units_folder
from stages.errors import ArtifactError, DiffTalkError, InputError
from stages.runtime import Report, Runtime


@dataclass(frozen=True)
class Unit:
    """One clip's work: what it is computed from decides whether it must be done again."""

    id: str
    inputs: tuple[Input, ...]
    payload: Any = None
    """What the stage needs to do the work; never hashed."""
    source: str = ""
    """What to call it in failures.jsonl: a file's name."""


@dataclass
class Draft:
    """A unit being built, in a folder of its own."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def commit(final: Path, temp: Path, id: str, key: dict[str, Any]) -> Iterator[Draft]:
    """Build a unit below `temp` and rename it to `final` when the block ends well. Safe in a worker process."""
    folder = temp / f"{id[:80]}-{uuid.uuid4().hex[:8]}"
    make_folder(folder)
    draft = Draft(folder)
    try:
        with explain_os_errors(final):
            yield draft
        files = {
            str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": file_digest(p)}
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }
        facts = json.loads(json.dumps(draft.facts))
        record = {
            "id": id,
            "fingerprint": digest_json(key),
            "key": key,
            "facts": facts,
            "files": files,
            "digest": digest_json({"facts": facts, "files": files}),
        }
        write_json(folder / "clip.json", record)
        replace_tree(folder, final, temp / "trash")
    finally:
        remove_tree(folder)


class Store:
    """The writer of one artifact directory; holds its lock from enter to exit.

    Raises ArtifactError when another run writes there or the folder holds another kind of artifact.
    """

    def __init__(
        self,
        root: Path,
        *,
        kind: str,
        stage: str,
        code: int,
        config: Any,
        runtime: Runtime,
        weights: Sequence[Weight] = (),
        unit_config: Sequence[str] | None = None,
    ):
        self.root, self.kind, self.stage, self.code = Path(root), kind, stage, code
        self.config = config_dict(config)
        # A field that only the whole artifact depends on (the split's seed) must not redo every clip.
        names = self.config if unit_config is None else unit_config
        self.unit_config = {name: self.config[name] for name in names}
        self.weights, self.runtime, self.log = tuple(weights), runtime, runtime.reporter.log
        self.units = units_folder(self.root, kind)
        shard = runtime.shard or (0, 1)
        self.temp = self.root / f".tmp-{shard[0]}-of-{shard[1]}"
        self.failures_path = self.root / (
            f"failures-{shard[0]}-of-{shard[1]}.jsonl" if runtime.shard else "failures.jsonl"
        )
        self.report = Report(out=self.root)
        self.failures: dict[str, dict[str, Any]] = {}
        self.planned: dict[str, Unit] = {}
        self._stack = ExitStack()

    # -- opening and closing

    def __enter__(self) -> Store:
        if self.runtime.dry_run:
            self._read_state()
            return self
        self._stack.enter_context(lock(self.root, self.runtime.shard))
        try:
            self._read_state()
            remove_tree(self.temp)
        except BaseException:
            self._stack.close()
            raise
        self.started = time.time()
        self._log_run("start")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        if not self.runtime.dry_run:
            self._log_run("end" if error is None else f"stopped by {kind.__name__}")  # type: ignore[union-attr]
            remove_tree(self.temp)
        self._stack.close()

    def _read_state(self) -> None:
        manifest = self.root / "artifact.json"
        if manifest.exists():
            try:
                kind = json.loads(manifest.read_text(encoding="utf-8")).get("kind")
            except ValueError:
                kind = self.kind  # torn by something else than us: sealing writes it anew
            if kind != self.kind:
                raise ArtifactError(f"{self.root} already holds a {kind} artifact, not {self.kind}; choose another --out")
        self.digests = DigestCache(self.root / ".digests.json")
        for path in sorted(self.root.glob("failures*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                    self.failures[record["id"]] = record
                except (ValueError, KeyError):
                    continue  # the line that was being written when the run was killed

    def _log_run(self, event: str) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"event": event, "time": now, "host": socket.gethostname(), "pid": os.getpid(), "command": sys.argv}
        record["version"] = stages.__version__
        if event != "start":
            record["seconds"] = round(time.time() - self.started, 3)
        self._append(self.root / "run.jsonl", record)

    @staticmethod
    def _append(path: Path, record: dict[str, Any]) -> None:
        with explain_os_errors(path), path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(record, ensure_ascii=False) + "\n")

    # -- planning

    def key(self, unit: Unit) -> dict[str, Any]:
        return make_key(self.stage, self.code, self.unit_config, unit.inputs, self.weights)

    def why(self, unit: Unit) -> str:
        """The reason why `unit` must be made, or an empty text when it is there and sound."""
        if self.runtime.force:
            return "forced"
        folder = self.units / unit.id
        try:
            record = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return "missing" if not folder.exists() else "damaged (clip.json is gone)"
        except (OSError, ValueError):
            return "damaged (clip.json cannot be read)"
        key = self.key(unit)
        if record.get("fingerprint") != digest_json(key):
            return explain(record.get("key", {}), key) or "damaged (fingerprint)"
        return self._damage(folder, record)

    def _damage(self, folder: Path, record: dict[str, Any]) -> str:
        for name, expected in record["files"].items():
            path = folder / name
            if not path.is_file():
                return f"damaged ({name} is gone)"
            if path.stat().st_size != expected["bytes"]:
                return f"damaged ({name} has {path.stat().st_size} bytes of {expected['bytes']})"
            if self.digests.digest(path, f"{folder.name}/{name}") != expected["sha256"]:
                return f"damaged ({name} differs from its sha256)"
        return ""

    def plan(self, units: Iterable[Unit]) -> list[Unit]:
        """The units that must be made, in order; every skip and redo is logged with its reason."""
        todo = []
        for unit in sorted(units, key=lambda u: u.id):
            if unit.id in self.planned:
                self.log(f"skip {unit.id}: the same content as another source")
                continue
            self.planned[unit.id] = unit
            if self.runtime.shard and int(digest_json(unit.id), 16) % self.runtime.shard[1] != self.runtime.shard[0]:
                continue
            reason = self.why(unit)
            failure = self.failures.get(unit.id)
            if reason and failure and failure.get("final") and failure["fingerprint"] == digest_json(self.key(unit)):
                if not self.runtime.force:
                    self.report.failed[unit.id] = failure["message"]
                    self.log(f"skip {unit.id}: failed before: {failure['message']} (--force tries again)")
                    continue
            if reason:
                self.log(f"make {unit.id}: {reason}")
                todo.append(unit)
            else:
                self.failures.pop(unit.id, None)
                self.report.skipped += 1
                self.log(f"skip {unit.id}: up to date")
        if todo and not self.runtime.dry_run:
            (self.root / "artifact.json").unlink(missing_ok=True)  # incomplete from here until sealed
        return todo

    # -- making

    @contextmanager
    def draft(self, unit: Unit) -> Iterator[Draft]:
        """Build one unit. A DiffTalkError (or a bug in one clip) is recorded and swallowed; interrupts are not.

        A full or read-only disk is no clip's fault: it ends the run.
        """
        try:
            with commit(self.units / unit.id, self.temp, unit.id, self.key(unit)) as draft:
                yield draft
        except ArtifactError:
            raise
        except Exception as error:
            self.fail(unit, error)
        else:
            self.succeed(unit)

    def succeed(self, unit: Unit) -> None:
        """Note that `unit` is committed (by this process or by a worker)."""
        self.report.done += 1
        self.failures.pop(unit.id, None)

    def fail(self, unit: Unit, error: BaseException) -> None:
        """Record a failure. Bad input stays failed until it changes; anything else is tried again next time."""
        message = str(error) or type(error).__name__
        record = {
            "id": unit.id,
            "source": unit.source,
            "error": type(error).__name__,
            "message": message,
            "detail": getattr(error, "detail", "") or ("" if isinstance(error, DiffTalkError) else _trace(error)),
            "fingerprint": digest_json(self.key(unit)),
            "final": isinstance(error, InputError),
        }
        self.failures[unit.id] = record
        self.report.failed[unit.id] = message
        self.runtime.reporter.warn(f"{unit.source or unit.id}: {message}")
        self._append(self.failures_path, record)

    # -- sealing

    def seal(self, inputs: Sequence[Input] = (), facts: dict[str, Any] | None = None) -> Report:
        """Write the manifest and return the report. With --shard, only the failures: the run without it seals."""
        if self.runtime.dry_run:
            return self.report
        failures = {id: f for id, f in self.failures.items() if id in self.report.failed or not self._committed(id)}
        self._write_failures(failures)
        if self.runtime.shard:
            self.log(f"shard {self.runtime.shard[0]}/{self.runtime.shard[1]} done; the command without --shard seals {self.root}")
            return self.report
        digests = self._collect()
        unit_inputs = [i for u in self.planned.values() for i in u.inputs]
        key = make_key(self.stage, self.code, self.config, [*unit_inputs, *inputs], self.weights)
        manifest = {
            "kind": self.kind,
            "schema": SCHEMA,
            "producer": {"command": self.stage, "version": stages.__version__, "code": self.code},
            "config": self.config,
            "inputs": key["inputs"],
            "weights": [vars(w) for w in self.weights],
            "fingerprint": digest_json(key),
            "clips": {"ok": sorted(digests), "failed": sorted(set(failures) - set(digests))},
            "facts": facts or {},
            "digest": digest_json({"clips": digests, "facts": facts or {}}),
        }
        write_json(self.root / "artifact.json", manifest)
        self.digests.save()
        return self.report

    def _committed(self, id: str) -> bool:
        return (self.units / id / "clip.json").is_file()

    def _write_failures(self, failures: dict[str, dict[str, Any]]) -> None:
        for path in self.root.glob("failures*.jsonl"):
            if not self.runtime.shard or path == self.failures_path:
                path.unlink()
        mine = [f for id, f in sorted(failures.items()) if not self.runtime.shard or id in self.report.failed]
        for record in mine:
            self._append(self.failures_path, record)

    def _collect(self) -> dict[str, str]:
        """Digests of the clips that the manifest lists: those planned now, and earlier ones made the same way."""
        digests = {}
        for path in sorted(self.units.glob("*/clip.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            for name in record["files"]:
                self.digests.digest(path.parent / name, f"{path.parent.name}/{name}")
            same = make_key(self.stage, self.code, self.unit_config, (), self.weights)
            here = {**record["key"], "inputs": []}
            if record["id"] in self.report.failed:
                continue
            if record["id"] not in self.planned:
                if here != same:
                    self.runtime.reporter.warn(
                        f"{record['id']} in {self.root} was made otherwise ({explain(here, same)}) and is left out"
                    )
                    continue
                self.log(f"keep {record['id']}: made by an earlier run")
            digests[record["id"]] = record["digest"]
        return digests


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-4000:]


def free_bytes(path: Path) -> int:
    """Bytes free on the file system that holds `path`."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
