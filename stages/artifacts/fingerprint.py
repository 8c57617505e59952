"""What makes two runs the same: canonical JSON, content digests, and the reason when they differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts.files import write_json
from stages.errors import UsageError


@dataclass(frozen=True)
class Input:
    """Something that a result was computed from. `digest` is of its content, never of its place or time."""

    role: str
    kind: str
    digest: str


@dataclass(frozen=True)
class Weight:
    """A file of weights that shaped a result."""

    role: str
    sha256: str
    licence: str


def config_dict(config: Any) -> dict[str, Any]:
    """The whole configuration as JSON values, each coerced to its field's type: 25 and 25.0 are one thing."""
    hints = typing.get_type_hints(type(config))
    return {
        f.name: _coerce(getattr(config, f.name), hints[f.name], f.name)
        for f in dataclasses.fields(config)
        if not f.metadata.get("runtime")
    }


def _coerce(value: Any, hint: Any, name: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(value, next(a for a in args if a is not type(None)), name)
    if dataclasses.is_dataclass(value):
        return config_dict(value)
    if isinstance(value, (list, tuple)):
        inner = args[0] if args else Any
        return [_coerce(v, inner, name) for v in value]
    if isinstance(value, Path):
        return value.name
    if hint is float:
        return float(value)
    if hint is int:
        if int(value) != value:
            raise UsageError(f"{name} = {value}: must be a whole number")
        return int(value)
    return value


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest_json(value: Any) -> str:
    """sha256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's content, as 64 hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def make_key(
    stage: str, code: int, config: dict[str, Any], inputs: typing.Sequence[Input], weights: typing.Sequence[Weight]
) -> dict[str, Any]:
    """All that a result depends on. Its digest is the fingerprint; the parts are kept so that a redo can say why."""
    return {
        "stage": stage,
        "code": code,
        "config": config,
        "inputs": [dataclasses.asdict(i) for i in sorted(inputs, key=lambda i: (i.role, i.digest))],
        "weights": [{"role": w.role, "sha256": w.sha256} for w in sorted(weights, key=lambda w: w.role)],
    }


def explain(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Why `new` is not `old`: `config (resolution: 256 -> 512)`, `input (speech)`, `code (1 -> 2)`, `weights (dlib)`."""
    reasons = []
    if (old.get("stage"), old.get("code")) != (new["stage"], new["code"]):
        reasons.append(f"code ({old.get('code')} -> {new['code']})")
    was, now = old.get("config", {}), new["config"]
    changed = [f"{k}: {was.get(k)} -> {now.get(k)}" for k in sorted({*was, *now}) if was.get(k) != now.get(k)]
    if changed:
        reasons.append(f"config ({', '.join(changed)})")
    for part, field in (("inputs", "digest"), ("weights", "sha256")):
        before = {(i["role"], i[field]) for i in old.get(part, [])}
        after = {(i["role"], i[field]) for i in new[part]}
        if roles := sorted({role for role, _ in before ^ after}):
            reasons.append(f"{part.rstrip('s')} ({', '.join(roles)})")
    return "; ".join(reasons)


class DigestCache:
    """sha256 by path, trusted while size and mtime stay the same, so that a second run need not read everything again.

    A damaged file whose size and mtime both look unchanged is not noticed; deleting the cache forces a full check.
    """

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[str, list[Any]] = {}
        try:
            self.known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass  # a cache: absent or torn means that everything is read once more

    def digest(self, path: Path, name: str | None = None) -> str:
        """sha256 of `path`; `name` is its key in the cache (default: the absolute path)."""
        name = name or str(path.resolve())
        stat = path.stat()
        entry = self.known.get(name)
        if not entry or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            entry = [stat.st_size, stat.st_mtime_ns, file_digest(path)]
            self.known[name] = entry
        return entry[2]

    def save(self) -> None:
        write_json(self.path, self.known)
