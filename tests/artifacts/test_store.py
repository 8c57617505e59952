from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts import DigestCache, Input, Store, Unit, Weight, digest_json, read_artifact
from stages.errors import ArtifactError
from stages.runtime import Runtime
from tests.artifacts.small import Config, Lines, leftovers, run, tree, units, write

TEXTS = {"a-1": "alpha", "b-2": "beta", "c-3": "gamma"}


def test_a_run_commits_every_unit_and_seals(tmp_path: Path) -> None:
    outcome = run(tmp_path / "out", TEXTS, facts={"n": 3})
    assert (outcome.report.done, outcome.report.skipped, outcome.report.exit_code) == (3, 0, 0)
    assert outcome.lines.logged[:3] == ["make a-1: missing", "make b-2: missing", "make c-3: missing"]
    artifact = read_artifact(tmp_path / "out", "clips")
    assert list(artifact.clips) == sorted(TEXTS) and artifact.manifest["facts"] == {"n": 3}
    clip = artifact.clips["b-2"]
    assert clip.facts == {"letters": 4} and (clip.path / "sub" / "b.txt").read_text() == "betabeta"
    assert not leftovers(tmp_path) and not (tmp_path / "out" / "failures.jsonl").exists()


def test_a_second_run_does_nothing_and_rewrites_nothing(tmp_path: Path) -> None:
    run(tmp_path, TEXTS, facts={"n": 3})
    before = {
        p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.rglob("*") if p.name not in ("run.jsonl", ".lock", ".digests.json")
    }
    before.pop(tmp_path, None)
    time.sleep(0.02)
    outcome = run(tmp_path, TEXTS, facts={"n": 3})
    assert (outcome.report.done, outcome.report.skipped, outcome.made) == (0, 3, [])
    assert outcome.lines.logged == [f"skip {id}: up to date" for id in TEXTS]
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in before} == before


def test_the_same_work_elsewhere_is_byte_identical(tmp_path: Path) -> None:
    run(tmp_path / "one", TEXTS)
    run(tmp_path / "another" / "place", dict(reversed(TEXTS.items())))
    assert tree(tmp_path / "one") == tree(tmp_path / "another" / "place")


