"""What makes two runs the same: canonical JSON, content digests, and the reason when they differ."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import time
import types
import typing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.files import encode, read_json, write_json
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
    """`value` as JSON, in the type that its field declares. Raises UsageError for a number that cannot be one."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if origin in (typing.Union, types.UnionType):
        return _coerce(value, _member(value, [a for a in args if a is not type(None)]), name)
    if origin is typing.Literal:
        return next((a for a in args if a == value and isinstance(a, bool) == isinstance(value, bool)), value)
    if dataclasses.is_dataclass(value):
        return config_dict(value)
    if isinstance(value, dict):
        inner = args[1] if len(args) == 2 else Any
        return {str(k): _coerce(v, inner, f"{name}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        hints = args if len(args) == len(value) and Ellipsis not in args and origin is tuple else (args or (Any,))[:1] * len(value)
        return [_coerce(v, h, name) for v, h in zip(value, hints, strict=True)]
    if isinstance(value, (set, frozenset)):
        return sorted(_coerce(v, args[0] if args else Any, name) for v in value)
    if isinstance(value, Path) or hint is Path:
        return Path(value).name
    return _scalar(value, hint, name)


def _member(value: Any, hints: list[Any]) -> Any:
    """The member of a union that `value` belongs to: int | str keeps "auto", float | None takes 25."""
    for hint in hints:
        kind = typing.get_origin(hint) or hint
        if kind is typing.Literal and value in typing.get_args(hint):
            return hint
        if isinstance(kind, type) and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return hint
    if isinstance(value, (int, float)) and float in hints:
        return float
    return hints[0] if len(hints) == 1 else Any


def _scalar(value: Any, hint: Any, name: str) -> Any:
    if isinstance(value, enum.Enum):
        return _scalar(value.value, Any, name)
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} = {value}: must be a finite number")
    if hint is bool:
        return bool(value)
    if hint is float:
        return float(value) + 0.0  # -0.0 is 0.0
    if hint is int:
        if int(value) != value:
            raise UsageError(f"{name} = {value}: must be a whole number")
        return int(value)
    assert isinstance(value, (bool, int, float, str)), f"{name}: {type(value)} has no canonical form"
    return value


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest_json(value: Any) -> str:
    """sha256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(encode(canonical_json(value))).hexdigest()


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
        "inputs": [dataclasses.asdict(i) for i in sorted(inputs, key=lambda i: (i.role, i.digest, i.kind))],
        "weights": [{"role": w.role, "sha256": w.sha256} for w in sorted(weights, key=lambda w: (w.role, w.sha256))],
    }


def explain(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Why `new` is not `old`: `config (resolution: 256 -> 512)`, `input (speech)`, `code (1 -> 2)`, `weights (dlib)`."""
    reasons = []
    if old.get("stage") != new["stage"]:
        reasons.append(f"made by {old.get('stage')}, not {new['stage']}")
    elif old.get("code") != new["code"]:
        reasons.append(f"code ({old.get('code')} -> {new['code']})")
    was, now = _flat(old.get("config", {})), _flat(new["config"])
    changed = [f"{k}: {was.get(k)} -> {now.get(k)}" for k in sorted({*was, *now}) if was.get(k) != now.get(k)]
    if changed:
        reasons.append(f"config ({', '.join(changed)})")
    for part, field in (("inputs", "digest"), ("weights", "sha256")):
        before = {(i["role"], i[field]) for i in old.get(part, [])}
        after = {(i["role"], i[field]) for i in new[part]}
        if roles := sorted({role for role, _ in before ^ after}):
            reasons.append(f"{'input' if part == 'inputs' else part} ({', '.join(roles)})")
    return "; ".join(reasons)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configurations by dotted name: {"faces": {"gap": 1}} -> {"faces.gap": 1}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


class DigestCache:
    """sha256 by path, trusted while size, mtime and ctime stay the same, so that a second run need not read all again.

    A file changed less than two seconds ago is not remembered: it could change again without its times telling (a file
    system's clock is coarse). Bits that rot without a write are not noticed; deleting the cache forces a full check.
    """

    FRESH_NS = 2_000_000_000

    def __init__(self, path: Path, also: typing.Iterable[Path] = ()):
        """What `path` and the files `also` know; `path` is written."""
        self.path = path
        self.known: dict[str, list[Any]] = {}
        for known in (*also, path):
            self.known |= read_json(known) or {}
        self._changed = False

    def digest(self, path: Path, name: str | None = None) -> str:
        """sha256 of `path`; `name` is its key in the cache (default: the absolute path)."""
        stamp = self._stamp(path)
        entry = self.known.get(name or str(path.resolve()))
        if isinstance(entry, list) and len(entry) == 4 and entry[:3] == stamp:
            return entry[3]
        sha256 = file_digest(path)
        self._remember(path, name, stamp, sha256)
        return sha256

    def learn(self, path: Path, name: str | None, sha256: str) -> None:
        """Take a digest that was computed just now by whoever wrote the file."""
        self._remember(path, name, self._stamp(path), sha256)

    def _remember(self, path: Path, name: str | None, stamp: list[int], sha256: str) -> None:
        if time.time_ns() - max(stamp[1:]) > self.FRESH_NS:
            self.known[name or str(path.resolve())] = [*stamp, sha256]
            self._changed = True

    @staticmethod
    def _stamp(path: Path) -> list[int]:
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]

    def save(self) -> None:
        if self._changed:
            write_json(self.path, self.known)
            self._changed = False
