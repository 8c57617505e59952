"""The first stage E_I, D_I (paper 3.2): images to latents and back. KL or VQ, built on diffusers' own classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import ArtifactError, UsageError

FirstStageKind = Literal["kl", "vq"]
POSTERIOR_LOGVAR = -8.0
"""The posterior starts narrow (deviation 0.018): with diffusers' 1 the decoder sees little but noise for a long time."""


@dataclass(frozen=True, kw_only=True)
class FirstStageConfig:
    """Shape of a first stage; the downsampling factor is patch * 2 ** (len(widths) - 1)."""

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
    shortcut: bool = False
    """A linear path beside the network, from patches to latents and back, that starts as a truncated DCT: the network
    learns what that leaves (residual autoencoding, DC-AE). It learns colours in minutes instead of hours."""

    patch: int = 1
    """The network sees patch x patch pixels as the channels of one place: most of a small first stage's work would be
    convolutions at full resolution, which buy little beside the shortcut."""

    @property
    def factor(self) -> int:
        return self.patch * 2 ** (len(self.widths) - 1)


# name              kind   widths              layers C  codes  attention groups shortcut patch
FIRST_STAGES = {
    "tiny": ("kl", (16, 32, 64, 96), 1, 8, 0, False, 8, True, 1),
    "compact": ("kl", (128, 192), 1, 8, 0, False, 8, True, 4),  # chosen by tests/bench/first_stages.py
    "paper-256": ("vq", (128, 256, 512), 2, 3, 8192, True, 32, False, 1),  # LDM vq-f4: 55,322,782 parameters
    "paper-512": ("vq", (128, 256, 256, 512), 2, 3, 16384, True, 32, False, 1),  # f8, 3 channels: 512 px to 64 x 64 x 3
    "kl-f4": ("kl", (128, 256, 512), 2, 3, 0, True, 32, False, 1),  # LDM's autoencoder_kl_64x64x3
    "kl-f8": ("kl", (128, 256, 512, 512), 2, 4, 0, True, 32, False, 1),  # LDM's autoencoder_kl_32x32x4: 83,653,863 parameters
}


def first_stage_config(preset: str, resolution: int) -> FirstStageConfig:
    """The first stage of a preset. Raises UsageError for `paper` at a resolution that the paper does not have."""
    name = f"paper-{resolution}" if preset == "paper" else preset
    if name not in FIRST_STAGES:
        raise UsageError(f"--preset paper: the paper has 256 and 512 px, not {resolution}")
    kind, widths, layers, channels, codes, attention, groups, shortcut, patch = FIRST_STAGES[name]
    return FirstStageConfig(
        kind=kind, widths=widths, layers=layers, latent_channels=channels, codes=codes, attention=attention, groups=groups,
        shortcut=shortcut, patch=patch,
    )  # fmt: skip


