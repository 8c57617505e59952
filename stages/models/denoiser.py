"""The conditional denoiser M(z_t, t, C) (paper 3.2, eq. 3): UNet over [z_t; z_m; z_r] with the context C_l."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.models.condition import ConditionEncoder, ContextKind, LipNet

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""What the network returns; diffusers' own names."""
CONDITIONS = "almr"
"""The condition set of paper 3.2: audio, landmarks, masked frame, reference frame."""


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Shape of a denoiser and the meaning of its output: all that is needed to rebuild it."""

    latent_channels: int
    audio_features: int
    """F of the features that it was trained on."""
    widths: tuple[int, ...]
    layers: int
    attention: tuple[bool, ...]
    """Which levels attend to the context (and to themselves)."""
    head_width: int = 32
    context: ContextKind = "tokens"
    context_width: int = 128
    audio_filter: bool = True
    global_condition: bool = True
    """Add the smoothed audio and the landmarks (the first two context tokens) to the time embedding as well."""
    prediction: Prediction = "v_prediction"
    groups: int = 32
    residual: bool = False
    """z_t is the noised difference to the reference's latent, brought to unit size: where nothing is known better, the reference
    is shown, and the schedule's noise is as strong beside the difference as it would be beside a picture."""
    lips: int = 0
    """Numbers of the lips' shape that the sound is first turned into (faces.lips); 0: the pictures' errors alone teach to listen."""
    conditions: str = CONDITIONS
    """Which conditions are heard, by their letters; the others are zeros (the rows of the paper's ablation, table 2)."""

    def __post_init__(self) -> None:
        heard = self.conditions
        if not heard or set(heard) - set(CONDITIONS) or len(set(heard)) < len(heard):
            raise UsageError(f"--conditions {','.join(heard)}: must be some of a (audio), l (landmarks), m (masked), r (reference)")
        if self.residual and "r" not in heard:
            raise UsageError("--target difference: counts from the reference frame, so --conditions must hold r")
        if self.lips and self.context == "single":
            raise UsageError("--lips: a token of its own, so not with --context single")
        if self.context == "single" and self.context_width != 128:
            raise UsageError("--context single is the paper's [a; l] of 64 + 64: context_width must be 128")


# name         widths                 layers attention                    context   global prediction residual lips groups
DENOISERS = {
    "tiny": ((32, 64, 96), 1, (False, True, True), "tokens", True, "sample", True, 4, 16),
    "compact": ((64, 96, 128), 1, (False, True, True), "tokens", True, "sample", True, 4, 32),  # by tests/bench/denoisers.py
    "paper": ((256, 512, 768, 1024), 2, (False, True, True, True), "single", False, "epsilon", False, 0, 32),
}


def denoiser_config(preset: str, *, latent_channels: int, audio_features: int, **changes: Any) -> DenoiserConfig:
    """A preset's denoiser with some fields changed."""
    widths, layers, attention, context, global_condition, prediction, residual, lips, groups = DENOISERS[preset]
    fields: dict[str, Any] = dict(
        widths=widths, layers=layers, attention=attention, context=context, global_condition=global_condition,
        prediction=prediction, residual=residual, lips=lips, groups=groups,
    )  # fmt: skip
    return DenoiserConfig(latent_channels=latent_channels, audio_features=audio_features, **(fields | changes))


@dataclass
class Condition:
    """The condition set C = {a, z_r, z_m, l} of a batch."""

    masked: Tensor
    """z_m: (B, C, h, w) latent of the masked frame."""
    reference: Tensor
    """z_r: (B, C, h, w) latent of the reference frame."""
    audio: Tensor
    """(B, 8, 16, F) windows of the neighbouring frames."""
    landmarks: Tensor
    """(B, 39, 2) points in -1..1 of the crop."""
    lips: Tensor | None = None
    """(B, L) the lips' shapes to draw (faces.lips); None only for models without."""

    def to(self, *args: Any, **kwargs: Any) -> Condition:
        return Condition(**{k: None if v is None else v.to(*args, **kwargs) for k, v in vars(self).items()})

    def at(self, which: Tensor) -> Condition:
        """Those samples of the batch."""
        return Condition(**{k: None if v is None else v[which] for k, v in vars(self).items()})


class Denoiser(nn.Module):
    """forward(z_t (B, C, h, w), t (B,), Condition) -> (B, C, h, w): noise, velocity or z_0 as config.prediction says."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.config = config
        down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention)
        up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention))
        self.condition = ConditionEncoder(
            config.audio_features, config.context, config.context_width, config.audio_filter, config.lips
        )
        self.lips = LipNet(config.audio_features, config.lips) if config.lips else None
        if config.lips:
            self.register_buffer("lip_habits", torch.tensor([0.0, 1.0, 0.0])[:, None].repeat(1, config.lips))
        extra = {}
        if config.global_condition:
            tokens = self.labels = 1 if config.context == "single" else 2 + bool(config.lips)
            extra = dict(class_embed_type="projection", projection_class_embeddings_input_dim=tokens * config.context_width)
        if config.residual:
            self.register_buffer("residual_scale", torch.ones(()))
        self.register_buffer("audio_mean", torch.zeros(config.audio_features))
        self.register_buffer("audio_std", torch.ones(config.audio_features))
        self.unet = UNet2DConditionModel(
            in_channels=3 * config.latent_channels,
            out_channels=config.latent_channels,
            block_out_channels=config.widths,
            layers_per_block=config.layers,
            down_block_types=down,
            up_block_types=up,
            mid_block_type="UNetMidBlock2DCrossAttn",
            cross_attention_dim=config.context_width,
            # diffusers calls the number of heads `attention_head_dim` here
            attention_head_dim=tuple(w // config.head_width for w in config.widths),
            norm_num_groups=config.groups,
            **extra,
        )

    def forward(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        heard = self.config.conditions
        masked, reference = condition.masked * ("m" in heard), condition.reference * ("r" in heard)
        x = torch.cat([z_t, masked, reference], dim=1)  # (B, 3C, h, w)
        audio = (condition.audio - self.audio_mean) / self.audio_std * ("a" in heard)  # (B, 8, 16, F)
        shape = None if self.lips is None else (condition.lips - self.lip_habits[0]) / self.lip_habits[1]
        context = self.condition(audio, condition.landmarks * ("l" in heard), shape)  # (B, N, D)
        labels = context[:, : self.labels].flatten(1) if self.config.global_condition else None
        return self.unet(x, t, encoder_hidden_states=context, class_labels=labels).sample

    def listen(self, audio: Tensor) -> Tensor:
        """Windows (B, 8, 16, F) -> the lips' shapes (B, L), in deviations from a person's mean (faces.lips.habits)."""
        return self.lips((audio - self.audio_mean) / self.audio_std)

    def drawn(self, latent: Tensor, condition: Condition) -> Tensor:
        """z_0, which is drawn, of first-stage latents; both (B, C, h, w)."""
        return (latent - condition.reference) / self.residual_scale if self.config.residual else latent

    def latent(self, drawn: Tensor, condition: Condition) -> Tensor:
        """The inverse of `drawn`."""
        return drawn * self.residual_scale + condition.reference if self.config.residual else drawn

    def set_audio_normalisation(self, mean: Tensor, std: Tensor) -> None:
        """mean, std: (F,) of the training clips' features."""
        self.audio_mean.copy_(mean)
        self.audio_std.copy_(std)

    def config_dict(self) -> dict[str, Any]:
        return asdict(self.config)
