"""kill -9, in the middle of a clip, in the middle of a run, and at every single step that changes the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts import read_artifact
from stages.artifacts.fingerprint import DigestCache
from stages.artifacts.unit import damage, read_record
from tests.artifacts.small import Config, leftovers, run, tree

TEXTS = {"a-1": "alpha", "b-2": "beta", "c-3": "gamma"}

HANG = (
    "import sys, time, pathlib; from tests.artifacts.small import run\n"
    "def during(id, folder):\n"
    "    if id == sys.argv[2]:\n"
    "        print('half-written', flush=True); time.sleep(60)\n"
    f"run(pathlib.Path(sys.argv[1]), {TEXTS!r}, during=during)"
)


def sound(root: Path) -> set[str]:
    """Ids of the committed clips; each must be whole."""
    found = set()
    for folder in (root / "clips").glob("*"):
        record = read_record(folder)
        assert record is not None and damage(folder, record, DigestCache(root / "none")) == "", folder
        found.add(folder.name)
    return found


@pytest.mark.parametrize("at", ["a-1", "b-2"])
def test_resume_after_kill_redoes_only_missing_clips(tmp_path: Path, at: str) -> None:
    run(tmp_path / "reference", TEXTS)
    root = tmp_path / "out"
    victim = subprocess.Popen([sys.executable, "-c", HANG, root, at], stdout=subprocess.PIPE, text=True)
    assert victim.stdout and victim.stdout.readline() == "half-written\n"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    done = sound(root)
    assert done == {id for id in TEXTS if id < at}
    assert leftovers(root)  # the half-written clip, which nothing reads
    outcome = run(root, TEXTS)
    assert set(outcome.made) == set(TEXTS) - done
    assert not leftovers(root) and tree(root) == tree(tmp_path / "reference")


def killed_at(step: int, work: Any) -> bool:
    """Do `work` in a child that is killed before its `step`-th change of the disk; whether it was."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed otherwise"
        return os.WIFSIGNALED(status)
    left = [step]

    def counted(real: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        return call

    try:
        for name in ("replace", "rename", "unlink", "mkdir", "rmdir", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        work()
    except BaseException:  # pytest's own machinery must not run in the child
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("again", [False, True], ids=["first run", "redo"])
def test_killed_at_any_step_nothing_half_written_is_there(tmp_path: Path, again: bool) -> None:
    texts = {"a-1": "alpha", "b-2": "beta"}
    config = Config(size=26)
    run(tmp_path / "reference", texts, config=config, facts={"n": 2})
    reference = tree(tmp_path / "reference")
    for step in range(200):
        root = tmp_path / f"out-{step}"
        if again:
            run(root, texts, config=Config(), facts={"n": 2})
        killed = killed_at(step, lambda root=root: run(root, texts, config=config, facts={"n": 2}))
        if not killed:
            break
        sound(root) if root.exists() else None
        if (root / "artifact.json").exists():
            read_artifact(root, "clips").clips  # noqa: B018  (complete or absent, never torn)
        run(root, texts, config=config, facts={"n": 2})
        assert tree(root) == reference and not leftovers(root), step
    assert 20 < step < 199, step
