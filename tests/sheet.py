"""A contact sheet: rows of frames from videos, one above the other, to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.artifacts import write_atomic
from stages.media import VideoReader, probe


def make_sheet(out: Path, videos: list[Path], *, columns: int = 8, side: int = 192) -> Path:
    """Write a PNG with a row for each video: `columns` frames at the same moments of all, `side` pixels high.

    Raises InputError when a video cannot be read.
    """
    from PIL import Image

    lengths = [seconds for path in videos if (seconds := probe(path).seconds)]
    assert lengths and len(lengths) == len(videos), videos
    moments = (np.arange(columns) + 0.5) / columns * min(lengths)
    rows = []
    for path in videos:
        reader = VideoReader(path)
        wanted = [int(m * reader.info.fps) for m in moments]
        frames = {i: frame.copy() for i, frame in enumerate(reader) if i in wanted}
        last = max(frames)
        width = max(1, round(side * reader.info.width / reader.info.height))
        row = [Image.fromarray(frames.get(i, frames[last])).resize((width, side), Image.Resampling.LANCZOS) for i in wanted]
        rows.append(np.hstack([np.asarray(picture) for picture in row]))
    widest = max(row.shape[1] for row in rows)
    sheet = np.vstack([np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0))) for row in rows])  # (rows*side, W, 3)
    with write_atomic(out) as part:
        Image.fromarray(sheet).save(part)
    return out
