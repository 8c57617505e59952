from __future__ import annotations

import enum
import json
import os
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from stages.artifacts import DigestCache, Input, Weight, config_dict, digest_json, explain, file_digest
from stages.artifacts.fingerprint import canonical_json, make_key
from stages.errors import UsageError


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Inner:
    gap: float = 1
    points: tuple[int, float] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Config:
    fps: float = 25
    steps: int = 10
    kind: Literal["a", "b"] = "a"
    side: Literal[256, 512] = 256
    model: Path | None = None
    limit: float | None = None
    device: int | str = "auto"
    sizes: tuple[float, ...] = (1, 2)
    names: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    rate: Fraction = Fraction(25)
    colour: Colour = Colour.RED
    fast: bool = False
    inner: Inner = Inner()
    threads: int = field(default=1, metadata={"runtime": True})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"fps": 25}, {"fps": 25.0}),
        ({"steps": 10}, {"steps": 10.0}),
        ({"steps": 10}, {"steps": np.int64(10)}),
        ({"fps": 0.5}, {"fps": np.float32(0.5)}),
        ({"limit": 3}, {"limit": 3.0}),
        ({"side": 256}, {"side": 256.0}),
        ({"sizes": (1, 2)}, {"sizes": [1.0, 2.0]}),
        ({"shares": {"a": 1, "b": 2}}, {"shares": {"b": 2.0, "a": 1.0}}),
        ({"tags": frozenset("xyz")}, {"tags": frozenset("zyx")}),
        ({"fps": 0.0}, {"fps": -0.0}),
        ({"fast": True}, {"fast": np.bool_(True)}),
        ({"model": Path("/here/m.onnx")}, {"model": Path("/there/m.onnx")}),
        ({"model": Path("/here/m.onnx")}, {"model": "/there/m.onnx"}),
        ({"inner": Inner(gap=2)}, {"inner": Inner(gap=2.0)}),
        ({"threads": 1}, {"threads": 8}),
    ],
)
def test_values_of_one_meaning_have_one_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digest_json(config_dict(Config(**one))) == digest_json(config_dict(Config(**other)))


@pytest.mark.parametrize(
    "change",
    [{"fps": 25.5}, {"kind": "b"}, {"model": Path("m")}, {"limit": 0.0}, {"device": 0}, {"fast": True}, {"sizes": (2, 1)},
     {"inner": Inner(gap=1.5)}, {"rate": Fraction(30000, 1001)}, {"names": ["a"]}],
)  # fmt: skip
def test_each_field_counts(change: dict[str, Any]) -> None:
    assert digest_json(config_dict(Config(**change))) != digest_json(config_dict(Config()))


def test_every_kind_of_field_becomes_plain_json() -> None:
    found = config_dict(Config(model=Path("/home/me/m.onnx"), device="cpu", tags=frozenset("ba")))
    assert json.loads(json.dumps(found)) == found
    assert found["inner"] == {"gap": 1.0, "points": [1, 2.0]} and isinstance(found["inner"]["points"][1], float)
    assert (found["model"], found["device"], found["tags"], found["rate"]) == ("m.onnx", "cpu", ["a", "b"], "25")
    assert "threads" not in found


@pytest.mark.parametrize("bad", [{"steps": 2.5}, {"fps": float("nan")}, {"fps": float("inf")}, {"steps": float("inf")}])
def test_a_number_that_cannot_be_hashed_is_a_usage_error(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        config_dict(Config(**bad))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1, 2.5, None, True]}, '{"a":[1,2.5,null,true],"b":1}'),
        ({"é": "ü ☃"}, '{"é":"ü ☃"}'),
        (1e22, "1e+22"),
        (0.1, "0.1"),
        ("line\nbreak\u2028", '"line\\nbreak\u2028"'),
        ({}, "{}"),
    ],
)
def test_canonical_json_is_one_text(value: Any, text: str) -> None:
    assert canonical_json(value) == text
    assert canonical_json(json.loads(canonical_json(value))) == text


def test_canonical_json_does_not_depend_on_insertion_order() -> None:
    keys = ["z", "a", "é", "A", "10", "9"]
    texts = {canonical_json({k: {j: 1 for j in order} for k in order}) for order in (keys, keys[::-1], sorted(keys))}
    assert len(texts) == 1


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": float("nan")})