def test_no_file_tells_time_host_or_place_but_the_log(tmp_path: Path) -> None:
    root = tmp_path / "a-telling-folder"
    run(root, TEXTS, weights=[Weight("net", "ab", "MIT")])
    text = "".join(p.read_text() for p in root.rglob("*.json") if p.name != ".digests.json")
    for telling in ("a-telling-folder", str(tmp_path), socket.gethostname(), time.strftime("%Y-"), str(os.getpid()) + '"'):
        assert telling not in text
    lines = [json.loads(line) for line in (root / "run.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "end"] and lines[1]["host"] == socket.gethostname()


def test_int_and_float_of_a_float_field_are_one_configuration(tmp_path: Path) -> None:
    run(tmp_path, TEXTS, config=Config(gap=2))
    first = tree(tmp_path)
    assert run(tmp_path, TEXTS, config=Config(gap=2.0)).made == []
    assert tree(tmp_path) == first


# -- reasons


@dataclass
class Change:
    how: Callable[[Path], Any]
    reason: str


def rewrite(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.write_bytes(edit(path.read_bytes()))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


DAMAGE = {
    "clip gone": Change(lambda c: shutil.rmtree(c), "missing"),
    "file gone": Change(lambda c: (c / "sub" / "b.txt").unlink(), "damaged (sub/b.txt is gone)"),
    "truncated": Change(lambda c: rewrite(c / "a.txt", lambda b: b[:-1]), "damaged (a.txt has 3 bytes of 4)"),
    "flipped": Change(lambda c: rewrite(c / "a.txt", lambda b: b"B" + b[1:]), "damaged (a.txt differs from its sha256)"),
    "torn": Change(lambda c: rewrite(c / "clip.json", lambda b: b[: len(b) // 2]), "damaged (clip.json cannot be read)"),
    "empty": Change(lambda c: (c / "clip.json").write_text(""), "damaged (clip.json cannot be read)"),
    "a list": Change(lambda c: (c / "clip.json").write_text("[]"), "damaged (clip.json cannot be read)"),
    "other": Change(lambda c: (c / "clip.json").write_text('{"key": 1}'), "damaged (clip.json cannot be read)"),
    "edited": Change(lambda c: edit_json(c / "clip.json", lambda r: r["facts"].update(letters=9)), "damaged (clip.json cannot be read)"),
    "no record": Change(lambda c: (c / "clip.json").unlink(), "damaged (clip.json is gone)"),
    "a copy": Change(lambda c: (shutil.rmtree(c), shutil.copytree(c.with_name("a-1"), c)), "damaged (clip.json cannot be read)"),
    "a file": Change(lambda c: (shutil.rmtree(c), c.write_text("in the way")), "damaged (clip.json is gone)"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_clip_is_told_and_only_that_is_redone(tmp_path: Path, name: str) -> None:
    run(tmp_path, TEXTS)
    first = tree(tmp_path)
    DAMAGE[name].how(tmp_path / "clips" / "b-2")
    outcome = run(tmp_path, TEXTS)
    assert outcome.made == ["b-2"] and f"make b-2: {DAMAGE[name].reason}" in outcome.lines.logged
    assert tree(tmp_path) == first


def test_a_byte_flipped_in_place_with_its_times_restored_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DigestCache, "FRESH_NS", 0)
    run(tmp_path, TEXTS)
    run(tmp_path, TEXTS)  # all digests are known now
    path = tmp_path / "clips" / "b-2" / "a.txt"
    stat = path.stat()
    time.sleep(0.02)
    with path.open("r+b") as f:
        f.write(b"B")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(tmp_path, TEXTS).made == ["b-2"]


REASONS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "config": ({"config": Config(size=30)}, ["a-1", "b-2", "c-3"], "config (size: 25 -> 30)"),
    "configs": ({"config": Config(size=30, gap=1)}, ["a-1", "b-2", "c-3"], "config (gap: 0.4 -> 1.0, size: 25 -> 30)"),
    "code": ({"code": 2}, ["a-1", "b-2", "c-3"], "code (1 -> 2)"),
    "weights": ({"weights": [Weight("net", "cd", "MIT")]}, ["a-1", "b-2", "c-3"], "weights (net)"),
    "forced": ({"force": True}, ["a-1", "b-2", "c-3"], "forced"),
    "licence": ({"weights": [Weight("net", "ab", "another licence")]}, [], ""),
    "workers": ({"workers": 7, "device": "cpu", "offline": True}, [], ""),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_a_result_depends_on_redoes_it_with_its_reason(tmp_path: Path, name: str) -> None:
    usual: dict[str, Any] = {"config": Config(), "weights": [Weight("net", "ab", "MIT")]}
    run(tmp_path, TEXTS, **usual)
    change, made, reason = REASONS[name]
    outcome = run(tmp_path, TEXTS, **usual | change)
    assert outcome.made == made
    assert [line for line in outcome.lines.logged if line.startswith("make")] == [f"make {id}: {reason}" for id in made]


def test_another_input_redoes_its_clip_only(tmp_path: Path) -> None:
    run(tmp_path, TEXTS)
    outcome = run(tmp_path, TEXTS | {"c-3": "delta"})
    assert outcome.made == ["c-3"] and "make c-3: input (text)" in outcome.lines.logged


def test_a_field_of_the_whole_only_redoes_no_clip_but_changes_the_fingerprint(tmp_path: Path) -> None:
    def once(seed: int) -> tuple[int, str]:
        with Store(
            tmp_path, kind="clips", stage="small", code=1, config=Config(seed=seed), runtime=Runtime(), unit_config=("size", "gap")
        ) as store:
            for unit in store.plan(units(TEXTS)):
                with store.draft(unit) as draft:
                    write(draft.path, unit.payload)
            return store.seal().done, read_artifact(tmp_path, "clips").manifest["fingerprint"]

    first, second = once(0), once(1)
    assert (first[0], second[0]) == (3, 0) and first[1] != second[1]


# -- the manifest


def test_the_manifest_goes_while_work_is_under_way(tmp_path: Path) -> None:
    run(tmp_path, TEXTS)
    seen: list[bool] = []
    run(tmp_path, TEXTS | {"d-4": "delta"}, during=lambda *_: seen.append((tmp_path / "artifact.json").exists()))
    assert seen == [False] and (tmp_path / "artifact.json").exists()


def test_an_interrupted_run_is_incomplete_until_the_next_one_ends(tmp_path: Path) -> None:
    run(tmp_path, TEXTS)

    def stop(id: str, folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, TEXTS | {"d-4": "delta"}, during=stop)
    with pytest.raises(ArtifactError, match="has not ended"):
        read_artifact(tmp_path, "clips")
    assert not leftovers(tmp_path)
    assert json.loads((tmp_path / "run.jsonl").read_text().splitlines()[-1])["event"] == "stopped by KeyboardInterrupt"
    outcome = run(tmp_path, TEXTS | {"d-4": "delta"})
    assert outcome.made == ["d-4"] and len(read_artifact(tmp_path, "clips").clips) == 4


def test_clips_of_an_earlier_run_stay_and_their_inputs_are_listed(tmp_path: Path) -> None:
    run(tmp_path / "steps", {"a-1": "alpha"})
    outcome = run(tmp_path / "steps", {"b-2": "beta", "c-3": "gamma"})
    assert "keep a-1: made by an earlier run" in outcome.lines.logged
    run(tmp_path / "once", TEXTS)
    assert tree(tmp_path / "steps") == tree(tmp_path / "once")


@pytest.mark.parametrize("name", [n for n in DAMAGE if n not in ("clip gone", "no record", "a file")])
def test_an_earlier_clip_that_is_damaged_is_left_out_with_a_warning(tmp_path: Path, name: str) -> None:
    run(tmp_path, TEXTS)
    DAMAGE[name].how(tmp_path / "clips" / "b-2")
    outcome = run(tmp_path, {"a-1": "alpha"})
    assert list(read_artifact(tmp_path, "clips").clips) == ["a-1", "c-3"]
    assert len(outcome.lines.warned) == 1 and outcome.lines.warned[0].startswith("b-2 in ")


def test_an_earlier_clip_made_otherwise_is_left_out_with_its_reason(tmp_path: Path) -> None:
    run(tmp_path, TEXTS, config=Config())
    outcome = run(tmp_path, {"a-1": "alpha"}, config=Config(size=30))
    assert list(read_artifact(tmp_path, "clips").clips) == ["a-1"]
    assert [w.split(": ", 1)[1] for w in outcome.lines.warned] == ["made otherwise, config (size: 25 -> 30)"] * 2


def test_sealing_work_that_was_not_done_is_our_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a-1"), Store(
        tmp_path, kind="clips", stage="small", code=1, config=Config(), runtime=Runtime()
    ) as store:  # fmt: skip
        store.plan(units(TEXTS))
        store.seal()
    assert not (tmp_path / "artifact.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_torn_manifest_is_sealed_anew(tmp_path: Path, text: str) -> None:
    run(tmp_path, TEXTS)
    good = tree(tmp_path)
    (tmp_path / "artifact.json").write_text(text)
    assert run(tmp_path, TEXTS).made == []
    assert tree(tmp_path) == good


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, force: bool) -> None:
    run(tmp_path, TEXTS)
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match="already holds a clips artifact, not features; choose another --out"):
        run(tmp_path, TEXTS, kind="features", force=force)
    assert tree(tmp_path) == before
    run(tmp_path, TEXTS)  # and the refusal let go of the lock


def test_no_units_make_an_empty_artifact(tmp_path: Path) -> None:
    assert run(tmp_path, {}).report.exit_code == 0
    assert read_artifact(tmp_path, "clips").clips == {}


# -- ids


ODD = ["two words", 'it\'s "quoted"', "ünïcödé-☃", "日本語", "[a]*?", "%d", "-rf", ".hidden", "a\\b", "new\nline", "x" * 255, "é" * 127]


def test_any_id_that_a_folder_can_be_called_works(tmp_path: Path) -> None:
    texts = dict.fromkeys([*ODD, os.fsdecode(b"caf\xe9")], "text")
    assert run(tmp_path, texts).report.done == len(texts)
    assert set(read_artifact(tmp_path, "clips").clips) == set(texts)
    assert run(tmp_path, texts).made == []
    assert sorted(run(tmp_path, texts, force=True).made) == sorted(texts)


def test_a_name_that_is_too_long_fails_alone(tmp_path: Path) -> None:
    outcome = run(tmp_path, TEXTS | {"é" * 128: "text"})
    assert (outcome.report.done, outcome.report.exit_code) == (3, 4)
    assert "too long" in next(iter(outcome.report.failed.values()))


@pytest.mark.parametrize("id", ["", ".", "..", "a/b", "/etc", "a\0"])
def test_an_id_that_leaves_its_folder_is_our_bug(id: str) -> None:
    with pytest.raises(AssertionError):
        Unit(id, ())


def test_the_same_unit_twice_is_made_once(tmp_path: Path) -> None:
    outcome = run(tmp_path, [*units(TEXTS), *units({"a-1": "alpha"})])
    assert outcome.made == sorted(TEXTS) and "skip a-1: the same content as another source" in outcome.lines.logged
    assert outcome.lines.warned == []


def test_one_id_for_two_contents_is_told(tmp_path: Path) -> None:
    outcome = run(tmp_path, [*units(TEXTS), Unit("a-1", (Input("text", "file", "other"),), "other")])
    assert outcome.made == sorted(TEXTS)
    assert outcome.lines.warned == ["a-1 is wanted twice, from different inputs (input (text)): made once, from a-1.txt"]


# -- dry run, threads, places


def test_dry_run_tells_the_plan_and_changes_nothing(tmp_path: Path) -> None:
    lines = Lines()
    with Store(
        tmp_path / "none", kind="clips", stage="small", code=1, config=Config(), runtime=Runtime(dry_run=True, reporter=lines)
    ) as store:
        assert [u.id for u in store.plan(units(TEXTS))] == sorted(TEXTS)
        assert store.seal().done == 0
    assert lines.logged == [f"make {id}: missing" for id in TEXTS]
    assert list(tmp_path.iterdir()) == []


def test_dry_run_over_a_finished_artifact_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path, TEXTS)
    (tmp_path / "clips" / "b-2" / "a.txt").unlink()
    before = {p: p.stat().st_mtime_ns for p in [tmp_path, *tmp_path.rglob("*")]}
    for runtime in (Runtime(dry_run=True), Runtime(dry_run=True, force=True), Runtime(dry_run=True, shard=(0, 2))):
        with Store(tmp_path, kind="clips", stage="small", code=1, config=Config(), runtime=runtime, unit_config=("size", "gap")) as store:
            store.plan([*units(TEXTS), Unit("x" * 300, ())])
            store.seal()
    assert {p: p.stat().st_mtime_ns for p in [tmp_path, *tmp_path.rglob("*")]} == before


def test_units_may_be_built_in_threads(tmp_path: Path) -> None:
    texts = {f"u-{i:02}": f"text {i}" for i in range(20)}
    with Store(
        tmp_path / "out", kind="clips", stage="small", code=1, config=Config(), runtime=Runtime(), unit_config=("size", "gap")
    ) as store:
        todo = store.plan(units(texts))

        def work(part: list[Unit]) -> None:
            for unit in part:
                with store.draft(unit) as draft:
                    (draft.path / "early.txt").write_text("half")
                    write(draft.path, unit.payload)
                    draft.facts["letters"] = len(unit.payload)

        threads = [threading.Thread(target=work, args=(todo[i::4],)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert store.seal().done == 20
    run(tmp_path / "one", texts)
    assert tree(tmp_path / "out") == tree(tmp_path / "one")


def test_clips_may_lie_on_another_disk(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev or not os.access(other, os.W_OK):
        pytest.skip("no second file system to write to")
    elsewhere = other / f"difftalk-test-{os.getpid()}"
    elsewhere.mkdir()
    try:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "clips").symlink_to(elsewhere)
        assert run(tmp_path / "out", TEXTS).report.done == 3
        assert run(tmp_path / "out", TEXTS, force=True).report.done == 3
        assert sorted(p.name for p in elsewhere.iterdir()) == sorted(TEXTS)
    finally:
        shutil.rmtree(elsewhere)


def test_digests_are_kept_even_if_the_run_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DigestCache, "FRESH_NS", 0)
    source = tmp_path / "source"
    source.write_text("much to read")

    with pytest.raises(KeyboardInterrupt), Store(
        tmp_path / "out", kind="clips", stage="small", code=1, config=Config(), runtime=Runtime()
    ) as store:  # fmt: skip
        digest = store.digests.digest(source)
        store.plan(units(TEXTS))
        raise KeyboardInterrupt
    monkeypatch.setattr("stages.artifacts.fingerprint.file_digest", lambda path: pytest.fail("read again"))
    assert DigestCache(tmp_path / "out" / ".digests.json").digest(source) == digest != digest_json("")
