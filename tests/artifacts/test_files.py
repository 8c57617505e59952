from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stages.artifacts import make_folder, new_array, write_atomic, write_json
from stages.artifacts.files import append_line, explain_os_errors, read_json, replace_tree
from stages.errors import ArtifactError, DiskError


def test_the_file_appears_whole_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.mp4"
    with write_atomic(out) as part:
        assert part.suffix == ".mp4" and part.parent == out.parent
        part.write_bytes(b"all of it")
        assert not out.exists()
    assert out.read_bytes() == b"all of it"
    assert list(out.parent.iterdir()) == [out]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    out.write_text("old")
    with pytest.raises(ZeroDivisionError), write_atomic(out) as part:
        part.write_text("new")
        raise ZeroDivisionError
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_the_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    with write_atomic(tmp_path / "ours") as part:
        part.write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_in_the_way_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(DiskError, match="folder of this name is in the way"), write_atomic(tmp_path / "out.mp4"):
        pytest.fail("the block ran")


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DiskError, match="not an ordinary file"), write_atomic(pipe):
        pytest.fail("the block ran")
    assert pipe.is_fifo()


def test_a_file_instead_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="a file, not a folder"), write_atomic(tmp_path / "file" / "x" / "out.json"):
        pytest.fail("the block ran")
    with pytest.raises(ArtifactError, match="file of this name is in the way"):
        make_folder(tmp_path / "file")


def test_a_name_of_any_length_that_the_disk_takes_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 251 + ".mp4", "ü" * 120 + ".mp4", "a b'\"%d[x].mp4", "-n.mp4"):
        with write_atomic(tmp_path / name) as part:
            part.write_text(name)
        assert (tmp_path / name).read_text() == name
    with pytest.raises(DiskError, match="too long"), write_atomic(tmp_path / ("x" * 300)):
        pytest.fail("the block ran")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(DiskError, match="permission denied"), write_atomic(tmp_path / "out.mp4"):
        pytest.fail("the block ran")


def test_an_input_that_may_not_be_read_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "in.mp4"))
    with pytest.raises(PermissionError), write_atomic(tmp_path / "out.mp4"):
        raise error
    with pytest.raises(DiskError, match="permission denied"), explain_os_errors(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out" / "x"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_full_disk_is_told_whatever_was_written(tmp_path: Path, code: int) -> None:
    with pytest.raises(DiskError, match=r"cannot write .*out\.mp4"), write_atomic(tmp_path / "out.mp4"):
        raise OSError(code, os.strerror(code))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_numpys_short_write_is_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="disk is full"), explain_os_errors(tmp_path), open("/dev/full", "wb", buffering=0) as f:
        np.zeros(1 << 20).tofile(f)


def test_leftovers_of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from stages.artifacts import write_atomic\n"
        "with write_atomic(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); print(part, flush=True); time.sleep(60)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "a [1].txt"], stdout=subprocess.PIPE, text=True) for _ in "xy"]
    try:
        dead, living = (Path(w.stdout.readline().strip()) for w in writers if w.stdout)
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        (tmp_path / ".a [1].0123.part.txt.keep").write_text("another file")
        with write_atomic(tmp_path / "a [1].txt") as part:
            part.write_text("mine")
        assert not dead.exists() and living.exists()
        assert (tmp_path / "a [1].txt").read_text() == "mine"
        assert (tmp_path / ".a [1].0123.part.txt.keep").exists()
    finally:
        for w in writers:
            w.kill()
            w.wait()


def test_json_that_says_the_same_is_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": "é"})
    before = path.stat()
    time.sleep(0.02)
    write_json(path, {"a": "é", "b": 1})
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    write_json(path, {"a": "e", "b": 1})
    assert read_json(path) == {"a": "e", "b": 1}


def test_a_name_that_is_not_unicode_survives_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    write_json(tmp_path / "a.json", {"source": name})
    append_line(tmp_path / "a.jsonl", {"source": name})
    assert read_json(tmp_path / "a.json") == {"source": name} == json.loads((tmp_path / "a.jsonl").read_text())


def test_a_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_line(path, {"n": 1})
    with path.open("a") as f:
        f.write('{"n": 2, "to')
    append_line(path, {"n": 3})
    assert path.read_text().splitlines() == ['{"n": 1}', '{"n": 2, "to', '{"n": 3}']


@pytest.mark.parametrize("text", ["", "[1]", "{", "nonsense", "\xff\xfe"])
def test_read_json_takes_only_whole_objects(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    assert read_json(tmp_path / "a.json") is None
    assert read_json(tmp_path / "none.json") is None
    assert read_json(tmp_path) is None


def test_replace_tree_takes_the_place_of_anything(tmp_path: Path) -> None:
    for i, make in enumerate((lambda p: p.mkdir(), lambda p: p.write_text("file"), lambda p: p.symlink_to(tmp_path / "gone"))):
        built, final = tmp_path / f"built{i}", tmp_path / "deep" / f"final{i}"
        built.mkdir()
        (built / "x").write_text("new")
        final.parent.mkdir(exist_ok=True)
        make(final)
        replace_tree(built, final, tmp_path / "trash")
        assert (final / "x").read_text() == "new" and not built.exists() and not (tmp_path / "trash").exists()


def test_a_new_array_is_filled_in_place(tmp_path: Path) -> None:
    array = new_array(tmp_path / "a.npy", np.uint8, (3, 4))
    array[1] = 7
    array.flush()
    assert np.load(tmp_path / "a.npy").tolist() == [[0] * 4, [7] * 4, [0] * 4]


ARRAY = (
    "import sys, pathlib, numpy as np; from stages.artifacts import new_array\n"
    "from stages.errors import ArtifactError\n"
    "try: new_array(pathlib.Path(sys.argv[1]) / 'a.npy', np.uint8, (2_000_000,))[:] = 1\n"
    "except ArtifactError as error: sys.exit(f'told: {error}')"
)


def test_an_array_that_finds_no_room_is_told_and_kills_nobody(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=300k none "{tmp_path}"'
    if not shutil.which("unshare") or subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    command = ["unshare", "-Urm", "sh", "-c", f'{mount} && "$1" -c "$2" "$3"', "sh", sys.executable, ARRAY, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "told: cannot write" in done.stderr and "disk is full" in done.stderr, done.stderr
