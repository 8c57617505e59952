"""What train optimises: the conditional denoiser on cached latents (paper eq. 3), references drawn per sample."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.artifacts import Artifact, Clip
from stages.diffusion.loss import loss as diffusion_loss
from stages.diffusion.loss import weighted_error
from stages.diffusion.render import Renderer, SampleConfig
from stages.faces import LIPS, condition_points, habits, lip_shape
from stages.models.denoiser import Condition, Denoiser
from stages.training.augment import look
from stages.training.crops import ClipSet
from stages.training.latents import TOLD_NOISE, Turn, far_frame
from stages.training.order import generator

PREVIOUS_NOISE = 0.3
"""Share of noise in a previous-frame reference: a plain one would be copied (facts/field.md, SyncDiff's bottleneck)."""
VALIDATION_FRAMES = 24
SCALE_SAMPLES = 256
SHEET_FRAMES = 6


Place = tuple[int, int, int]
"""A frame: clip, frame of the clip, look."""


@dataclass
class Batch:
    """One training batch."""

    z0: Tensor
    """(B, C, h, w), as Denoiser.drawn has it."""
    noise: Tensor
    t: Tensor
    """(B,) i64."""
    condition: Condition
    lips: Tensor | None = None
    """(B, L) true shapes, in deviations from the person's habits."""
    at_once: Tensor | None = None
    """(B,) bool: samples that see noise alone and must draw z_0 from it; None: no sample does."""
    pictures: tuple[Tensor, Tensor, Tensor] | None = None
    """Of the windows: the true pixels (B, 3, H, W) in -1..1, those of the references, and the references' latents."""


class Data:
    """The memory-mapped arrays of a set of clips."""

    def __init__(self, clips: list[Clip], latents: Artifact, features: Artifact):
        ids = [c.id for c in clips]
        self.looks = latents.config["looks"]
        self.clean = [latents.clips[i].array("clean.npy") for i in ids]  # each (looks, T, C, h, w) f16
        self.masked = [latents.clips[i].array("masked.npy") for i in ids]
        turned = latents.config["references"] > 0
        self.reference = [latents.clips[i].array("reference.npy") for i in ids] if turned else []  # (looks, K, T, C, h, w)
        self.told = [latents.clips[i].array("lips.npy") for i in ids] if latents.config["lips"] else []  # (looks, K, T, 4)
        self.audio = [features.clips[i].array("audio.npy") for i in ids]  # (T, 16, F) f32
        self.neighbours = [features.clips[i].array("neighbours.npy") for i in ids]  # (T, 8) i32
        self.crops = [c.array("crops.npy") for c in clips]
        self.turns = [Turn(c, latents.config["lips"]) for c in clips]
        self.ids = [c.id for c in clips]
        self.segment = [np.asarray(c.array("segment.npy")) for c in clips]
        self.landmarks = []  # each (looks, T, 39, 2)
        self.lips: list[np.ndarray] = []  # each (T, 4); a look changes them little
        for clip in clips:
            points = condition_points(np.asarray(clip.array("align.npy")), np.asarray(clip.array("landmarks.npy")))
            self.lips.append(lip_shape(np.asarray(clip.array("align.npy")), np.asarray(clip.array("landmarks.npy"))))
            others = (look(clip.id, number) for number in range(self.looks))
            self.landmarks.append(np.stack([other.points(points) if other else points for other in others]))
        self.habits = [habits(shapes) for shapes in self.lips]  # each (3, 4)

    def release(self, clips: set[int]) -> None:
        """Hand back the pages of clips that were read: the system keeps them as long as it has room, our memory stays flat."""
        for arrays in (self.clean, self.masked, self.reference, self.audio, self.crops):
            for clip in clips if arrays else ():
                arrays[clip]._mmap.madvise(mmap.MADV_DONTNEED)

    def windows(self, clip: int, frame: int) -> np.ndarray:
        """(8, 16, F) f32: the audio windows of a frame's neighbours, zeros where there is none."""
        return gather_windows(self.audio[clip], self.neighbours[clip][frame])


def gather_windows(audio: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Windows (T, S, F) at neighbours (..., 8) with -1 for none: (..., 8, S, F) f32."""
    picked = np.asarray(audio[np.maximum(neighbours, 0)], np.float32)
    return picked * (neighbours >= 0)[..., None, None]


class DenoisingTask:
    """A training.loop.Task. `config` is stages.train.Config, resolved; `perceptual` is needed when its pixel_weight is not 0."""

    def __init__(
        self,
        model: Denoiser,
        renderer: Renderer,
        train: ClipSet,
        held_out: ClipSet,
        latents: Artifact,
        features: Artifact,
        config: Any,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        self.model, self.renderer, self.config, self.perceptual = model, renderer, config, perceptual
        self.criterion = ("loss", -1)
        assert perceptual or not config.pixel_weight
        self.train, self.held_out = train, held_out
        self.data, self.held_out_data = (Data(s.clips, latents, features) for s in (train, held_out))
        self.schedule = renderer.schedule
        # What is drawn as a difference to a reference is shown as one: on top of pixels that no latent holds.
        self.judges_pictures = bool(config.pixel_weight and model.config.residual and not config.tint)
        level = F.avg_pool2d(renderer.hidden[None, None], renderer.first_stage.factor)
        level = 1 + (config.mouth_weight - 1) * renderer.crop(level)[0, 0]
        channels = renderer.first_stage.std ** config.channel_power
        self.weight = level / level.mean() * (channels / channels.mean())[:, None, None]  # (C, h, w)

    # -- drawing

    def batch(self, step: int, indices: range, device: torch.device) -> Batch:
        rngs = [generator(self.config.seed, step, i) for i in indices]
        places = [(*self.train.draw(rng), int(rng.integers(self.data.looks))) for rng in rngs]
        drawn = [self._reference(rng, self.data, *place) for rng, place in zip(rngs, places, strict=True)]
        references, told, shown = zip(*drawn, strict=True)
        t = torch.tensor([int(rng.integers(self.schedule.steps)) for rng in rngs])
        noise = np.stack([rng.standard_normal(self.renderer.shape, np.float32) for rng in rngs])
        latents, condition = self._condition(self.data, places, references, told)
        lips = self._true_lips(places) if self.model.config.lips else None
        self.data.release({clip for clip, _, _ in places})
        if self.config.audio_noise:  # few voices must do for all
            off = [rng.standard_normal(condition.audio.shape[1:], np.float32) for rng in rngs]
            condition.audio += torch.from_numpy(np.stack(off)) * (self.config.audio_noise * self.model.audio_std.cpu())
        if self.config.audio_dropout:  # silenced samples hear the mean of all sound: what guidance leads away from
            deaf = torch.tensor([rng.random() < self.config.audio_dropout for rng in rngs])
            condition.audio[deaf] = self.model.audio_mean.cpu()
            lips = None if lips is None else torch.where(deaf[:, None], torch.zeros_like(lips), lips)
        if self.config.tint:
            latents = self._tinted(rngs, latents, condition)
        pictures = self._pictures(places, shown, device) if self.judges_pictures else None
        at_once = None
        if self.config.one_step:
            at_once = torch.tensor([rng.random() < self.config.one_step for rng in rngs])
            t[at_once] = self.schedule.steps - 1
        condition = condition.to(device)
        return Batch(
            z0=self.model.drawn(latents.to(device), condition),
            noise=torch.from_numpy(noise).to(device),
            t=t.to(device),
            condition=condition,
            lips=None if lips is None else lips.to(device),
            at_once=None if at_once is None else at_once.to(device),
            pictures=pictures,
        )

    def _tinted(self, rngs: list[np.random.Generator], latents: Tensor, condition: Condition) -> Tensor:
        """z_0, z_m and z_r of each sample with another scale and, for each channel, another offset."""
        drawn = [rng.standard_normal(1 + latents.shape[1], np.float32) * self.config.tint for rng in rngs]
        drawn = torch.from_numpy(np.stack(drawn))[..., None, None]
        scale, offset = drawn[:, :1].exp(), drawn[:, 1:]  # (B, 1, 1, 1), (B, C, 1, 1)
        condition.masked, condition.reference = condition.masked * scale + offset, condition.reference * scale + offset
        return latents * scale + offset

    def _true_lips(self, places: list[Place]) -> Tensor:
        """(B, L) in deviations from the person's mean."""
        data = self.data
        return torch.from_numpy(np.stack([(data.lips[c][f] - data.habits[c][0]) / data.habits[c][1] for c, f, _ in places]))

    def _pictures(self, places: list[Place], shown: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Batch.pictures: `shown` says of each reference which one it is, as _reference does."""
        data, renderer = self.data, self.renderer
        true, references, z = [], [], []
        for (clip, frame, number), k in zip(places, shown, strict=True):
            other = look(data.ids[clip], number)
            picture = data.turns[clip](frame, k, number)[0] if k >= 0 else data.crops[clip][~k]
            for found, crop in ((true, data.crops[clip][frame]), (references, picture)):
                found.append(other.crops(crop[None])[0] if other else crop)
            z.append(data.reference[clip][number][k, frame] if k >= 0 else data.clean[clip][number][~k])
        windows = [renderer.window_of(renderer.pictures(np.stack(crops))).to(device) for crops in (true, references)]
        return windows[0], windows[1], torch.from_numpy(np.stack(z).astype(np.float32)).to(device)

    def _reference(
        self, rng: np.random.Generator, data: Data, clip: int, frame: int, number: int
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """z_r (C, h, w) f32 for one sample, the lips (L,) that it is told to draw, and which reference it is: k for the k-th turned
        one, ~f for frame f as it is."""
        clean, segment = data.clean[clip][number], data.segment[clip]
        told = data.lips[clip][frame] + TOLD_NOISE * data.habits[clip][1] * rng.standard_normal(LIPS, np.float32)
        if rng.random() < self.config.previous_frame_share and frame > 0 and segment[frame - 1] == segment[frame]:
            noise = rng.standard_normal(clean.shape[1:], np.float32)
            keep = np.sqrt(1 - PREVIOUS_NOISE**2, dtype=np.float32)
            return clean[frame - 1].astype(np.float32) * keep + noise * np.float32(PREVIOUS_NOISE), told, ~(frame - 1)
        if self.config.reference == "fixed":
            rng = generator(self.config.seed, -1, clip, frame)  # one for good, as in the release
        if self.config.reference == "matched":
            turned = data.reference[clip][number]
            k = int(rng.integers(len(turned)))
            return turned[k, frame].astype(np.float32), data.told[clip][number, k, frame] if data.told else told, k
        far = far_frame(rng, len(clean), frame)
        return clean[far].astype(np.float32), told, ~far

    def _condition(
        self, data: Data, places: list[Place], references: Sequence[np.ndarray], told: Sequence[np.ndarray]
    ) -> tuple[Tensor, Condition]:
        """(first-stage latents of the frames, C)."""

        def stack(arrays: Sequence[Any]) -> Tensor:
            return torch.from_numpy(np.stack([np.asarray(a, np.float32) for a in arrays]))

        latents = stack([data.clean[c][n, f] for c, f, n in places])
        condition = Condition(
            masked=stack([data.masked[c][n, f] for c, f, n in places]),
            reference=stack(references),
            audio=stack([data.windows(c, f) for c, f, _ in places]),
            landmarks=stack([data.landmarks[c][n, f] for c, f, n in places]),
            lips=stack(told) if self.model.config.lips else None,
        )
        return latents, condition

    def measure_scale(self) -> float:
        """Root mean square of the difference between a frame's latents and its reference's, what Denoiser.residual_scale should be."""
        batch = self.batch(-1, range(SCALE_SAMPLES), next(self.model.parameters()).device)
        return float(batch.z0.square().mean().sqrt() * self.model.residual_scale)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float | Tensor]]:
        z_t = self._noised(batch)  # (B, C, h, w)
        output = model(z_t, batch.t, batch.condition)
        heard = self.model.listen(batch.condition.audio) if batch.lips is not None else None
        each = weighted_error(output, self.schedule.target(batch.z0, batch.noise, batch.t), self.weight)  # (B,)
        quarter = self.schedule.steps // 4
        figures = {}
        for q in range(4):  # losses per noise level
            inside = (batch.t >= q * quarter) & (batch.t < (q + 1) * quarter)
            if inside.any():
                figures[f"loss_t{q}"] = each.detach()[inside].mean()
        total = each.mean()
        if heard is not None:
            lips = (heard - batch.lips).square().mean()
            figures["lips"] = lips.detach()
            total = total + lips
        if not self.config.pixel_weight:
            return total, figures
        pixel = self._pixel_loss(output, z_t, batch)
        return total + self.config.pixel_weight * pixel, figures | {"pixel": pixel.detach()}

    def _noised(self, batch: Batch) -> Tensor:
        """z_t (B, C, h, w). The schedule's last step still holds a little of z_0, which sampling cannot know: noise alone there for
        the samples that count on it."""
        z_t = self.schedule.add_noise(batch.z0, batch.noise, batch.t)
        return z_t if batch.at_once is None else torch.where(batch.at_once[:, None, None, None], batch.noise, z_t)

    def _pixel_loss(self, output: Tensor, z_t: Tensor, batch: Batch) -> Tensor:
        """L1 + LPIPS between the window's pixels as `infer` will show them and the true ones, where little noise leaves a picture to
        judge: the prediction decoded, and on top what the first stage loses of the reference.

        Without pictures the true z_0 is decoded too, so that the decoder's own errors count for nothing. Mean over the whole
        batch, zeros for the samples with more noise.
        """
        _, sigma = self.schedule.coefficients(batch.t, z_t)  # (B, 1, 1, 1)
        clear = sigma.flatten() <= self.config.pixel_noise
        if batch.at_once is not None:
            clear = clear | batch.at_once
        if not clear.any():
            return output.sum() * 0  # every process must see every parameter
        z0, condition = self.schedule.clean(output[clear], z_t[clear], batch.t[clear]), batch.condition.at(clear)
        decode, latent = self.renderer.first_stage.decode, self.model.latent
        with torch.no_grad():
            if batch.pictures:
                truth, reference, z_reference = (x[clear] for x in batch.pictures)  # (b, 3, H, W) twice, (b, C, h, w)
                lost = reference - decode(z_reference)
            else:
                truth, lost = decode(latent(batch.z0[clear], condition)), 0.0
        made = decode(latent(z0.to(truth.dtype), condition)) + lost
        assert self.perceptual
        each = (made - truth).abs().mean(dim=(1, 2, 3)) + self.perceptual(made, truth)  # (b,)
        return each.sum() / len(clear)

    # -- looking

    def _held_out(self, number: int, device: torch.device) -> tuple[list[Place], Tensor, Condition]:
        places = [(c, f, 0) for c, f in self.held_out.spread(number)]
        clips = self.held_out_data
        references, told = zip(*(self._far(c, f) for c, f, _ in places), strict=True)
        latents, condition = self._condition(clips, places, references, told)
        condition = condition.to(device)
        return places, self.model.drawn(latents.to(device), condition), condition

    def _far(self, clip: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """z_r of a held-out frame, of the kind that training draws, and the lips to draw."""
        data = self.held_out_data
        if self.config.reference == "matched":
            return data.reference[clip][0, 0, frame], data.told[clip][0, 0, frame] if data.told else data.lips[clip][frame]
        return data.clean[clip][0, far_frame(generator(0, clip, frame), len(data.crops[clip]), frame)], data.lips[clip][frame]

    def validate(self, model: Denoiser, device: torch.device) -> dict[str, float]:
        """Held-out loss at fixed noise, and PSNR in dB inside the mask of sampled frames."""
        places, z0, condition = self._held_out(VALIDATION_FRAMES, device)
        rng = np.random.default_rng(0)
        t = torch.from_numpy(np.linspace(0, self.schedule.steps - 1, len(z0)).round().astype(np.int64)).to(device)
        noise = torch.from_numpy(rng.standard_normal(z0.shape, np.float32)).to(device)
        value = diffusion_loss(model, self.schedule, z0, noise, t, condition, self.weight).mean().item()
        truth, _, _, made = self._samples(model, device)
        inside = self.renderer.mask.cpu().numpy() > 0
        errors = [np.square(a[inside].astype(np.float64) - b[inside]).mean() for a, b in zip(truth, made, strict=True)]
        psnr = float(np.mean([10 * np.log10(255**2 / max(e, 1e-3)) for e in errors]))
        return {"loss": value, "mouth_psnr": psnr}

    def sheet(self, model: Denoiser, device: torch.device) -> np.ndarray:
        """Held-out frames: source | masked | reference | generated, one row each."""
        truth, masked, reference, made = self._samples(model, device)
        return np.concatenate([np.concatenate(list(row), axis=1) for row in (truth, masked, reference, made)], axis=0)

    def _samples(self, model: Denoiser, device: torch.device) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        places, _, condition = self._held_out(SHEET_FRAMES, device)
        data, renderer = self.held_out_data, self.renderer
        truth = np.stack([data.crops[c][f] for c, f, _ in places])
        reference = condition.reference.clone()
        shared = np.random.default_rng(0).standard_normal((1, *renderer.shape), np.float32)
        noise = torch.from_numpy(shared).to(device).expand(len(places), -1, -1, -1)
        before, renderer.denoiser = renderer.denoiser, model
        try:
            z = renderer.generate(noise, condition, SampleConfig(steps=1 if self.config.one_step > 0.5 else 10))
        finally:
            renderer.denoiser = before
        whole = renderer.encode_masked(renderer.pictures(truth))
        made = renderer.compose(truth, renderer.decode(whole, z))
        reference = renderer.compose(truth, renderer.decode(whole, reference))
        hidden = renderer.mask.cpu().numpy()[None, ..., None]
        return truth, (truth * (1 - hidden) + 127 * hidden).astype(np.uint8), reference, made


