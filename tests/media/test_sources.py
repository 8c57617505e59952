from __future__ import annotations

from pathlib import Path

import pytest

from stages.media.sources import find_sources


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_nested_folders_are_searched_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    touch(
        tmp_path / "b.MP4", tmp_path / "deep" / "er" / "a.webm", tmp_path / ".trash" / "c.mp4", tmp_path / ".d.mp4", tmp_path / "notes.txt"
    )
    assert [s.path.name for s in find_sources([tmp_path])] == ["b.MP4", "a.webm"]


def test_a_file_named_twice_is_one_source(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    assert len(find_sources([tmp_path, tmp_path / "a.mp4"])) == 1


def test_beside_a_single_file_only_its_own_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "x.mp4")
    (tmp_path / "RD_annotion_time.txt").write_text("x.mp4 00:01-00:02 00:03-00:04\n")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "RD_annotion_time.txt").write_text("nothing that could be read\n")
    assert [(s.stem, s.start, s.seconds) for s in find_sources([tmp_path / "x.mp4"])] == [("x_0", 1.0, 1.0), ("x_1", 3.0, 1.0)]
