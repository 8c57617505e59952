"""Drawing one video: conditions from source frames and sound, the mouth sampled, decoded, blended in, and sent on.

Reading runs ahead and blending and writing behind in threads, while the networks run in between.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from stages.diffusion.render import SampleConfig
from stages.diffusion.sample import SamplerName
from stages.dubbing.flow import ahead, behind
from stages.dubbing.lips import Lips
from stages.dubbing.mouths import Mouths, ReferenceKind
from stages.dubbing.occlusion import Occlusion
from stages.dubbing.plan import Plan
from stages.dubbing.reference import Reference
from stages.dubbing.speech import Speech
from stages.dubbing.watermark import SIDE, Marker
from stages.faces import crop, paste, pasted, reaches, scale_of, shade, within
from stages.faces.blend import detail_share, match_colours, seam
from stages.faces.mask import FEATHER
from stages.models.denoiser import Condition
from stages.runtime import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from stages.diffusion.render import Renderer

NoiseKind = Literal["fixed", "shared", "free"]
AHEAD = 2
"""Batches that wait on either side of the networks."""
COMMON = 0.5
"""Share of the variance of `shared` noise that all frames have in common."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How to draw."""

    steps: int = 10
    sampler: SamplerName = "ddim"
    guidance: float = 1.0
    strength: float = 1.0
    difference: float = 1.0
    lip_gain: float = 1.0
    noise: NoiseKind = "fixed"
    reference: ReferenceKind = "matched"
    seed: int = 0
    feather: float = FEATHER
    match_colours: bool = True
    keep_detail: bool = True
    watermark: bool = True
    batch: int = 8

    @classmethod
    def of(cls, config: Any) -> Drawing:
        """The part of a stage's Config that concerns drawing: fields of the same names."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls)})


class Sink(Protocol):
    """Where frames go."""

    def write(self, frame: np.ndarray) -> None: ...


class Clock:
    """Seconds that each part of a run was busy; parts overlap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    @property
    def all(self) -> float:
        """Since the clock was made."""
        return time.perf_counter() - self._begin

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


