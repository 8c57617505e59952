"""What each metric costs: processor time and frames a second, fed with the same pairs of frames; and a whole run on top.

    python -m tests.bench.metric_speed VIDEO [--frames 50] [--size 720] [--vgg]

Times are seconds of processor (all threads of this process), so that whatever runs beside does not count; it still slows the
caches. `frames/s` is what one core would give. LPIPS of the face crop and of the mouth's are one line.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from stages.faces import FaceTrack
from stages.faces.detect import make_finder
from stages.media.audio import read_audio
from stages.media.video import VideoReader
from stages.metrics.clip import ClipScorer, Tools
from stages.metrics.heard import ExpertMeter
from stages.metrics.lpips import load_lpips
from stages.metrics.scoring import How, find_face
from stages.runtime import Runtime
from stages.shapes import SAMPLE_RATE


def clock(work: Callable[[], object]) -> float:
    """Seconds of processor that `work` takes."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def score(frames: list[np.ndarray], fakes: list[np.ndarray], track: FaceTrack, chosen: tuple[str, ...], tools: Tools) -> ClipScorer:
    scorer = ClipScorer(chosen, track, tools, resolution=256, mouth_resolution=128)
    for fake, true in zip(fakes, frames, strict=True):
        scorer.add(fake, true)
    scorer.table()
    return scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--size", type=int, default=720, help="shorter side of the frames")
    parser.add_argument("--vgg", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    cv2.setNumThreads(o.threads)
    reader = VideoReader(o.video, frames=o.frames)
    read = clock(lambda: list(VideoReader(o.video, frames=o.frames)))
    scale = o.size / min(reader.shape[:2])
    frames = [cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for f in reader]
    fakes = [cv2.GaussianBlur(f, (0, 0), 1) for f in frames]
    finder = make_finder("dlib")
    whole = find_face(VideoReader(o.video), How(), lambda amount: None)
    track = FaceTrack(
        whole.landmarks * scale, np.concatenate([whole.align[..., :2] / scale, whole.align[..., 2:]], -1), whole.status, whole.shot,
        whole.embedding,
    )  # fmt: skip
    count, (height, width) = len(frames), frames[0].shape[:2]
    base = clock(lambda: score(frames, fakes, track, (), Tools()))
    networks = {"lpips_alex": load_lpips("alex", Runtime())} | ({"lpips_vgg": load_lpips("vgg", Runtime())} if o.vgg else {})
    meter = ExpertMeter(256, float(reader.info.fps))
    sound = read_audio(o.video)[: round(count / reader.info.fps * SAMPLE_RATE)]
    rows: dict[str, tuple[tuple[str, ...], Tools]] = {
        "psnr": (("psnr",), Tools()),
        "ssim": (("ssim",), Tools()),
        "lpips (AlexNet)": (("lpips",), Tools(lpips={"lpips_alex": networks["lpips_alex"]})),
        "mouth landmarks": (("mouth",), Tools(finder=finder)),
        "identity": (("identity",), Tools(finder=finder)),
        "jitter, flicker": (("jitter",), Tools()),
    }
    if o.vgg:
        rows["lpips (VGG16), every frame"] = (("vgg",), Tools(lpips={"lpips_vgg": networks["lpips_vgg"]}))
    told = [("decode one video (this process's part)", read), ("cut crops", base)]
    told += [(name, clock(lambda c=c, t=t: score(frames, fakes, track, c, t)) - base) for name, (c, t) in rows.items()]
    scorer = score(frames, fakes, track, ("mouth",), Tools(finder=finder, meter=meter))
    told.append(("sync by difftalk-sync, once the landmarks are known", clock(lambda: meter.score(sound))))
    assert scorer.faces
    print(f"{count} frames of {width}x{height}, {o.threads} thread(s)\n")
    print("| part | ms a frame | frames/s |\n|---|---|---|")
    for name, seconds in told:
        print(f"| {name} | {1000 * seconds / count:.1f} | {count / max(seconds, 1e-9):.0f} |")


if __name__ == "__main__":
    main()
