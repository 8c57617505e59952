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
from stages.dubbing.occlusion import Occlusion
from stages.dubbing.plan import Plan
from stages.dubbing.reference import Reference
from stages.dubbing.speech import Speech
from stages.dubbing.watermark import SIDE, Marker
from stages.faces import (
    choose_references,
    condition_points,
    crop,
    inside,
    lip_shape,
    mouth_points,
    moved_mouth,
    paste,
    pasted,
    reaches,
    scale_of,
    shade,
    turned,
    turning,
    within,
)
from stages.faces.blend import detail_share, match_colours, seam
from stages.faces.mask import FEATHER
from stages.models.denoiser import Condition
from stages.runtime import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from stages.diffusion.render import Renderer

NoiseKind = Literal["fixed", "shared", "free"]
ReferenceKind = Literal["matched", "fixed", "progressive"]
AWAY_SECONDS = 1.0
"""How far from a frame its reference lies at least: what its own mouth does must not be copied."""
LONG = 200
"""Frames of a film for each that is wanted from which on jumping to them is quicker than reading all."""
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
        self.points = condition_points(reference.track.align, reference.track.landmarks)  # (T, 39, 2)
        self.mouths = mouth_points(reference.track.align, reference.track.landmarks)  # (T, 25, 2)
        self.shapes = lip_shape(reference.track.align, reference.track.landmarks)  # (T, 4)
        with clock("listen"):
            self.lips = Lips(renderer.denoiser, reference, speech, config.lip_gain) if renderer.denoiser.lips else None
        self.chosen = self._choose()
        self.shown = self._crops(np.unique(self.chosen))
        self._details: dict[int, np.ndarray] = {}
        self._known: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}
        self.alpha = pasted(renderer.resolution, renderer.kind, config.feather)  # (R, R) f32
        self.reach = self._reach() if renderer.kind != "paper" else None
        self.seam = seam(renderer.mask.cpu().numpy(), renderer.view)
        self.sampling = SampleConfig(**{f.name: getattr(config, f.name) for f in fields(SampleConfig)})

    # -- what every frame shares

    def _choose(self) -> np.ndarray:
        """The reference frame of each output frame: (T,) i64."""
        shapes, usable, order = self.shapes, self.reference.usable, self.plan.order
        if self.config.reference != "fixed":
            gap = round(AWAY_SECONDS * self.reference.feed.fps)
            return choose_references(self.points, usable, gap, shapes, order, self.lips.shapes if self.lips else None)
        # one for all, its mouth more open than most, so that teeth may show
        frames = np.unique(order[self.plan.presence > 0])
        best = frames[np.argsort(shapes[frames, 0], kind="stable")[int(0.7 * (len(frames) - 1))]]
        return np.full(len(order), best)

    def _reach(self) -> np.ndarray:
        """How far the face reaches in each output frame: (T, A) f32."""
        track, order = self.reference.track, self.plan.order
        lower = self.lips.shapes[:, 3] - self.shapes[order, 3] if self.lips else np.zeros(len(order), np.float32)
        return reaches(track.align, track.landmarks, self.points, self.reference.usable, order, lower)

    def _shown(self, output: int) -> np.ndarray:
        """How far the mouth of an output frame replaces the source: (R, R) f32."""
        alpha = self.alpha * self.plan.presence[output]
        return alpha if self.reach is None else alpha * within(self.reach[output], len(alpha))

    def _crops(self, frames: np.ndarray) -> dict[int, np.ndarray]:
        """Canonical crops (R, R, 3) u8 of source frames."""
        wanted, feed = set(frames.tolist()), self.reference.feed
        with self.clock("read"):
            if self.reference.count > LONG * len(wanted):
                found = {k: next(iter(feed.play(np.array([k]), Path()))) for k in sorted(wanted)}
                return {k: crop(f, self.reference.track.align[k], self.renderer.resolution) for k, f in found.items()}
            crops = {}
            for k, frame in enumerate(feed.once()):
                if k in wanted:
                    crops[k] = crop(frame, self.reference.track.align[k], self.renderer.resolution)
                if len(crops) == len(wanted):
                    break
            return crops

    def references(self, outputs: np.ndarray) -> tuple[Tensor, Tensor]:
        """z_r (B, C, h, w) of output frames, and what it does not hold (B, 3, H, W): of the frame chosen for each, turned to its
        pose and lips unless one serves all."""
        wanted = [self._shown_as(int(output)) for output in outputs]
        known = {key: self._known[key] for key in wanted if key in self._known}
        if fresh := [key for key in dict.fromkeys(wanted) if key not in known]:
            details = [self._detail(own) for own, _, _ in fresh]
            with self.clock("crop"):
                turned = [self._turned(key, detail) for key, detail in zip(fresh, details, strict=True)]
                pictures, lost = (np.stack(arrays) for arrays in zip(*turned, strict=True))
            with self.clock("encode latents"):
                z = self.renderer.crop(self.renderer.encode(self.renderer.pictures(pictures)))
            rest = torch.from_numpy(lost[:, *self.renderer.view]).permute(0, 3, 1, 2).to(z.device)
            known |= zip(fresh, zip(z, rest, strict=True), strict=True)
        self._known = known
        return torch.stack([known[key][0] for key in wanted]), torch.stack([known[key][1] for key in wanted])

    def _shown_as(self, output: int) -> tuple[int, int, int]:
        """What an output frame's reference depends on: (source frame, source frame whose pose it takes, output frame of its lips)."""
        own = int(self.chosen[output])
        return (own, own, 0) if self.config.reference == "fixed" else (own, int(self.plan.order[output]), output if self.lips else 0)

    def _turned(self, key: tuple[int, int, int], detail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A reference (R, R, 3) u8 as `key` shows it, and what the first stage loses of it (R, R, 3) f32, of `detail` before."""
        (own, source, output), field = key, self._turning(*key)
        picture, lost = _looked_up(self.shown[own], field), _looked_up(detail, field)
        if field is None or not self.lips:
            return picture, lost
        wanted = self.lips.shapes[output]
        if share := inside.share(self.shapes[own], wanted):
            mouth = moved_mouth(self.points[own], self.points[source], self.mouths[own], wanted)
            picture, painted = inside.paint(picture, mouth, wanted, inside.skin(self.shown[own]), share, inside.load_inside())
            lost = lost * (1 - painted[..., None])
        return picture, lost

    def _turning(self, own: int, source: int, output: int) -> np.ndarray | None:
        """How source frame `own` is warped to be the reference of output frame `output`, which shows source frame `source`."""
        if self.config.reference == "fixed" or (own == source and not self.lips):
            return None
        lips = (self.mouths[own], self.lips.shapes[output]) if self.lips else ()
        return turning(self.renderer.resolution, self.points[own], self.points[source], *lips)

    def _detail(self, own: int) -> np.ndarray:
        """What the first stage loses of a source frame that others refer to: (R, R, 3) f32, zeros around the view."""
        if own not in self._details:
            with self.clock("decode"):
                x = self.renderer.pictures(self.shown[own][None])
                lost = np.zeros(self.shown[own].shape, np.float32)
                lost[self.renderer.view] = self.renderer.lost(x, self.renderer.encode(x))[0].permute(1, 2, 0).cpu().numpy()
                self._details[own] = lost
        return self._details[own]

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
            z, lost = torch.from_numpy(np.stack([drawn[int(k)] for k in chosen])).to(whole), None
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
            references = [self._previous(before[i], int(k)) for i, k in zip(lanes, outputs, strict=True)]
            windows = torch.stack([masked[i][int(k)] for i, k in zip(lanes, outputs, strict=True)]).to(self.renderer.device)
            condition = self.condition(windows, torch.cat(references), outputs)
            with self.clock("sample"):
                z = self.renderer.generate(self.noise(outputs), condition, self.sampling)
            for i, k, one in zip(lanes, outputs, z, strict=True):
                before[i] = int(k), one[None]
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

    def _previous(self, before: tuple[int, Tensor] | None, output: int) -> Tensor:
        """z_r of an output frame: the frame drawn before it, where that shows the same shot."""
        if before is not None and before[0] == output - 1:
            shot = self.reference.track.shot[self.plan.order[[output - 1, output]]]
            if shot[0] == shot[1]:
                return before[1]
        return self.references(np.array([output]))[0]


def _looked_up(picture: np.ndarray, field: np.ndarray | None) -> np.ndarray:
    return picture if field is None else turned(picture, field)


def _normal(seed: int, number: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, number])).standard_normal(shape, np.float32)
