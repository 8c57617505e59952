"""Which video of one folder meets which of the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.errors import InputError, UsageError
from stages.media.pairs import find_pairs


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def found(generated: Path, truth: Path) -> dict[str, tuple[str | None, str | None]]:
    pairs = find_pairs(generated, truth)
    return {
        p.name: (
            p.generated.relative_to(generated).as_posix() if p.generated else None,
            p.truth.relative_to(truth).as_posix() if p.truth else None,
        )
        for p in pairs
    }


def test_videos_pair_by_path_whatever_the_suffix(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", "x.mp4", "ann/1.mp4", "bob/1.mp4", "notes.txt")
    b = folder(tmp_path / "b", "x.MOV", "ann/1.mkv", "bob/1.mp4")
    assert found(a, b) == {
        "x": ("x.mp4", "x.MOV"), "ann/1": ("ann/1.mp4", "ann/1.mkv"), "bob/1": ("bob/1.mp4", "bob/1.mp4"),
    }  # fmt: skip
    assert not any(p.problem for p in find_pairs(a, b))


def test_folders_of_another_shape_pair_by_stem_where_it_is_clear(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", "x.mp4", "y.mp4")
    b = folder(tmp_path / "b", "deep/x.mp4", "one/y.mp4", "two/y.mp4")
    pairs = found(a, b)
    assert pairs["x"] == ("x.mp4", "deep/x.mp4")
    assert pairs["y"] == ("y.mp4", None) and pairs["one/y"] == (None, "one/y.mp4")


def test_a_video_without_partner_says_which_side_is_missing(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", "x.mp4", "extra.mp4"), folder(tmp_path / "b", "x.mp4", "missing.mp4")
    problems = {p.name: p.problem for p in find_pairs(a, b)}
    assert problems["x"] == ""
    assert "no ground truth" in problems["extra"] and "no generated video" in problems["missing"]


def test_two_files_of_one_name_are_told_not_guessed(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", "x.mp4", "x.mov"), folder(tmp_path / "b", "x.mp4")
    (pair,) = find_pairs(a, b)
    assert "2 files" in pair.problem and "x.mov" in pair.problem


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", "x.mp4", "._x.mp4", ".cache/y.mp4")
    assert list(found(a, folder(tmp_path / "b", "x.mp4"))) == ["x"]


def test_two_files_are_one_pair_and_a_file_never_meets_a_folder(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", "x.mp4"), folder(tmp_path / "b", "other.mp4")
    (pair,) = find_pairs(a / "x.mp4", b / "other.mp4")
    assert (pair.name, pair.problem) == ("x", "")
    with pytest.raises(UsageError, match="two videos, or two folders"):
        find_pairs(a / "x.mp4", b)
    with pytest.raises(InputError, match="no such file"):
        find_pairs(a, tmp_path / "nowhere")
    with pytest.raises(InputError, match="no videos there"):
        find_pairs(a, folder(tmp_path / "c", "readme.txt"))