@dataclass
class Drawn:
    """A batch on its way out: frames, and the mouths of those that get one."""

    frames: list[np.ndarray]
    first: int
    """Output frame of the first."""
    places: np.ndarray
    """Which of the frames get a mouth."""
    crops: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(B, R, R, 3) u8: the source's."""
    made: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(B, R, R, 3) u8."""


class Job:
    """One video to draw."""

    def __init__(self, config: Drawing, renderer: Renderer, reference: Reference, speech: Speech, plan: Plan, clock: Clock):
        self.config, self.renderer, self.reference, self.speech, self.plan, self.clock = config, renderer, reference, speech, plan, clock
        with clock("listen"):
            self.lips = Lips(renderer.denoiser, reference, speech, config.lip_gain) if renderer.denoiser.lips else None
        self.references = Mouths(config.reference, renderer, reference, plan, self.lips, clock)
        self.points = self.references.points  # (T, 39, 2)
        self.alpha = pasted(renderer.resolution, renderer.kind, config.feather)  # (R, R) f32
        self.reach = self._reach() if renderer.kind != "paper" else None
        self.seam = seam(renderer.mask.cpu().numpy(), renderer.view)
        self.sampling = SampleConfig(**{f.name: getattr(config, f.name) for f in fields(SampleConfig)})

    # -- what every frame shares

    def _reach(self) -> np.ndarray:
        """How far the face reaches in each output frame: (T, A) f32."""
        track, order = self.reference.track, self.plan.order
        lower = self.lips.shapes[:, 3] - self.references.shapes[order, 3] if self.lips else np.zeros(len(order), np.float32)
        return reaches(track.align, track.landmarks, self.points, self.reference.usable, order, lower)

    def _shown(self, output: int) -> np.ndarray:
        """How far the mouth of an output frame replaces the source: (R, R) f32."""
        alpha = self.alpha * self.plan.presence[output]
        return alpha if self.reach is None else alpha * within(self.reach[output], len(alpha))

    def noise(self, outputs: np.ndarray) -> Tensor:
        """(B, C, h, w) of output frames: a function of the seed and the frame alone."""
        shape = self.renderer.shape
        common = _normal(self.config.seed, 0, shape)
        if self.config.noise == "fixed":
            drawn = np.repeat(common[None], len(outputs), 0)
        else:
            share = COMMON if self.config.noise == "shared" else 0.0
            own = np.stack([_normal(self.config.seed, int(k) + 1, shape) for k in outputs])
            drawn = np.float32(share**0.5) * common + np.float32((1 - share) ** 0.5) * own
        return torch.from_numpy(drawn).to(self.renderer.device)

    def condition(self, masked: Tensor, reference: Tensor, outputs: np.ndarray) -> Condition:
        device = self.renderer.device
        return Condition(
            masked=masked,
            reference=reference,
            audio=torch.from_numpy(self.speech.windows(outputs)).to(device),
            landmarks=torch.from_numpy(self.points[self.plan.order[outputs]]).to(device),
            lips=torch.from_numpy(self.lips.shapes[outputs]).to(device) if self.lips else None,
        )

    # -- drawing

    def render(self, start: int, end: int, sink: Sink, folder: Path, bar: Progress, drawn: dict[int, np.ndarray] | None = None) -> None:
        """Send output frames [start, end) to `sink`; `drawn` holds window latents that are sampled already, by frame."""

        def write(batch: Drawn) -> None:
            for frame in self._blend(batch):
                with self.clock("encode"):
                    sink.write(frame)
                bar.advance(1)

        self.occlusion = Occlusion(self.renderer.mask.cpu().numpy())
        self.marker = Marker(self.renderer.kind, self.renderer.resolution) if self.config.watermark else None
        with behind(write, AHEAD) as put:
            for first, frames in ahead(self._batches(start, end, folder), AHEAD):
                put(self._draw(first, frames, drawn))

    def _batches(self, start: int, end: int, folder: Path) -> Iterator[tuple[int, list[np.ndarray]]]:
        frames = self.reference.feed.play(self.plan.order[start:end], folder)
        for first in range(start, end, self.config.batch):
            with self.clock("read"):
                batch = [frame for _, frame in zip(range(min(self.config.batch, end - first)), frames, strict=False)]
            yield first, batch

    def _draw(self, first: int, frames: list[np.ndarray], drawn: dict[int, np.ndarray] | None) -> Drawn:
        outputs = np.arange(first, first + len(frames))
        places = np.flatnonzero(self.plan.presence[outputs] > 0)
        if not len(places):
            return Drawn(frames, first, places)
        renderer, chosen = self.renderer, outputs[places]
        crops, whole = self._encode([frames[i] for i in places], chosen)
        self.occlusion.look(crops, chosen)
        if drawn is None:
            z_r, lost = self.references(chosen)
            condition = self.condition(renderer.crop(whole), z_r, chosen)
            with self.clock("sample"):
                z = renderer.generate(self.noise(chosen), condition, self.sampling)
        else:
            z = torch.from_numpy(np.stack([drawn[int(k)] for k in chosen])).to(whole)
            lost = self.references.lost(chosen) if self.lips else None  # else a frame is drawn, and has no detail of a reference
        with self.clock("decode"):
            made = renderer.decode(whole, z, lost)
        return Drawn(frames, first, places, crops, made)

    def _encode(self, frames: list[np.ndarray], outputs: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Canonical crops (B, R, R, 3) u8 of frames that show output frames, and the latents of their views, mouth hidden."""
        align = self.reference.track.align[self.plan.order[outputs]]
        with self.clock("crop"):
            crops = np.stack([crop(f, m, self.renderer.resolution) for f, m in zip(frames, align, strict=True)])
        with self.clock("encode latents"):
            return crops, self.renderer.encode_masked(self.renderer.pictures(crops))

    def _blend(self, batch: Drawn) -> list[np.ndarray]:
        """The frames with their mouths."""
        out = list(batch.frames)
        if not len(batch.places):
            return out
        with self.clock("paste"):
            made = match_colours(batch.made, batch.crops, self.seam) if self.config.match_colours else batch.made
            for k, i in enumerate(batch.places):
                output = batch.first + int(i)
                align = self.reference.track.align[self.plan.order[output]]
                detail = detail_share(made[k], batch.crops[k]) if self.config.keep_detail else None
                alpha = self._shown(output)
                out[i] = paste(batch.frames[i], made[k], align, alpha, detail)
                if self.marker:
                    mixed = batch.crops[k] + alpha[..., None] * (made[k].astype(np.float32) - batch.crops[k])
                    mark = self.marker(mixed, scale_of(align) * SIDE, float(output / self.reference.feed.fps))
                    shade(out[i], mark * self.plan.presence[output], align)
        return out

    # -- one frame after the other (paper 3.3)

    def progress(self, segments: list[tuple[int, int]], folder: Path) -> dict[int, np.ndarray]:
        """Window latents (C, h, w) f32 of every drawn frame of the segments, each frame seeing the one before it as reference.

        The segments are independent: they are sampled side by side, one frame of each in a batch. No frame is decoded in
        between: the generated latent itself is the next reference.
        """
        masked = [self._masked(a, b, folder) for a, b in segments]
        found: dict[int, np.ndarray] = {}
        before: list[tuple[int, Tensor] | None] = [None] * len(segments)
        for step in range(max(b - a for a, b in segments)):
            lanes = [i for i, (a, _) in enumerate(segments) if a + step in masked[i]]
            if not lanes:
                continue
            outputs = np.array([segments[i][0] + step for i in lanes])
            references = self._following([before[i] for i in lanes], outputs)
            windows = torch.stack([masked[i][int(k)] for i, k in zip(lanes, outputs, strict=True)]).to(self.renderer.device)
            condition = self.condition(windows, references, outputs)
            with self.clock("sample"):
                z = self.renderer.generate(self.noise(outputs), condition, self.sampling)
            for i, k, one in zip(lanes, outputs, z, strict=True):
                before[i] = int(k), one
                found[int(k)] = one.float().cpu().numpy()
        return found

    def _masked(self, start: int, end: int, folder: Path) -> dict[int, Tensor]:
        """z_m of the drawn frames of a segment."""
        found: dict[int, Tensor] = {}
        for first, frames in ahead(self._batches(start, end, folder), AHEAD):
            outputs = np.arange(first, first + len(frames))
            places = np.flatnonzero(self.plan.presence[outputs] > 0)
            if len(places):
                _, whole = self._encode([frames[i] for i in places], outputs[places])
                found |= zip((int(k) for k in outputs[places]), self.renderer.crop(whole).cpu(), strict=True)
        return found

    def _following(self, before: list[tuple[int, Tensor] | None], outputs: np.ndarray) -> Tensor:
        """z_r (B, C, h, w) of output frames, made from what was drawn before each, where that shows the same shot."""
        shots = self.references.shot
        follows = np.array([b is not None and b[0] == k - 1 and shots[b[0]] == shots[k] for b, k in zip(before, outputs, strict=True)])
        asked = outputs if self.lips else outputs[~follows]
        found = dict(zip(asked.tolist(), self.references(asked)[0], strict=True)) if len(asked) else {}
        for last, goes_on, k in zip(before, follows, outputs.tolist(), strict=True):
            if last and goes_on:
                found[k] = self.references.follow(*last, k, found[k]) if self.lips else last[1]
        return torch.stack([found[k] for k in outputs.tolist()])


def _normal(seed: int, number: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, number])).standard_normal(shape, np.float32)
