"""Writing a model artifact: one key for the whole training, resumed or refused, sealed with artifact.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import stages
from stages.artifacts.files import make_folder, read_json, remove_tree, write_json
from stages.artifacts.fingerprint import Input, config_dict, digest_json, explain, file_digest, make_key
from stages.artifacts.lock import lock
from stages.artifacts.read import SCHEMA
from stages.errors import ArtifactError
from stages.runtime import Report, Runtime, process_rank

LENGTH_FIELDS = ("steps", "save_every", "validate_every", "final")
"""How long to train, how often to look, and what to keep: a longer run goes on from a shorter one."""


class ModelStore:
    """The writer of a model artifact: model.safetensors, config.json, state/, log.jsonl, tb/, samples/.

    Enter raises ArtifactError when the folder holds a training with another configuration or other inputs and
    --force is not given: hours of training are never thrown away by a changed option. One that has not saved a state
    yet has nothing to lose. Of several processes of one
    training only the first locks, checks and writes; `open_for_training` and `seal` do nothing in the others.
    """

    def __init__(self, root: Path, *, kind: str, stage: str, code: int, config: Any, inputs: Sequence[Input], runtime: Runtime):
        self.root, self.kind, self.stage, self.code, self.runtime = root, kind, stage, code, runtime
        self.writes = process_rank() == 0 and not runtime.dry_run
        self.config, self.inputs = config_dict(config), tuple(inputs)
        self.key = make_key(stage, code, self.config, inputs, ())
        self.resume_key = self._without_length(self.key)
        self._stack = ExitStack()

    @staticmethod
    def _without_length(key: dict[str, Any]) -> dict[str, Any]:
        return {**key, "config": {k: v for k, v in key["config"].items() if k not in LENGTH_FIELDS}}

    def __enter__(self) -> Self:
        if not self.writes:
            return self
        self._stack.enter_context(lock(self.root))
        try:
            self._check()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def why(self) -> str:
        """Why training must run, or an empty text when the finished model is there and sound."""
        if not (self.root / "artifact.json").exists():
            return "going on" if (self.root / "state").exists() else "missing"
        manifest = read_json(self.root / "artifact.json")
        if manifest is None or not {"producer", "files", "facts"} <= manifest.keys():
            return "damaged (artifact.json cannot be read)"
        if self.runtime.force:
            return "forced"
        key = {k: manifest.get(k) for k in ("config", "inputs", "weights")}
        key |= {"stage": manifest["producer"]["command"], "code": manifest["producer"]["code"]}
        if not _alike(key, self.key):
            return explain(key, self.key)
        for name, expected in manifest["files"].items():
            path = self.root / name
            if not path.is_file() or file_digest(path) != expected["sha256"]:
                return f"damaged ({name})"
        return "" if manifest["facts"].get("finished", True) else "stopped before its last step"

    def _check(self) -> None:
        path = self.root / "training.json"
        manifest = read_json(self.root / "artifact.json")
        if manifest is not None and manifest.get("kind") != self.kind:  # even --force throws away nothing but a training
            raise ArtifactError(f"{self.root} already holds a {manifest.get('kind')} artifact, not {self.kind}; choose another --out")
        before = read_json(path)
        begun = (before or {}).get("stage") == self.stage
        if self.runtime.force or (begun and not any((self.root / name).exists() for name in ("state", "artifact.json"))):
            for name in ("state", "samples", "tb"):
                remove_tree(self.root / name)
            for name in ("artifact.json", "log.jsonl", "training.json"):
                (self.root / name).unlink(missing_ok=True)
            before = None
        if before is None and (self.root / "artifact.json").exists():
            raise ArtifactError(f"{self.root} holds a {self.kind} of unknown settings (no training.json); choose another --out")
        if before is not None and not _alike(before, self.resume_key):
            raise ArtifactError(
                f"{self.root} holds a training with other settings: {explain(before, self.resume_key)}; "
                "choose another --out, or --force to throw it away and start anew"
            )
        write_json(path, self.resume_key)

    def open_for_training(self) -> str:
        """Take the manifest away while training runs; returns the key that training states carry."""
        if self.writes:
            make_folder(self.root)
            (self.root / "artifact.json").unlink(missing_ok=True)
        return digest_json(self.resume_key)

    def seal(self, files: Sequence[str], facts: dict[str, Any]) -> Report:
        """Write the manifest over `files` (names in the root)."""
        if not self.writes:
            return Report(out=self.root, done=1, facts=facts)
        listed = {n: {"bytes": (self.root / n).stat().st_size, "sha256": file_digest(self.root / n)} for n in sorted(files)}
        facts = json.loads(json.dumps(facts))
        manifest = {
            "kind": self.kind,
            "schema": SCHEMA,
            "producer": {"command": self.stage, "version": stages.__version__, "code": self.code},
            "config": self.config,
            "inputs": [asdict(i) for i in sorted(self.inputs, key=lambda i: (i.role, i.digest))],
            "weights": [],
            "fingerprint": digest_json(self.key),
            "clips": {"ok": [], "failed": []},
            "files": listed,
            "facts": facts,
            "digest": digest_json(listed),
        }
        write_json(self.root / "artifact.json", manifest)
        return Report(out=self.root, done=1, facts=facts)


def _alike(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two keys mean the same training. A setting that is off (0, None) is as one that an earlier version did not have."""
    return _without_off(old) == _without_off(new)


def _without_off(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "config": {k: v for k, v in (key.get("config") or {}).items() if v}}
