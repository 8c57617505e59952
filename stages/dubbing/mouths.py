"""The mouths that are shown: for each output frame those of other frames of the film, turned to its pose and given its lips.

The film's frame that a mouth is taken from changes now and then; around such a change both are mixed for a moment, turned
alike, so that teeth do not jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from stages.dubbing.lips import Lips
from stages.dubbing.plan import Plan
from stages.dubbing.reference import Reference
from stages.faces import choose_references, condition_points, crop, inside, lip_shape, mouth_points, moved_mouth, turned, turning

if TYPE_CHECKING:
    from torch import Tensor

    from stages.diffusion.render import Renderer
    from stages.dubbing.job import Clock

ReferenceKind = Literal["matched", "fixed", "progressive"]
AWAY_SECONDS = 1.0
"""How far from a frame its reference lies at least: what its own mouth does must not be copied."""
LONG = 200
"""Frames of a film for each that is wanted from which on jumping to them is quicker than reading all."""
MIXED_SECONDS = 0.04
"""How long before and after a change of reference both are shown (a frame on either side at 25 fps)."""
CARRIED = 0.5
"""Share of the frame drawn before in the reference of a frame that follows it, where lips are told."""

Key = tuple[tuple[tuple[int, float], ...], int, int]
"""What an output frame's reference depends on: (source frame, share) of each that is mixed, the source frame whose pose it takes,
and the output frame of its lips (0 where no lips are told)."""


class Mouths:
    """References of output frames."""

    def __init__(
        self, kind: ReferenceKind, renderer: Renderer, reference: Reference, plan: Plan, lips: Lips | None, clock: Clock
    ):
        self.kind, self.renderer, self.reference, self.plan, self.lips, self.clock = kind, renderer, reference, plan, lips, clock
        place = reference.track.align, reference.track.landmarks
        self.as_it_is = kind == "fixed" and not lips  # the release's: no model with lips was trained to make a mouth speak from that
        self.points = condition_points(*place)  # (T, 39, 2)
        self.mouths = mouth_points(*place)  # (T, 25, 2)
        self.shapes = lip_shape(*place)  # (T, 4)
        self.shot = reference.track.shot[plan.order]  # of each output frame
        self.chosen = self._choose()
        self.shown = self._crops(np.unique(self.chosen))
        self._details: dict[int, np.ndarray] = {}
        self._known: dict[Key, tuple[Tensor, Tensor]] = {}

    def __call__(self, outputs: np.ndarray) -> tuple[Tensor, Tensor]:
        """z_r (B, C, h, w) of output frames, and what it does not hold (B, 3, H, W)."""
        wanted = [self._key(int(output)) for output in outputs]
        known = {key: self._known[key] for key in wanted if key in self._known}
        if fresh := [key for key in dict.fromkeys(wanted) if key not in known]:
            mixed = [self._mixed(*key) for key in fresh]
            pictures, lost = zip(*mixed, strict=True)
            with self.clock("encode latents"):
                z = self.renderer.crop(self.renderer.encode(self.renderer.pictures(np.stack(pictures))))
            known |= zip(fresh, zip(z, self._rest(lost), strict=True), strict=True)
        self._known = known
        return torch.stack([known[key][0] for key in wanted]), torch.stack([known[key][1] for key in wanted])

    def lost(self, outputs: np.ndarray) -> Tensor:
        """What the latents of output frames' references do not hold (B, 3, H, W), where those are not needed again."""
        return self._rest([self._mixed(*self._key(int(output)))[1] for output in outputs])

    def follow(self, before: int, drawn: Tensor, output: int, own: Tensor) -> Tensor:
        """z_r (C, h, w) of an output frame that follows the frame `before`, of which `drawn` (C, h, w) was drawn (paper 3.3), by a
        model that is told lips.

        What was drawn is bent to this frame's pose and lips, as every reference is, and the frame's `own` reference (C, h, w) has
        a share in it: else whatever a model adds to its own drawing would be added again and again.
        """
        assert self.lips
        shown, source, wanted = self.chosen[before], self.plan.order[before], self.plan.order[output]
        mouth = moved_mouth(self.points[shown], self.points[source], self.mouths[shown], self.lips.shapes[before])
        field = turning(self.renderer.resolution, self.points[source], self.points[wanted], mouth, self.lips.shapes[output])
        return CARRIED * self.renderer.turned(drawn[None], field)[0] + (1 - CARRIED) * own

    def _choose(self) -> np.ndarray:
        """The reference frame of each output frame: (T,) i64."""
        usable, order, fps = self.reference.usable, self.plan.order, self.reference.feed.fps
        if self.kind != "fixed":
            wanted = self.lips.shapes if self.lips else None
            return choose_references(self.points, usable, round(AWAY_SECONDS * fps), self.shapes, order, wanted)
        # one for all, its mouth more open than most, so that teeth may show
        frames = np.unique(order[self.plan.presence > 0])
        best = frames[np.argsort(self.shapes[frames, 0], kind="stable")[int(0.7 * (len(frames) - 1))]]
        return np.full(len(order), best)

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

    def _key(self, output: int) -> Key:
        if self.as_it_is:
            own = int(self.chosen[output])
            return ((own, 1.0),), own, 0
        shares = mix(self.chosen, self.shot, output, round(MIXED_SECONDS * self.reference.feed.fps))
        return shares, int(self.plan.order[output]), output if self.lips else 0

    def _mixed(self, shares: tuple[tuple[int, float], ...], source: int, output: int) -> tuple[np.ndarray, np.ndarray]:
        """A reference (R, R, 3) u8 and what the first stage loses of it (R, R, 3) f32."""
        pairs = [self._turned(own, source, output) for own, _ in shares]
        if len(pairs) == 1:
            return pairs[0]
        weights = [share for _, share in shares]
        picture, lost = (sum(w * np.float32(a) for w, a in zip(weights, arrays, strict=True)) for arrays in zip(*pairs, strict=True))
        return np.rint(picture).astype(np.uint8), lost

    def _turned(self, own: int, source: int, output: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of source frame `own` alone, as it is warped to show source frame `source` with the lips of `output`."""
        shown, detail = self.shown[own], self._detail(own)
        if self.as_it_is or (own == source and not self.lips):
            return shown, detail
        with self.clock("crop"):
            wanted = self.lips.shapes[output] if self.lips else None
            lips = (self.mouths[own], wanted) if self.lips else ()
            field = turning(self.renderer.resolution, self.points[own], self.points[source], *lips)
            picture, lost = turned(shown, field), turned(detail, field)
            if wanted is not None and (share := inside.share(self.shapes[own], wanted)):
                mouth = moved_mouth(self.points[own], self.points[source], self.mouths[own], wanted)
                picture, painted = inside.paint(picture, mouth, wanted, inside.skin(shown), share, inside.load_inside())
                lost = lost * (1 - painted[..., None])
            return picture, lost

    def _rest(self, lost: Sequence[np.ndarray]) -> Tensor:
        """Pictures (R, R, 3) f32 of what is lost, as views (B, 3, H, W) on the device."""
        return torch.from_numpy(np.stack(lost)[:, *self.renderer.view]).permute(0, 3, 1, 2).to(self.renderer.device)

    def _detail(self, own: int) -> np.ndarray:
        """What the first stage loses of a source frame that others refer to: (R, R, 3) f32, zeros around the view."""
        if own not in self._details:
            with self.clock("decode"):
                x = self.renderer.pictures(self.shown[own][None])
                lost = np.zeros(self.shown[own].shape, np.float32)
                lost[self.renderer.view] = self.renderer.lost(x, self.renderer.encode(x))[0].permute(1, 2, 0).cpu().numpy()
                self._details[own] = lost
        return self._details[own]


def mix(chosen: np.ndarray, shot: np.ndarray, output: int, around: int) -> tuple[tuple[int, float], ...]:
    """Which of the frames `chosen` (T,) one output frame shows, and how much of each: its own most, those of up to `around` frames
    before and after it in the same `shot` (T,) less, the farther the less."""
    shares: dict[int, float] = {}
    for offset in range(-around, around + 1):
        near = min(max(output + offset, 0), len(chosen) - 1)
        own = int(chosen[near if shot[near] == shot[output] else output])
        shares[own] = shares.get(own, 0.0) + (around + 1 - abs(offset)) / (around + 1) ** 2
    return tuple(sorted(shares.items()))
