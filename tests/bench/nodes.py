"""What HDTF takes on 1, 8 and 64 nodes, from the measured costs of a frame (docs/hdtf.md): time, network, and what is short first.

    python -m tests.bench.nodes [--clips 436] [--hours 17.07] [--longest 500] [--cores 64] [--disk 2.0] [--driver 1.0]

Each clip goes, longest first, to the worker that is free first, one core each, as stages.artifacts.cluster does it. The
lengths are drawn from what is known of HDTF: 436 clips of 10 to 500 s, 17.07 h, two thirds of a minute or more.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

FPS = 25
START_SECONDS = 10.0
"""Connecting, and a worker's start: Python, Ray and the detector."""
PROBES = 22.6
"""Files a second that the driver probes; measured, 54 files on two busy cores."""
SOURCE_BITS = 3e6
"""A second of source video; assumed."""


@dataclass(frozen=True)
class Step:
    name: str
    seconds: float
    """Of one core, for a frame."""
    written: int
    """Bytes, for a frame."""


STEPS = (
    Step("preprocess 720p, 256 px", 0.055, 198_468),
    Step("preprocess 1080p, 256 px", 0.100, 198_468),
    Step("preprocess 1080p, 512 px", 0.100, 788_292),
    Step("latents on CPUs, tiny", 0.134, 24_576),
)


def lengths(clips: int, hours: float, longest: float, shortest: float = 10.0, spread: float = 0.95) -> np.ndarray:
    """Seconds of each clip (n,): a log-normal's quantiles between the two ends, moved until they sum to `hours`."""
    normal = NormalDist()
    z = np.array([normal.inv_cdf((i + 0.5) / clips) for i in range(clips)])
    low, high = np.log(shortest), np.log(longest)
    for _ in range(60):
        middle = (low + high) / 2
        drawn = np.clip(np.exp(middle + spread * z), shortest, longest)
        low, high = (middle, high) if drawn.sum() < hours * 3600 else (low, middle)
    drawn[-1] = longest
    return drawn


def makespan(seconds: np.ndarray, workers: int) -> float:
    """When the last of `workers` ends that take the jobs longest first."""
    free = [0.0] * min(workers, len(seconds))
    for job in np.sort(seconds)[::-1]:
        heapq.heapreplace(free, free[0] + float(job))
    return max(free)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=436)
    parser.add_argument("--hours", type=float, default=17.07)
    parser.add_argument("--longest", type=float, default=500.0, help="seconds")
    parser.add_argument("--cores", type=int, default=64, help="of a node")
    parser.add_argument("--disk", type=float, default=2.0, help="what the shared disk writes, GB/s")
    parser.add_argument("--driver", type=float, default=1.0, help="what one machine reads of it, GB/s")
    o = parser.parse_args()
    clips = lengths(o.clips, o.hours, o.longest)
    print(f"{len(clips)} clips, {clips.sum() / 3600:.2f} h, {(clips >= 60).sum()} of a minute or more, longest {clips.max():.0f} s")
    sources = clips.sum() * SOURCE_BITS / 8 / 1e9
    for step in STEPS:
        busy, written = clips * FPS * step.seconds, clips.sum() * FPS * step.written / 1e9
        reading = o.clips / PROBES + sources / o.driver if step.name.startswith("preprocess") else 0.0
        print(f"\n{step.name}: {busy.sum() / 3600:.1f} core-hours, {written:.0f} GB written")
        for nodes in (1, 8, 64):
            workers = nodes * o.cores
            limits = {
                "cores": busy.sum() / workers,
                "the longest clip": busy.max(),
                f"the disk at {o.disk:g} GB/s": written / o.disk,
            }
            work = max(makespan(busy, workers), written / o.disk)
            first = max(limits, key=limits.__getitem__)
            most = min(workers, len(clips)) * step.written / step.seconds / 1e9  # while every worker has a clip
            print(
                f"  {nodes:2d} nodes: {(START_SECONDS + reading + work) / 60:5.1f} min ({reading / 60:.1f} before the first clip), "
                f"{written / work:.2f} GB/s written, {most:.2f} at first ({most / nodes * 8:.1f} Gbit/s a node); short first: {first}"
            )


if __name__ == "__main__":
    main()
