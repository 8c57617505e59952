"""The first stage E_I, D_I (paper 3.2): images to latents and back. KL or VQ, built on diffusers' own classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.errors import ArtifactError, UsageError

FirstStageKind = Literal["kl", "vq"]


@dataclass(frozen=True, kw_only=True)
class FirstStageConfig:
    """Shape of a first stage; the downsampling factor is 2 ** (len(widths) - 1)."""

    kind: FirstStageKind
    widths: tuple[int, ...]
    """Channels at each resolution, finest first."""
    layers: int
    """Residual blocks at each resolution (the decoder has one more)."""
    latent_channels: int
    codes: int = 8192
    """VQ: entries of the codebook."""
    attention: bool = False
    """Self-attention in the middle block (LDM has it)."""
    groups: int = 32
    """Groups of GroupNorm."""

    @property
    def factor(self) -> int:
        return 2 ** (len(self.widths) - 1)


# name              kind   widths              layers C  codes  attention groups
FIRST_STAGES = {
    "tiny": ("kl", (16, 32, 64, 96), 1, 8, 0, False, 8),
    "compact": ("kl", (32, 64, 128, 160), 1, 8, 0, False, 8),
    "paper-256": ("vq", (128, 256, 512), 2, 3, 8192, True, 32),  # LDM vq-f4: 55,322,782 parameters
    "paper-512": ("vq", (128, 256, 256, 512), 2, 3, 16384, True, 32),  # f8 with 3 channels: 512 px to 64 x 64 x 3
}


def first_stage_config(preset: str, resolution: int) -> FirstStageConfig:
    """The first stage of a preset. Raises UsageError for `paper` at a resolution that the paper does not have."""
    name = f"paper-{resolution}" if preset == "paper" else preset
    if name not in FIRST_STAGES:
        raise UsageError(f"--preset paper: the paper has 256 and 512 px, not {resolution}")
    kind, widths, layers, channels, codes, attention, groups = FIRST_STAGES[name]
    return FirstStageConfig(
        kind=kind, widths=widths, layers=layers, latent_channels=channels, codes=codes, attention=attention, groups=groups
    )


class FirstStage(nn.Module):
    """encode: (B, 3, H, W) in -1..1 -> (B, C, h, w) of about zero mean and unit deviation; decode: the inverse.

    The latent is the mode of the posterior (KL) or the encoder's output before quantisation (VQ, as in the release);
    VQ quantises inside `decode`. The normalisation is measured by `train-vae` and stored with the weights.
    """

    def __init__(self, net: nn.Module, kind: FirstStageKind, config: dict[str, Any]):
        super().__init__()
        self.net, self.kind, self.config = net, kind, config
        channels = net.config.latent_channels
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    @property
    def factor(self) -> int:
        return 2 ** (len(self.net.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return self.net.config.latent_channels

    def encode(self, x: Tensor) -> Tensor:
        z = self.raw_encode(x)
        return (z - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, z: Tensor) -> Tensor:
        return self.raw_decode(z * self.std[:, None, None] + self.mean[:, None, None])

    def raw_encode(self, x: Tensor) -> Tensor:
        if self.kind == "kl":
            return self.net.encode(x).latent_dist.mode()
        return self.net.encode(x).latents

    def raw_decode(self, z: Tensor) -> Tensor:
        return self.net.decode(z).sample

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Training pass: (reconstruction (B, 3, H, W), regulariser ()): KL per element, or the codebook's loss."""
        if self.kind == "kl":
            posterior = self.net.encode(x).latent_dist
            z = posterior.mean if noise is None else posterior.mean + posterior.std * noise
            return self.net.decode(z).sample, posterior.kl().mean() / z[0].numel()
        out = self.net.decode(self.net.encode(x).latents)
        # diffusers returns no codebook loss when it is asked for nothing: zero then
        return out.sample, getattr(out, "commit_loss", None) or x.new_zeros(())

    def set_normalisation(self, mean: Tensor, std: Tensor) -> None:
        """mean, std: (C,) of raw latents."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(1e-6))


def build_first_stage(config: FirstStageConfig) -> FirstStage:
    """A freshly initialised first stage."""
    from diffusers import AutoencoderKL, VQModel

    depth = len(config.widths)
    shared = dict(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=config.widths,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        mid_block_add_attention=config.attention,
    )
    if config.kind == "kl":
        net = AutoencoderKL(**shared)
        # Start with a posterior of deviation 0.05 instead of 1: the decoder sees the picture from the first step on
        # (measured with `tiny`: 15 dB without, after 500 steps of 8 patches).
        with torch.no_grad():
            net.quant_conv.weight[config.latent_channels :].zero_()
            net.quant_conv.bias[config.latent_channels :] = -6.0
    else:
        net = VQModel(**shared, num_vq_embeddings=config.codes)
    return FirstStage(net, config.kind, asdict(config))


def rebuild_first_stage(config: dict[str, Any]) -> FirstStage:
    """The first stage that a vae artifact's config.json describes; weights are loaded by the caller."""
    from diffusers import AutoencoderKL, VQModel

    classes = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    net = dict(config["net"])
    cls = classes[net.pop("class")]
    return FirstStage(cls.from_config(net), config["first_stage"]["kind"], config["first_stage"])


def load_pretrained(source: str) -> FirstStage:
    """A first stage in diffusers form, by folder or hub id (CompVis/ldm-celebahq-256, stabilityai/sd-vae-ft-mse).

    Raises ArtifactError when it cannot be loaded.
    """
    from diffusers import AutoencoderKL, VQModel

    problems = []
    kinds: tuple[tuple[FirstStageKind, Any], ...] = (("kl", AutoencoderKL), ("vq", VQModel))
    for kind, cls in kinds:
        for subfolder in (None, "vqvae", "vae"):
            folder = Path(source)
            if folder.is_dir() and not (folder / (subfolder or "") / "config.json").is_file():
                continue
            try:
                found = cls.load_config(source, subfolder=subfolder)
                if found.get("_class_name", cls.__name__) != cls.__name__:
                    continue
                net = cls.from_pretrained(source, subfolder=subfolder, use_safetensors=None)
                return FirstStage(net, kind, {"pretrained": source, "kind": kind})
            except Exception as error:  # the hub, safetensors and diffusers raise many kinds
                problems.append(f"{cls.__name__}: {str(error).splitlines()[0]}")
    why = "; ".join(dict.fromkeys(problems)) or "no config.json of an AutoencoderKL or VQModel there"
    raise ArtifactError(f"{source}: not a first stage in diffusers form ({why})")
