"""A real Ray cluster on this machine, a head and two nodes of one core: clips shared out; workers, a node and a driver killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import evaluate, extract_audio, infer, preprocess
from stages.artifacts import Store, cluster, run_units
from stages.errors import ArtifactError, BusyError, DiskError, UsageError
from stages.media.audio import read_audio, write_wav
from stages.runtime import Needs, Report, Runtime
from tests.artifacts.small import Config, leftovers, tree, units
from tests.artifacts.tasks import task
from tests.artifacts.test_parallel import Counted, alive
from tests.small import make_model

ROOT = Path(__file__).parents[1]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """The cluster: a head that does no work, and two nodes of one core. This process is connected to it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'difftalk[ray]'")
    from ray.cluster_utils import Cluster

    whole = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    try:
        whole.workers = [whole.add_node(**NODE) for _ in range(2)]
        ray.init(address=whole.address, log_to_driver=False, logging_level="ERROR")
        yield whole
    finally:
        ray.shutdown()
        whole.shutdown()


def work(root: Path, texts: dict[str, str], address: str | None, **runtime: Any) -> tuple[Report, Counted]:
    lines = Counted()
    lines.note = lines.logged.append  # type: ignore[method-assign]
    with Store(
        root, kind="clips", stage="small", code=1, config=Config(), runtime=Runtime(ray=address, reporter=lines, **runtime)
    ) as store:
        run_units(store, store.plan(units(texts)), task, title="work", unit="clips", size=lambda u: 2.0)
        return store.seal(), lines


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def begun(folder: Path) -> list[str]:
    """The payload of every "wait" that was begun, as often as it was; written whole, or not listed."""
    return sorted(text for p in folder.iterdir() if p.name != "go" and (text := p.read_text()))


def workers(folder: Path) -> list[int]:
    """The processes that began them."""
    return [int(p.name.split("-")[0]) for p in folder.iterdir() if p.name != "go"]


def test_a_cluster_makes_the_same_artifact_as_one_process(nodes: Any, tmp_path: Path) -> None:
    texts = {"a": "alpha", "b": "bad", "c": "gamma", "d": "odd"} | {f"u{i}": "text" * i for i in range(1, 5)}
    alone, bar = work(tmp_path / "alone", texts, None)
    shared, bars = work(tmp_path / "shared", texts, nodes.address)
    assert alone.failed == {"b": "no face", "d": "two figures"} and shared.failed == {"b": "no face", "d": "Untravelled: two figures"}
    assert (shared.done, shared.exit_code, bars.amount) == (alone.done, 4, 16.0)
    first, second = tree(tmp_path / "alone"), tree(tmp_path / "shared")
    assert all(first[n] == second[n] for n in first if n != "failures.jsonl") and not leftovers(tmp_path)
    assert any(line.startswith("8/8 clips, ") and "2 failed" in line for line in bars.logged)


def test_a_clip_that_kills_its_worker_is_tried_again_and_given_up(nodes: Any, tmp_path: Path) -> None:
    report, lines = work(tmp_path, {"u1": "die", "u2": "text", "u3": "text"}, nodes.address)
    assert list(report.failed) == ["u1"] and f"{cluster.DEATHS} times" in report.failed["u1"] and report.done == 2
    assert sum("another one does it again" in line for line in lines.warned) == cluster.DEATHS - 1
    assert not leftovers(tmp_path) and not json.loads((tmp_path / "failures.jsonl").read_text())["final"]


def test_a_full_disk_on_a_node_ends_the_run(nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="disk is full"):
        work(tmp_path, {"a": "full", "b": "text"}, nodes.address)
    assert not (tmp_path / "artifact.json").exists() and not leftovers(tmp_path)


