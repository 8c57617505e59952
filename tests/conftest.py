"""Clips that several tests look at, made or found once a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports torch: tests are small, run side by side, and threads that wait for each other only lose time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def made_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face that speaks, with its sound: 2 s at 25 fps, 320x320."""
    from tests.made import make_clip

    return make_clip(tmp_path_factory.mktemp("made") / "made.mp4", seconds=2.0, size=320)


@pytest.fixture(scope="session")
def made_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two clips of 3 s, 25 fps and 320x320: the face as it is, and mirrored in another light."""
    from tests.made import make_clip

    folder = tmp_path_factory.mktemp("made-clips")
    for number, variant in enumerate(("plain", "other")):
        make_clip(folder / f"made-{number}.mp4", seconds=3.0, size=320, variant=variant)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """The folder of real clips beside the repository; they are not part of it."""
    folder = Path(__file__).parents[1] / ".." / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip("no real clips: there is no folder shared/clips beside the repository")
    return folder.resolve()