class FirstStage(nn.Module):
    """encode: (B, 3, H, W) in -1..1 -> (B, C, h, w) of about zero mean and unit deviation; decode: the inverse.

    The latent is the mode of the posterior (KL) or the encoder's output before quantisation (VQ, as in the release);
    VQ quantises inside `decode`. The normalisation is measured by `train-vae` and stored with the weights.
    """

    def __init__(self, net: nn.Module, kind: FirstStageKind, config: dict[str, Any]):
        super().__init__()
        self.net, self.kind, self.config = net, kind, config
        self.patch = config.get("patch", 1)
        channels = net.config.latent_channels
        self.down = self.up = None
        if config.get("shortcut"):
            self.down = nn.Conv2d(3, channels, self.factor, self.factor)
            self.up = nn.ConvTranspose2d(channels, 3, self.factor, self.factor)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    @property
    def factor(self) -> int:
        return self.patch * 2 ** (len(self.net.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return self.net.config.latent_channels

    @property
    def decoding(self) -> list[nn.Module]:
        """The modules between the latents and the picture."""
        found = [self.net.decoder, self.net.post_quant_conv, self.up]
        return [m for m in found if m is not None]

    @property
    def last(self) -> Tensor:
        """The decoder's last weights, where LDM compares the pull of its losses."""
        return self.net.decoder.conv_out.weight

    def encode(self, x: Tensor) -> Tensor:
        z = self.raw_encode(x)
        return (z - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, z: Tensor) -> Tensor:
        return self.raw_decode(z * self.std[:, None, None] + self.mean[:, None, None])

    def raw_encode(self, x: Tensor) -> Tensor:
        found = self._encoded(x)
        z = found.latent_dist.mode() if self.kind == "kl" else found.latents
        return z if self.down is None else z + self.down(x)

    def raw_decode(self, z: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.net.decode(z).sample, self.patch)
        return x if self.up is None else x + self.up(z)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Training pass: (reconstruction (B, 3, H, W), regulariser ()): KL per element, or the codebook's loss."""
        if self.kind == "kl":
            posterior = self._encoded(x).latent_dist
            mean = posterior.mean if self.down is None else posterior.mean + self.down(x)
            z = mean if noise is None else mean + posterior.std * noise
            divergence = 0.5 * (mean.square() + posterior.var - 1 - posterior.logvar)
            return self.raw_decode(z), divergence.mean()
        z = self._encoded(x).latents
        out = self.net.decode(z if self.down is None else z + self.down(x))
        return F.pixel_shuffle(out.sample, self.patch), getattr(out, "commit_loss", None) or x.new_zeros(())

    def _encoded(self, x: Tensor) -> Any:
        return self.net.encode(F.pixel_unshuffle(x, self.patch))

    def set_normalisation(self, mean: Tensor, std: Tensor) -> None:
        """mean, std: (C,) of raw latents. A channel that carries next to nothing is not blown up to carry as much as the others."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(max(1e-6, 0.005 * std.max().item())))


def build_first_stage(config: FirstStageConfig) -> FirstStage:
    """A freshly initialised first stage."""
    from diffusers import AutoencoderKL, VQModel

    depth = len(config.widths)
    shared = dict(
        in_channels=3 * config.patch**2,
        out_channels=3 * config.patch**2,
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
        with torch.no_grad():
            net.quant_conv.weight[config.latent_channels :].zero_()
            net.quant_conv.bias[config.latent_channels :] = POSTERIOR_LOGVAR
    else:
        net = VQModel(**shared, num_vq_embeddings=config.codes)
    stage = FirstStage(net, config.kind, asdict(config))
    if config.shortcut:
        _start_as_dct(stage)
    return stage


@torch.no_grad()
def _start_as_dct(stage: FirstStage) -> None:
    """Latents start as the first coefficients of a DCT of each patch in luma and two chromas, and decode to their sum."""
    f, basis = stage.factor, []
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]])
    colours /= colours.norm(dim=1, keepdim=True)
    at = (torch.arange(f) + 0.5) * torch.pi / f
    waves = torch.stack([torch.cos(u * at) * (2 / f) ** 0.5 / (2**0.5 if u == 0 else 1) for u in range(f)])  # (f, f)
    # means first, then slow waves of luma, then of chroma: about the order of what pictures hold
    places = [(c, u, v) for c in range(3) for u in range(f) for v in range(f)]
    places.sort(key=lambda p: (p[1] + p[2]) * (2 if p[0] else 1) + (0.5 if p[0] and p[1] + p[2] else 0))
    for c, u, v in places[: stage.channels]:
        basis.append(torch.einsum("c,y,x->cyx", colours[c], waves[u], waves[v]))
    patches = torch.stack(basis)  # (C, 3, f, f), orthonormal
    stage.down.weight.copy_(patches / f)  # a mean of 1 becomes a latent of about 1
    stage.up.weight.copy_(patches * f)
    for layer in (stage.down, stage.up):
        layer.bias.zero_()
    if stage.kind == "kl":
        stage.net.quant_conv.weight.zero_()
        stage.net.quant_conv.bias.zero_()[stage.channels :] = POSTERIOR_LOGVAR
    stage.net.decoder.conv_out.weight.zero_()
    stage.net.decoder.conv_out.bias.zero_()


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