def test_a_file_name_that_is_not_unicode_has_a_digest() -> None:
    assert digest_json(os.fsdecode(b"clip-\xff")) != digest_json(os.fsdecode(b"clip-\xfe"))


def key(code: int = 1, stage: str = "small", config: dict[str, Any] | None = None, text: str = "t", weight: str = "w") -> dict[str, Any]:
    return make_key(stage, code, config or {"size": 1}, [Input("text", "file", text)], [Weight("net", weight, "MIT")])


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (key(), ""),
        (key(code=2), "code (1 -> 2)"),
        (key(stage="other"), "made by small, not other"),
        (key(config={"size": 2}), "config (size: 1 -> 2)"),
        (key(config={"size": 1, "faces": {"gap": 2}}), "config (faces.gap: None -> 2)"),
        (key(text="u"), "input (text)"),
        (key(weight="v"), "weights (net)"),
        (key(code=2, text="u"), "code (1 -> 2); input (text)"),
    ],
)
def test_explain_names_what_changed(new: dict[str, Any], reason: str) -> None:
    assert explain(key(), new) == reason


def test_the_order_of_inputs_and_weights_does_not_count() -> None:
    inputs = [Input("b", "file", "1"), Input("a", "file", "2"), Input("a", "file", "1")]
    weights = [Weight("x", "1", "MIT"), Weight("x", "0", "MIT")]
    assert make_key("s", 1, {}, inputs, weights) == make_key("s", 1, {}, inputs[::-1], weights[::-1])


# -- the digest cache


def old(path: Path) -> Path:
    """Make `path` look long written (its ctime cannot be set: the cache's patience is cut instead)."""
    past = time.time_ns() - 10_000_000_000
    os.utime(path, ns=(past, past))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DigestCache:
    monkeypatch.setattr(DigestCache, "FRESH_NS", 0)
    return DigestCache(tmp_path / "cache.json")


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def counted(path: Path) -> str:
        seen.append(path)
        return file_digest(path)

    monkeypatch.setattr("stages.artifacts.fingerprint.file_digest", counted)
    return seen


def test_a_known_file_is_read_once(cache: DigestCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old(tmp_path / "a") if (tmp_path / "a").write_bytes(b"one") else tmp_path
    seen = reads(monkeypatch)
    first = cache.digest(path)
    cache.save()
    assert DigestCache(cache.path).digest(path) == cache.digest(path) == first == file_digest(path)
    assert seen == [path]


def test_a_change_that_keeps_size_and_mtime_is_noticed(cache: DigestCache, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    stat = path.stat()
    cache.digest(path)
    time.sleep(0.02)  # another tick of the file system's clock
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert cache.digest(path) == file_digest(path)


def test_a_replacement_with_the_same_times_is_noticed_within_one_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "a", DigestCache(tmp_path / "cache.json")
    monkeypatch.setattr(DigestCache, "_stamp", staticmethod(lambda path: [3, time.time_ns(), time.time_ns()]))
    path.write_bytes(b"one")
    frozen = [3, time.time_ns(), time.time_ns()]
    monkeypatch.setattr(DigestCache, "_stamp", staticmethod(lambda path: frozen))
    cache.digest(path)
    path.write_bytes(b"two")  # same size, and a clock so coarse that both times are the same
    assert cache.digest(path) == file_digest(path)


def test_a_file_from_the_future_is_read_each_time(cache: DigestCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    ahead = time.time_ns() + 3_600_000_000_000
    os.utime(path, ns=(ahead, ahead))
    seen = reads(monkeypatch)
    assert cache.digest(path) == cache.digest(path)
    assert len(seen) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', '{"x": [1, 2, 3]}', "null", "\xff"])
def test_a_torn_cache_costs_only_time(tmp_path: Path, text: str) -> None:
    (tmp_path / "cache.json").write_text(text, encoding="latin-1")
    (tmp_path / "x").write_text("content")
    assert DigestCache(tmp_path / "cache.json").digest(tmp_path / "x", "x") == file_digest(tmp_path / "x")
