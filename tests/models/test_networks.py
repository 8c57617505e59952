"""The networks are the paper's and the release's, figure by figure (facts: sstzal/DiffTalk, CompVis/latent-diffusion)."""

import pytest
import torch

from stages.errors import ArtifactError, UsageError
from stages.models.condition import AudioFilter, AudioNet, ConditionEncoder, LandmarkNet
from stages.models.denoiser import Condition, Denoiser, denoiser_config
from stages.models.vae import build_first_stage, first_stage_config, load_pretrained, rebuild_first_stage


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_paper_presets_parameter_counts():
    with torch.device("meta"):
        denoiser = Denoiser(denoiser_config("paper", latent_channels=3, audio_features=29))
        first_stage = build_first_stage(first_stage_config("paper", 256))
    assert count(denoiser.unet) == 530_152_963
    assert count(first_stage) == 55_322_782
    assert count(AudioNet(29)) == 32_800
    assert count(AudioFilter()) == 2_149
    assert count(LandmarkNet()) == 22_528


def test_paper_latents_are_64x64x3_at_both_resolutions():
    for resolution in (256, 512):
        config = first_stage_config("paper", resolution)
        assert resolution // config.factor == 64 and config.latent_channels == 3
    with pytest.raises(UsageError, match="256 and 512"):
        first_stage_config("paper", 128)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_first_stage_round_trips_shapes_and_rebuilds_from_its_description(kind):
    from dataclasses import replace

    from stages.train_vae import _net_config

    config = replace(first_stage_config("tiny", 64), kind=kind, codes=32)
    stage = build_first_stage(config).eval()
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    z = stage.encode(x)
    assert z.shape == (2, 8, 8, 8) and stage.decode(z).shape == x.shape
    again = rebuild_first_stage({"first_stage": stage.config, "net": _net_config(stage)})
    again.load_state_dict(stage.state_dict())
    assert torch.equal(again.eval().encode(x), z)
    rebuilt, regulariser = stage(x)
    assert rebuilt.shape == x.shape and regulariser.ndim == 0
    if kind == "vq":
        assert regulariser.item() > 0  # the codebook is trained


def test_normalisation_is_undone_by_decode():
    stage = build_first_stage(first_stage_config("tiny", 64)).eval()
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    before = stage.decode(stage.encode(x))
    stage.set_normalisation(torch.linspace(-1, 1, 8), torch.linspace(0.5, 2, 8))
    assert torch.allclose(stage.decode(stage.encode(x)), before, atol=1e-5)


def test_a_first_stage_in_diffusers_form_loads_by_folder(tmp_path):
    from diffusers import AutoencoderKL

    net = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                        norm_num_groups=4, latent_channels=4)  # fmt: skip
    net.save_pretrained(tmp_path / "vae")
    stage = load_pretrained(str(tmp_path / "vae"))
    assert stage.kind == "kl" and stage.factor == 2 and stage.channels == 4
    with pytest.raises(ArtifactError, match="diffusers form"):
        load_pretrained(str(tmp_path / "vae" / "nothing"))


def condition(batch, channels, height, width, features):
    g = torch.Generator().manual_seed(0)
    return Condition(
        torch.randn(batch, channels, height, width, generator=g), torch.randn(batch, channels, height, width, generator=g),
        torch.randn(batch, 8, 16, features, generator=g), torch.randn(batch, 39, 2, generator=g), torch.randn(batch, 4, generator=g),
    )  # fmt: skip


@pytest.mark.parametrize("context", ["tokens", "single"])
def test_denoiser_listens_to_every_condition(context):
    torch.manual_seed(0)
    lips = 0 if context == "single" else 4
    model = Denoiser(denoiser_config("tiny", latent_channels=4, audio_features=12, context=context, lips=lips)).eval()
    for p in model.parameters():  # diffusers starts some layers at zero, which would hide a missing path
        torch.nn.init.normal_(p, std=0.1)
    z, t, c = torch.randn(2, 4, 8, 12), torch.tensor([3, 700]), condition(2, 4, 8, 12, 12)
    out = model(z, t, c)
    assert out.shape == z.shape
    for name in ("masked", "reference", "audio", "landmarks"):
        other = Condition(**{k: (v + 1 if k == name else v) for k, v in vars(c).items()})
        assert not torch.allclose(model(z, t, other), out, atol=1e-5), name


def test_single_context_is_one_token_and_its_attention_a_constant():
    encoder = ConditionEncoder(29, "single")
    audio, landmarks = torch.randn(2, 8, 16, 29), torch.randn(2, 39, 2)
    assert encoder(audio, landmarks).shape == (2, 1, 128)
    assert ConditionEncoder(29, "tokens")(audio, landmarks).shape == (2, 10, 128)


def test_audio_filter_can_be_switched_off():
    encoder = ConditionEncoder(29, "single", audio_filter=False)
    audio, landmarks = torch.randn(1, 8, 16, 29), torch.randn(1, 39, 2)
    before = encoder(audio, landmarks)
    audio[:, [0, 1, 2, 3, 5, 6, 7]] = 0  # only the frame itself counts
    assert torch.equal(encoder(audio, landmarks), before)


def test_the_lips_are_drawn_as_told_and_heard_in_the_sound():
    torch.manual_seed(0)
    model = Denoiser(denoiser_config("tiny", latent_channels=4, audio_features=12)).eval()
    z, t, c = torch.randn(2, 4, 8, 12), torch.tensor([3, 700]), condition(2, 4, 8, 12, 12)
    heard = model.listen(c.audio)
    assert heard.shape == (2, 4) and not torch.equal(heard, model.listen(c.audio + 1))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    out, c.lips = model(z, t, c), c.lips + 1
    assert not torch.allclose(model(z, t, c), out, atol=1e-4)
    with pytest.raises(UsageError, match="--lips"):
        denoiser_config("tiny", latent_channels=4, audio_features=12, context="single", lips=4)
    quiet = Denoiser(denoiser_config("tiny", latent_channels=4, audio_features=12, lips=0))
    assert quiet.lips is None and quiet(z, t, condition(2, 4, 8, 12, 12)).shape == z.shape