def test_a_node_that_does_not_see_the_folder_is_named(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exists = Path.exists
    monkeypatch.setattr(cluster, "SEE_SECONDS", 0.0)
    monkeypatch.setattr(cluster.Path, "touch", lambda self, **_: None)  # as if this machine's disk were its own
    with pytest.raises(ArtifactError, match="does not see .*a disk that all nodes share"):
        work(tmp_path, {"a": "text"}, nodes.address)
    assert exists(tmp_path) and not (tmp_path / "clips").exists()


def test_a_disk_that_goes_away_is_not_the_clips_fault(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SEE_SECONDS", 0.0)
    with pytest.raises(ArtifactError, match="does not see"):
        work(tmp_path, {"a": "blind"}, nodes.address)
    assert not (tmp_path / "failures.jsonl").exists() and not leftovers(tmp_path)


def test_a_killed_node_loses_only_the_clip_in_flight(nodes: Any, tmp_path: Path) -> None:
    marks, texts = tmp_path / "marks", {f"u{i}": f"text {i}" for i in range(4)}
    marks.mkdir()
    slow = {"v1": f"wait|{marks}|one", "v2": f"wait|{marks}|two"}

    def kill() -> None:
        until(lambda: len(begun(marks)) == 2)  # both nodes are in the middle of a clip
        victim = nodes.workers.pop()
        nodes.remove_node(victim, allow_graceful=False)
        until(lambda: not all(map(alive, workers(marks))))  # its worker outlives it by a moment
        (marks / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    # Largest first: the two slow ones are begun before all others.
    lines = Counted()
    with Store(
        tmp_path / "out", kind="clips", stage="small", code=1, config=Config(), runtime=Runtime(ray=nodes.address, reporter=lines)
    ) as store:
        run_units(store, store.plan(units(texts | slow)), task, title="work", unit="clips", size=lambda u: 9.0 if u.id in slow else 1.0)
        report = store.seal()
    killer.join()
    try:
        assert (report.done, report.failed, lines.amount) == (6, {}, 22.0)
        again = begun(marks)
        assert len(again) == 3 and set(again) == set(slow.values()), "one clip was begun twice, the other once"
        assert sum("another one does it again" in line for line in lines.warned) == 1
        alone = tmp_path / "alone"
        work(alone, texts | slow, None)
        assert tree(alone) == tree(tmp_path / "out") and not leftovers(tmp_path / "out")
    finally:
        nodes.workers.append(nodes.add_node(**NODE))


def test_a_killed_driver_takes_its_workers_along_and_the_next_one_goes_on(nodes: Any, tmp_path: Path) -> None:
    marks, root = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()
    texts = {"a": "alpha", "b": f"wait|{marks}|beta", "c": "gamma"}
    code = (
        "import sys, pathlib; from tests.test_ray import work\n"
        f"work(pathlib.Path(sys.argv[1]), {texts!r}, sys.argv[2], workers=2)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, root, nodes.address], cwd=ROOT, stdout=subprocess.DEVNULL)
    until(lambda: len(list(root.glob("clips/*/clip.json"))) == 2 and len(begun(marks)) == 1)
    with pytest.raises(BusyError, match=f"process {driver.pid} on "):
        work(root, texts, nodes.address)
    (worker,) = workers(marks)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    until(lambda: not alive(worker))
    made = {p.parent.name: p.stat().st_ino for p in root.glob("clips/*/clip.json")}
    (marks / "go").touch()
    report, _ = work(root, texts, nodes.address)
    assert (report.done, report.skipped) == (1, 2) and not leftovers(root)
    assert {n: (root / "clips" / n / "clip.json").stat().st_ino for n in made} == made


def test_preprocess_and_extract_audio_give_the_same_bytes_on_a_cluster(nodes: Any, made_clips: Path, tmp_path: Path) -> None:
    preprocess.run(preprocess.Config(resolution=128), [made_clips], tmp_path / "alone", Runtime())
    extract_audio.run(extract_audio.Config(), tmp_path / "alone", None, Runtime(device="cpu"))
    command = ["preprocess", str(made_clips), "--out", str(tmp_path / "shared"), "--resolution", "128", "--json", "--ray", nodes.address]
    done = subprocess.run([sys.executable, "-m", "difftalk_cli", *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and json.loads(done.stdout)["done"] == 2, done.stderr  # nothing of Ray's on stdout
    assert "2/2 clips" in done.stderr and "on 2 nodes" in done.stderr
    report = extract_audio.run(extract_audio.Config(), tmp_path / "shared", None, Runtime(device="cpu", ray=nodes.address))
    assert report.done == 2 and tree(tmp_path / "alone") == tree(tmp_path / "shared")


def test_latents_are_the_same_on_a_cluster(nodes: Any, tmp_path: Path) -> None:
    from stages import train, train_vae
    from tests.small import make_training_data

    work = make_training_data(tmp_path / "work", clips=2, frames=12)
    train_vae.run(train_vae.Config(preset="tiny", steps=1, batch=2), work, None, Runtime(device="cpu"))
    config, inputs = train.Config(preset="tiny"), train.Inputs(work)
    alone = train.run(config, inputs, None, Runtime(device="cpu"), latents_only=True)
    before = tree(alone.out)
    shared = train.run(config, inputs, None, Runtime(device="cpu", ray=nodes.address, force=True), latents_only=True)
    assert (alone.done, shared.done, shared.out) == (2, 2, alone.out) and tree(shared.out) == before
    assert {"clean.npy", "masked.npy"} <= {Path(n).name for n in before}


def test_a_table_of_jobs_and_its_scores_are_the_same_on_a_cluster(nodes: Any, made_clip: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    write_wav(tmp_path / "speech.wav", read_audio(made_clip)[:6400])  # 10 frames
    config, rows = infer.Config(steps=1, max_turn=1.0), ["audio\tref\tout\tseed"]
    rows += [f"speech.wav\t{made_clip}\tout/1.mp4\t1", "nowhere.wav\tx.mp4\tout/2.mp4\t2"]
    made = {}
    for name, address in (("alone", None), ("shared", nodes.address)):
        (tmp_path / "jobs.tsv").write_text("\n".join(rows).replace("out/", f"{name}/"))
        report = infer.run_list(config, tmp_path / "jobs.tsv", model, Runtime(device="cpu", ray=address))
        assert report.done == 1 and "no such file" in report.failed[str(tmp_path / name / "2.mp4")]
        made[name] = (tmp_path / name / "1.mp4").read_bytes()
    assert made["alone"] == made["shared"]
    scores = {}
    for name, address in (("a", None), ("b", nodes.address)):
        inputs = evaluate.Inputs(tmp_path / "shared" / "1.mp4", made_clip)
        config = evaluate.Config(metrics="psnr", rows="ground_truth,copy_baseline")
        report = evaluate.run(config, inputs, tmp_path / name, Runtime(device="cpu", ray=address))
        assert report.done == 3, report.failed
        scores[name] = {p.parent.name: np.load(p) for p in (tmp_path / name).glob("clips/*/per_frame.npy")}
        assert (tmp_path / name / "report.html").is_file()
    assert scores["a"].keys() == scores["b"].keys() and len(scores["a"]) == 3
    assert all(np.array_equal(scores["a"][id], scores["b"][id], equal_nan=True) for id in scores["a"])


@pytest.mark.parametrize("address, told", [("auto", "belongs to no Ray cluster"), ("127.0.0.1:9", "no Ray cluster answers at")])
def test_a_cluster_that_is_not_there_is_a_usage_error(
    address: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=f"{told}.*ray start --head"):
        cluster._address(address)


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"difftalk\[ray\]"):
        work(tmp_path, {"a": "text"}, "auto")


@pytest.mark.parametrize("address", ["", "head", "ray://head:10001"])
def test_addresses_that_cannot_be_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        Runtime(ray=address)


def test_workers_are_as_many_as_the_nodes_hold() -> None:
    def room(device: str, needs: Needs, *have: dict[str, float]) -> tuple[int, int, float]:
        fleet = cluster.Fleet(None, Runtime(ray="auto", device=device), needs, None, Path())  # type: ignore[arg-type]
        fleet.nodes = {str(i): resources for i, resources in enumerate(have)}
        return fleet._room(), fleet._cpus(), fleet._gpus()

    big, small = {"CPU": 64.0, "GPU": 8.0}, {"CPU": 2.0}
    assert room("auto", Needs(), big, small) == (66, 1, 0.0)
    assert room("auto", Needs(cpus=4, gpus=1), big, small) == (8, 4, 1.0)
    assert room("auto", Needs(gpus=0.25), big) == (32, 1, 0.25)
    assert room("cpu", Needs(cpus=4, gpus=1), big, small) == (16, 4, 0.0)
    assert room("auto", Needs(cpus=4, gpus=1), small, small) == (2, 2, 0.0)  # machines smaller than the stage would like
    assert room("cuda", Needs(gpus=1), small) == (0, 1, 1.0)
