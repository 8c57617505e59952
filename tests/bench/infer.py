"""How fast drawing is beside the paper's way, on the same weights and in one run; and where the time goes.

    python -m tests.bench.infer --model MODEL --work WORK [--frames 8] [--paper-frames 3] [--steps 5 10 20 50 200] [--threads 2]
    python -m tests.bench.infer --model MODEL --audio A --ref R [--threads 2]      where the time of one job goes
    python -m tests.bench.infer --memory [--seconds 10 300]                         peak memory against length, at 720p

The paper's way is section 3.3: one frame at a time, 200 DDIM steps over the whole crop's latent, the frame decoded and encoded
again to be the next one's reference. Ours is `difftalk infer` at its default settings. Both draw the same held-out frames;
LPIPS and the lips' opening are those of tests.bench.held_out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from stages.artifacts import read_artifact
from stages.diffusion.render import Renderer, SampleConfig
from stages.dubbing.model import load_model
from stages.infer import Config
from stages.models.denoiser import Condition
from stages.runtime import Runtime
from tests.bench.held_out import Case, cases, draw, judge

PAPER_STEPS = 200


class WholeCrop(Renderer):
    """The same networks over the whole crop instead of the window, as the paper has it."""

    def __init__(self, of: Renderer):
        super().__init__(of.first_stage, of.denoiser, of.schedule, of.kind, of.resolution)
        cells = self.resolution // self.first_stage.factor
        self.view = (slice(0, self.resolution), slice(0, self.resolution))
        self.rows = self.columns = slice(0, cells)
        self.hidden = self.mask
        hidden = F.max_pool2d(self.hidden[None, None], self.first_stage.factor)
        self.keep = (1 - F.max_pool2d(hidden, 3, 1, 1))[0, 0]


def papers_way(renderer: Renderer, case: Case, frames: int) -> np.ndarray:
    """(T, R, R, 3) u8."""
    whole, made = WholeCrop(renderer), []
    reference = case.references[0]
    for i in range(frames):
        z = whole.encode_masked(whole.pictures(case.truth[i : i + 1]))
        condition = Condition(
            masked=z, reference=whole.encode(whole.pictures(reference[None])),
            audio=torch.from_numpy(case.windows[i : i + 1]), landmarks=torch.from_numpy(case.points[i : i + 1]),
            lips=torch.from_numpy(case.lips[i : i + 1]) if renderer.denoiser.lips else None,
        )  # fmt: skip
        noise = torch.from_numpy(np.random.default_rng(i).standard_normal((1, *whole.shape), np.float32))
        shown = whole.compose(case.truth[i : i + 1], whole.decode(z, whole.generate(noise, condition, SampleConfig(steps=PAPER_STEPS))))
        made.append(shown[0])
        reference = shown[0]  # decoded, and encoded again for the next frame
    return np.stack(made)


def compare(o: argparse.Namespace) -> None:
    renderer, described, _ = load_model(o.model, Runtime(device=o.device, threads=o.threads))
    work, features = read_artifact(o.work, "clips"), read_artifact(o.features or o.work / "features", "features")
    held_out = cases(renderer, work, features, side=o.side, frames=o.frames)
    draw(renderer, replace(held_out[0], **held_out[0].cut(4)), steps=2)  # warm
    print(f"{'steps':>12} {'s a frame':>10} {'LPIPS':>8} {'PSNR':>7} {'opening':>8}")
    for sampler in o.samplers:
        for steps in o.steps:
            begin = time.perf_counter()
            made = [draw(renderer, case, steps, sampler) for case in held_out]
            spent = (time.perf_counter() - begin) / sum(len(m) for m in made)
            scores = judge(held_out, made)
            print(f"{sampler:>6} {steps:5} {spent:10.3f} {scores.lpips:8.4f} {scores.psnr:7.2f} {scores.opening:8.3f}", flush=True)
    if not o.paper_frames:
        return
    short = [replace(case, **case.cut(o.paper_frames)) for case in held_out[: o.paper_clips]]
    begin = time.perf_counter()
    made = [papers_way(renderer, case, len(case.truth)) for case in short]
    theirs = (time.perf_counter() - begin) / sum(len(m) for m in made)
    scores = judge(short, made)
    begin = time.perf_counter()
    usual = Config().filled(described.get("sampling", {}))
    again = [draw(renderer, case, usual.steps, strength=usual.strength) for case in short]
    ours = (time.perf_counter() - begin) / sum(len(m) for m in again)
    mine = judge(short, again)
    print(f"the paper's way: {theirs:.2f} s a frame, LPIPS {scores.lpips:.4f}, PSNR {scores.psnr:.2f}, opening {scores.opening:.3f}")
    print(f"ours, same frames: {ours:.3f} s a frame, LPIPS {mine.lpips:.4f}, PSNR {mine.psnr:.2f}, opening {mine.opening:.3f}: "
          f"{theirs / ours:.1f} times as fast")  # fmt: skip


def profile(o: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="difftalk-") as folder:
        command = [sys.executable, "-m", "difftalk_cli", "infer", "--audio", o.audio, "--ref", o.ref, "--quiet"]
        command += ["--out", f"{folder}/out.mp4"]
        command += ["--model", str(o.model)] if o.model else []
        command += ["--threads", str(o.threads)] if o.threads else []
        fresh = {**os.environ, "DIFFTALK_CACHE": f"{folder}/cache"} if not o.keep_cache else os.environ
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=fresh)
        wall = time.perf_counter() - begin
        told = json.loads(Path(f"{folder}/out.json").read_text())
    seconds = told["seconds"]
    busy = {k: v for k, v in seconds.items() if k != "all"}
    print(f"{told['frames']} frames of {told['size'][0]}x{told['size'][1]} in {wall:.1f} s, {told['frames'] / wall:.2f} frames/s")
    for name, spent in sorted(busy.items(), key=lambda kv: -kv[1]):
        print(f"{name:16} {spent:8.2f} s {spent / sum(busy.values()):7.1%} of what was busy")


def memory(o: argparse.Namespace) -> None:
    """Peak resident memory of whole jobs in processes of their own: a small model, the made clip at 720p, one step."""
    from stages.media.audio import write_wav
    from stages.media.video import VideoReader, VideoWriter
    from tests.made import make_clip
    from tests.small import make_model

    with tempfile.TemporaryDirectory(prefix="difftalk-") as folder:
        root = Path(folder)
        make_model(root / "model", still=True)
        small = make_clip(root / "small.mp4", size=320)
        with VideoWriter(root / "ref.mp4", fps=Fraction(25), size=(1280, 720), preset="ultrafast") as out:
            for frame in VideoReader(small):
                wide = np.zeros((720, 1280, 3), np.uint8)
                wide[200:520, 480:800] = frame
                out.write(wide)
        code = "from difftalk_cli.main import main; main()"
        for seconds in o.seconds:
            write_wav(root / "a.wav", np.zeros(int(16_000 * seconds), np.int16))
            command = [sys.executable, "-c", code, "infer", "--audio", root / "a.wav", "--ref", root / "ref.mp4", "--out"]
            command += [root / f"{seconds}.mp4", "--model", root / "model", "--steps", "1", "--quiet"]
            process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            assert status == 0, status
            busy = used.ru_utime + used.ru_stime
            print(f"{seconds:6.0f} s of 720p: peak {used.ru_maxrss / 1024:.0f} MiB, {busy:.0f} s of processor", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--side", default="val")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--paper-frames", type=int, default=2)
    parser.add_argument("--paper-clips", type=int, default=100)
    parser.add_argument("--steps", type=int, nargs="*", default=[4, 6, 10, 20, 50])
    parser.add_argument("--samplers", nargs="*", default=["ddim"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--audio")
    parser.add_argument("--ref")
    parser.add_argument("--keep-cache", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--seconds", type=float, nargs="*", default=[10, 300])
    o = parser.parse_args()
    if o.memory:
        memory(o)
    elif o.audio:
        profile(o)
    else:
        compare(o)


if __name__ == "__main__":
    main()
