from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.errors import UsageError
from stages.media import ffmpeg as door
from stages.media import ffmpeg_binary


@pytest.fixture(autouse=True)
def chosen_anew() -> Iterator[None]:
    ffmpeg_binary.cache_clear()
    yield
    ffmpeg_binary.cache_clear()


def binary(folder: Path, version: str = "7.1", encoders: str = "libx264 libx264rgb aac", code: int = 0) -> Path:
    """Something called ffmpeg that says it is of this version and has these encoders."""
    folder.mkdir(exist_ok=True)
    lines = "".join(f" {'A' if name == 'aac' else 'V'}....D {name}   words\\n" for name in encoders.split())
    path = folder / "ffmpeg"
    path.write_text(f"#!/bin/sh\necho 'ffmpeg version {version} Copyright' >&2\nprintf '{lines}'\nexit {code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "version", ["7.1", "7.0.2-static https://x", "8.0-1+deb14u1", "n9.0.2-17-g2a571b6068-20260930", "N-113000-gabc", "git-2024"]
)
def test_the_one_on_path_is_taken_when_it_can_do_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    path = binary(tmp_path / "bin", version)
    monkeypatch.setenv("PATH", str(path.parent))
    monkeypatch.delenv("DIFFTALK_FFMPEG", raising=False)
    assert ffmpeg_binary() == str(path)


@pytest.mark.parametrize(
    "how", [{"version": "6.1.1-3ubuntu5"}, {"version": "4.4.2-0ubuntu"}, {"encoders": "libopenh264 aac"}, {"encoders": "libx264 aac"}]
)
def test_one_that_cannot_gives_way_to_the_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, str]) -> None:
    import imageio_ffmpeg

    monkeypatch.delenv("DIFFTALK_FFMPEG", raising=False)
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    shipped = imageio_ffmpeg.get_ffmpeg_exe()
    monkeypatch.setenv("PATH", str(binary(tmp_path / "bin", **how).parent))
    assert ffmpeg_binary() == shipped


@pytest.mark.parametrize(
    ("how", "problem"),
    [({"version": "6.1"}, r"is version 6\.1, needed is 7\.0"), ({"encoders": "aac"}, "lacks the encoders libx264, libx264rgb")],
)
def test_a_named_one_that_cannot_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, str], problem: str) -> None:
    monkeypatch.setenv("DIFFTALK_FFMPEG", str(binary(tmp_path / "bin", **how)))
    with pytest.raises(UsageError, match=problem):
        ffmpeg_binary()


def test_a_named_one_that_is_absent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none", tmp_path):
        monkeypatch.setenv("DIFFTALK_FFMPEG", str(path))
        with pytest.raises(UsageError, match=r"DIFFTALK_FFMPEG=.*: cannot be run"):
            ffmpeg_binary()


def test_a_platform_without_any_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import imageio_ffmpeg

    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("DIFFTALK_FFMPEG", raising=False)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(UsageError, match="install ffmpeg"):
        ffmpeg_binary()


def test_the_process_is_dead_when_the_block_ends() -> None:
    with door.pipe(["-f", "lavfi", "-i", "testsrc2", "-f", "rawvideo", "-"], stdout=True) as (process, _):
        assert process.stdout.read(1000) and process.poll() is None
    assert process.poll() is not None
    with (
        pytest.raises(ZeroDivisionError),
        door.pipe(["-f", "rawvideo", "-s", "8x8", "-i", "-", "-f", "null", "-"], stdin=True) as (process, _),
    ):
        raise ZeroDivisionError
    assert process.poll() is not None


def test_a_talkative_ffmpeg_does_not_block() -> None:
    with door.pipe(["-v", "debug", "-f", "lavfi", "-i", "testsrc2=d=4:r=200", "-vf", "showinfo", "-f", "null", "-"]) as (process, errors):
        assert process.wait(30) == 0
        assert len(door.read_errors(errors)) > 200_000


@pytest.mark.parametrize(
    ("text", "code", "said"), [("a\nb \n\n", 1, "b"), ("", 1, "it said nothing"), ("x", -11, "ffmpeg was stopped by SIGSEGV")]
)
def test_the_last_line_tells(text: str, code: int, said: str) -> None:
    assert door.last_line(text, code) == said


def test_filters_are_known() -> None:
    assert door.has_filter("scale") and not door.has_filter("nonesuch")
