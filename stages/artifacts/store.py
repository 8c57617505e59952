"""Writing an artifact: plan, build each unit aside, commit it by one rename, seal with artifact.json.

    with Store(root, kind="clips", stage="preprocess", code=1, config=cfg, runtime=runtime) as store:
        for unit in store.plan(units):               # only what is missing or out of date
            with store.draft(unit) as draft:         # an exception is recorded, the rest go on
                np.save(draft.path / "crops.npy", crops)
                draft.facts["frames"] = len(crops)
        report = store.seal()
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import stages
from stages.artifacts.files import append_line, explain_os_errors, move_and_remove, read_json, write_json
from stages.artifacts.fingerprint import DigestCache, Input, Weight, config_dict, digest_json, explain, make_key
from stages.artifacts.journal import failure, log_run, read_failures, write_failures
from stages.artifacts.lock import lock
from stages.artifacts.read import SCHEMA, units_folder
from stages.artifacts.unit import NAME_BYTES, Draft, Unit, commit, damage, read_record
from stages.errors import ArtifactError, DiskError, InputError
from stages.runtime import Report, Runtime

__all__ = ["Draft", "Store", "Unit", "commit"]


Facts = dict[str, Any] | Callable[[list[str]], dict[str, Any]] | None


class Store:
    """The writer of one artifact directory; holds its lock from enter to exit.

    Raises ArtifactError when another run writes there (with `wait`, what several runs may share, waits for it) or the folder
    holds another kind of artifact.
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
        wait: bool = False,
    ):
        self.root, self.kind, self.stage, self.code = Path(root), kind, stage, code
        self.wait = wait
        self.config = config_dict(config)
        # A field that only the whole artifact depends on (the split's seed) must not redo every clip.
        names = self.config if unit_config is None else unit_config
        self.unit_config = {name: self.config[name] for name in names}
        self.weights, self.runtime, self.log = tuple(weights), runtime, runtime.reporter.log
        self.units = units_folder(self.root, kind)
        shard = runtime.shard or (0, 1)
        # A symlinked clips/ lies on another disk, where a rename from here does not reach.
        self.temp = (self.units if self.units.is_symlink() else self.root) / f".tmp-{shard[0]}-of-{shard[1]}"
        self.failures_path = self.root / (
            f"failures-{shard[0]}-of-{shard[1]}.jsonl" if runtime.shard else "failures.jsonl"
        )
        self.report = Report(out=self.root)
        self.failures: dict[str, dict[str, Any]] = {}
        self.planned: dict[str, Unit] = {}
        self._made: set[str] = set()
        self._mutex = threading.Lock()
        self._stack = ExitStack()

    # -- opening and closing

    def __enter__(self) -> Self:
        if self.runtime.dry_run:
            self._read_state()
            return self
        with ExitStack() as stack:
            stack.enter_context(lock(self.root, self.runtime.shard, self.runtime.reporter.warn, wait=self.wait))
            self._read_state()
            self._sweep()
            self.started = time.monotonic()
            log_run(self.root, "start")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if not self.runtime.dry_run:
                with suppress(DiskError):  # a full disk has been told by whatever met it first
                    self.digests.save()
                    log_run(self.root, f"stopped by {kind.__name__}" if kind else "end", self.started)
                self._sweep()

    def _sweep(self) -> None:
        """Remove what killed runs left. Whoever holds the whole artifact's lock cleans up after shards too."""
        others = [] if self.runtime.shard else self.temp.parent.glob(".tmp-*-of-*")
        for folder in (self.temp, *others):
            move_and_remove(folder, f".tmp-{uuid.uuid4().hex[:8]}-of-0")

    def _read_state(self) -> None:
        manifest = read_json(self.root / "artifact.json") or {}  # torn by something else than us: sealed anew
        if manifest.get("kind", self.kind) != self.kind:
            raise ArtifactError(f"{self.root} already holds a {manifest['kind']} artifact, not {self.kind}; choose another --out")
        # Each shard writes a file of its own, and all read all.
        name = f".digests-{self.runtime.shard[0]}-of-{self.runtime.shard[1]}.json" if self.runtime.shard else ".digests.json"
        self.digests = DigestCache(self.root / name, also=[self.root / ".digests.json", *sorted(self.root.glob(".digests-*-of-*.json"))])
        with explain_os_errors(self.root):
            self.failures = read_failures(self.root)

    # -- planning

    def key(self, unit: Unit) -> dict[str, Any]:
        return make_key(self.stage, self.code, self.unit_config, unit.inputs, self.weights)

    def why(self, unit: Unit) -> str:
        """The reason why `unit` must be made, or an empty text when it is there and sound."""
        if self.runtime.force:
            return "forced"
        folder = self.units / unit.id
        if not folder.exists():
            return "missing"
        if not (folder / "clip.json").exists():
            return "damaged (clip.json is gone)"
        record = read_record(folder)
        if record is None:
            return "damaged (clip.json cannot be read)"
        key = self.key(unit)
        if record["fingerprint"] != digest_json(key):
            return explain(record["key"], key)
        return damage(folder, record, self.digests)

    def plan(self, units: Iterable[Unit]) -> list[Unit]:
        """The units that must be made, in order; every skip and redo is logged with its reason."""
        todo = []
        for unit in sorted(units, key=lambda u: u.id):
            if self._is_new(unit) and self.is_mine(unit.share or unit.id) and self._must_be_made(unit):
                todo.append(unit)
        if self.runtime.merge:
            self._refuse_unmade(todo)
            todo = []
        if not self.runtime.dry_run:
            if todo:
                (self.root / "artifact.json").unlink(missing_ok=True)  # incomplete from here until sealed
            self.digests.save()  # now: whatever stops the run, the sources need not be read again
        return todo

    def _refuse_unmade(self, todo: list[Unit]) -> None:
        """With --merge nothing is made: what shards could not make stays failed, what they have not made is an error."""
        unmade = []
        for unit in todo:
            failed = self.failures.get(unit.id)
            if failed and failed["fingerprint"] == digest_json(self.key(unit)):
                self.report.failed[unit.id] = failed["message"]
            else:
                unmade.append(unit.id)
        if unmade:
            names = ", ".join(unmade[:5]) + (", ..." if len(unmade) > 5 else "")
            raise ArtifactError(
                f"--merge: {len(unmade)} of {len(self.planned)} are not made yet in {self.root}: {names}; "
                "run the shards that did not end again, or leave --merge away to make them here"
            )

    def _is_new(self, unit: Unit) -> bool:
        earlier = self.planned.setdefault(unit.id, unit)
        if earlier is unit:
            return True
        if self.key(earlier) == self.key(unit):
            self.log(f"skip {unit.id}: the same content as another source")
        else:
            self.runtime.reporter.warn(
                f"{unit.id} is wanted twice, from different inputs ({explain(self.key(earlier), self.key(unit))}): "
                f"made once, from {earlier.source or 'the first'}"
            )
        return False

    def is_mine(self, share: str) -> bool:
        """Whether this run makes what is called so: all of it, or its --shard."""
        shard = self.runtime.shard
        return shard is None or int(digest_json(share), 16) % shard[1] == shard[0]

    def _must_be_made(self, unit: Unit) -> bool:
        if len(unit.id.encode("utf-8", "surrogatepass")) > NAME_BYTES:
            self.fail(unit, InputError(f"{unit.id[:40]}...: the name is too long to name a folder; rename the source"))
            return False
        reason = self.why(unit)
        if not reason:
            self.failures.pop(unit.id, None)
            self.report.skipped += 1
            self.log(f"skip {unit.id}: up to date")
            return False
        failed = self.failures.get(unit.id)
        if failed and failed["final"] and failed["fingerprint"] == digest_json(self.key(unit)) and not self.runtime.force:
            self.report.failed[unit.id] = failed["message"]
            self.log(f"skip {unit.id}: failed before: {failed['message']} (--force tries again)")
            return False
        self.log(f"{'wanted' if self.runtime.merge else 'make'} {unit.id}: {reason}")
        return True

    # -- making

    @contextmanager
    def draft(self, unit: Unit) -> Iterator[Draft]:
        """Build one unit. An exception is recorded and swallowed; interrupts are not.

        A full or read-only disk is no clip's fault: it ends the run.
        """
        try:
            with commit(self.units / unit.id, self.temp, unit.id, self.key(unit)) as draft:
                yield draft
        except DiskError:
            raise
        except Exception as error:
            self.fail(unit, error)
        else:
            self.succeed(unit)

    def succeed(self, unit: Unit) -> None:
        """Note that `unit` is committed (by this process or by a worker)."""
        with self._mutex:
            self.report.done += 1
            self._made.add(unit.id)
            self.failures.pop(unit.id, None)

    def fail(self, unit: Unit, error: BaseException) -> None:
        """Record a failure. Bad input stays failed until it changes; anything else is tried again next time."""
        record = failure(unit.id, unit.source, error, digest_json(self.key(unit)))
        with self._mutex:
            self.failures[unit.id] = record
            self.report.failed[unit.id] = record["message"]
            if not self.runtime.dry_run:
                append_line(self.failures_path, record)
        name, message = unit.source or unit.id, record["message"]
        self.runtime.reporter.warn(message if name in message else f"{name}: {message}")

    # -- sealing

    def seal(self, inputs: Sequence[Input] = (), facts: Facts = None) -> Report:
        """Write the manifest and return the report. With --shard, only the failures: the run without it seals.

        `facts` of the whole artifact may depend on its clips: a function of their sorted ids then.
        """
        if self.runtime.dry_run:
            return self.report
        if self.runtime.shard:
            write_failures(self.failures_path, [f for id, f in sorted(self.failures.items()) if id in self.report.failed])
            self.log(f"shard {self.runtime.shard[0]}/{self.runtime.shard[1]} done; the command with --merge instead seals {self.root}")
            return self.report
        records = self._collect()
        facts = facts(sorted(records)) if callable(facts) else facts
        failures = {id: f for id, f in self.failures.items() if id not in records}
        unmade = self.planned.keys() - records.keys() - failures.keys()
        assert not unmade, f"sealed although neither made nor failed: {sorted(unmade)[:5]}"
        write_failures(self.failures_path, [f for _, f in sorted(failures.items())])
        for path in [*self.root.glob("failures-*-of-*.jsonl"), *self.root.glob(".digests-*-of-*.json")]:
            path.unlink()
        # All that the listed clips were made from, whichever run made them, and what the failed ones would have been.
        used = {Input(**i) for record in records.values() for i in record["key"]["inputs"]}
        used |= {i for unit in self.planned.values() for i in unit.inputs}
        key = make_key(self.stage, self.code, self.config, [*used, *inputs], self.weights)
        digests = {id: record["digest"] for id, record in records.items()}
        manifest = {
            "kind": self.kind,
            "schema": SCHEMA,
            "producer": {"command": self.stage, "version": stages.__version__, "code": self.code},
            "config": self.config,
            "inputs": key["inputs"],
            "weights": [vars(w) for w in self.weights],
            "fingerprint": digest_json(key),
            "clips": {"ok": sorted(records), "failed": sorted(failures)},
            "facts": facts or {},
            "digest": digest_json({"clips": digests, "facts": facts or {}}),
        }
        write_json(self.root / "artifact.json", manifest)
        return self.report

    def _collect(self) -> dict[str, dict[str, Any]]:
        """Records of the clips that the manifest lists: those planned now, and earlier ones made the same way."""
        records = {}
        for path in sorted(self.units.glob("*/clip.json")):
            folder, id = path.parent, path.parent.name
            if id in self.report.failed:
                continue  # an older version may still lie there
            record = read_record(folder)
            if problem := self._unfit(folder, record):
                self.runtime.reporter.warn(f"{id} in {self.root} is left out: {problem}")
                continue
            assert record is not None
            if id in self._made:
                for name, made in record["files"].items():
                    self.digests.learn(folder / name, f"{id}/{name}", made["sha256"])
            elif id not in self.planned:
                self.log(f"keep {id}: made by an earlier run")
            records[id] = record
        self.digests.save()
        return records

    def _unfit(self, folder: Path, record: dict[str, Any] | None) -> str:
        """Why a clip that lies there cannot be listed, or an empty text."""
        if record is None:
            return "damaged (clip.json cannot be read)"
        if unit := self.planned.get(folder.name):
            return "" if record["fingerprint"] == digest_json(self.key(unit)) else explain(record["key"], self.key(unit))
        key = make_key(self.stage, self.code, self.unit_config, (), self.weights)
        otherwise = explain({**record["key"], "inputs": []}, key)
        return f"made otherwise, {otherwise}" if otherwise else damage(folder, record, self.digests)
