"""Schedule, loss and samplers against their definitions."""

import numpy as np
import pytest
import torch

from stages.diffusion.loss import loss
from stages.diffusion.sample import sample
from stages.diffusion.schedule import Schedule
from stages.errors import UsageError
from stages.models.denoiser import Condition

NOTHING = Condition(*(torch.zeros(1),) * 4)


def test_schedule_is_the_releases():
    alpha_bar = Schedule().alpha_bar
    assert alpha_bar[0].item() == pytest.approx(0.9985, abs=1e-6)
    assert alpha_bar[-1].item() == pytest.approx(1.423e-4, rel=1e-3)


def test_schedule_is_diffusers():
    from diffusers import DDIMScheduler

    for schedule in (Schedule(), Schedule(steps=200)):
        theirs = DDIMScheduler(**schedule.diffusers_config()).alphas_cumprod
        assert torch.allclose(theirs, schedule.alpha_bar, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_clean_inverts_target(prediction):
    schedule = Schedule(prediction=prediction)
    z0, noise, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0, 500, 900])
    z_t = schedule.add_noise(z0, noise, t)
    assert torch.allclose(schedule.clean(schedule.target(z0, noise, t), z_t, t), z0, atol=1e-3)


def test_loss_is_the_weighted_mean_squared_error():
    schedule = Schedule(prediction="epsilon")
    z0, noise, t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([10, 600])
    weight = torch.ones(4, 4)
    zero = loss(lambda z, t, c: torch.zeros_like(z), schedule, z0, noise, t, NOTHING, weight)
    assert torch.allclose(zero, noise.square().mean((1, 2, 3)))
    perfect = loss(lambda z, t, c: noise, schedule, z0, noise, t, NOTHING, weight)
    assert perfect.abs().max() == 0


def oracle(schedule, truth):
    """A denoiser that knows z_0."""

    def denoise(z, t, condition):
        a, s = schedule.coefficients(t, z)
        return {"epsilon": (z - a * truth) / s, "v_prediction": (a * (z - a * truth) / s - s * truth), "sample": truth}[schedule.prediction]

    return denoise


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_samplers_find_what_the_denoiser_knows(sampler, prediction):
    schedule = Schedule(prediction=prediction)
    truth, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    seen = []
    z = sample(oracle(schedule, truth), schedule, noise, NOTHING, steps=8, sampler=sampler, callback=seen.append)
    assert torch.allclose(z, truth, atol=2e-3)
    assert seen == list(range(8))


def test_known_cells_end_exactly_as_known():
    schedule = Schedule()
    known, keep = torch.randn(2, 3, 4, 4), torch.zeros(4, 4)
    keep[:2] = 1
    z = sample(lambda z, t, c: torch.zeros_like(z), schedule, torch.randn(2, 3, 4, 4), NOTHING, steps=4, known=known, keep=keep)
    assert torch.equal(z[..., :2, :], known[..., :2, :]) and not torch.equal(z[..., 2:, :], known[..., 2:, :])


def test_too_many_steps_are_refused():
    with pytest.raises(UsageError, match="between 1 and 1000"):
        sample(lambda z, t, c: z, Schedule(), torch.randn(1, 1, 2, 2), NOTHING, steps=1001)


def test_renderer_keeps_the_source_outside_the_mask():
    from stages.diffusion.render import Renderer
    from stages.models.denoiser import Denoiser, denoiser_config
    from stages.models.vae import build_first_stage, first_stage_config

    stage = build_first_stage(first_stage_config("tiny", 128))
    model = Denoiser(denoiser_config("tiny", latent_channels=8, audio_features=8))
    renderer = Renderer(stage, model, Schedule(), "lower-face", 128)
    crops = np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3)).astype(np.uint8)
    changed = crops.copy()
    changed[:, 100:110, 50:70] = 0  # inside the mask
    x, y = renderer.pictures(crops), renderer.pictures(changed)
    assert torch.equal(renderer.encode_masked(x), renderer.encode_masked(y))  # nothing of the mouth leaks
    composed = renderer.compose(crops, np.zeros_like(crops))
    outside = renderer.alpha == 0
    assert (composed[:, outside] == crops[:, outside]).all()
    assert renderer.shape == (8, 8, 12)


def make_renderer(side=128, **changes):
    from stages.diffusion.render import Renderer
    from stages.models.denoiser import Denoiser, denoiser_config
    from stages.models.vae import build_first_stage, first_stage_config

    torch.manual_seed(0)
    stage = build_first_stage(first_stage_config("tiny", side))
    model = Denoiser(denoiser_config("tiny", latent_channels=8, audio_features=8, **changes))
    return Renderer(stage, model, Schedule(prediction=model.config.prediction), "lower-face", side)


def test_the_first_stage_sees_the_window_and_a_little_around_it():
    renderer = make_renderer()
    crops = np.random.default_rng(0).integers(0, 255, (1, 128, 128, 3)).astype(np.uint8)
    z = renderer.encode(renderer.pictures(crops))
    assert z.shape == (1, 8, 9, 14) and renderer.crop(z).shape == (1, *renderer.shape)
    shown = renderer.show(renderer.pictures(crops))
    assert (shown[:, 56:, 8:120] == crops[:, 56:, 8:120]).all()
    assert (shown[:, renderer.alpha > 0] == crops[:, renderer.alpha > 0]).all() and not shown[:, :56].any()


def test_a_latent_window_is_warped_as_the_crop_would_be():
    renderer = make_renderer(side=256)
    factor = renderer.first_stage.factor
    still = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).astype(np.float32)
    z = torch.randn(2, *renderer.shape)
    assert torch.allclose(renderer.turned(z, still), z, atol=1e-4)
    moved = renderer.turned(z, still + np.float32([factor, 2 * factor]))  # looks a cell to the right, two down
    assert torch.allclose(moved[..., :-3, :-2], z[..., 2:-1, 1:-1], atol=1e-4)
    # a field that moves one place of the crop moves that place of the window
    bent = still.copy()
    row, column = renderer.view[0].start + renderer.rows.start * factor, renderer.view[1].start + renderer.columns.start * factor
    bent[row + 2 * factor : row + 3 * factor, column + 3 * factor : column + 4 * factor, 0] += factor
    changed = (renderer.turned(z, bent) - z).abs().amax((0, 1)) > 1e-3
    assert changed.nonzero().tolist() == [[2, 3]]


def test_a_residual_model_that_says_nothing_shows_the_reference():
    renderer = make_renderer(residual=True, prediction="sample")
    torch.nn.init.zeros_(renderer.denoiser.unet.conv_out.weight)
    torch.nn.init.zeros_(renderer.denoiser.unet.conv_out.bias)
    z = lambda: torch.randn(1, *renderer.shape)  # noqa: E731
    from stages.diffusion.render import SampleConfig

    condition = Condition(z(), z(), torch.randn(1, 8, 16, 8), torch.randn(1, 39, 2), torch.zeros(1, 4))
    made = renderer.generate(z(), condition, SampleConfig(steps=4))
    inside = renderer.keep == 0
    assert torch.allclose(made[..., inside], condition.reference[..., inside], atol=1e-5)
    assert torch.allclose(made[..., ~inside], condition.masked[..., ~inside], atol=1e-6)
    with pytest.raises(UsageError, match="--target difference"):
        make_renderer(residual=True, conditions="alm")


def test_a_share_of_the_difference_lies_between_reference_and_drawing():
    from stages.diffusion.render import SampleConfig

    renderer = make_renderer(residual=True, prediction="sample")
    noise, masked, reference = (torch.randn(1, *renderer.shape, generator=torch.Generator().manual_seed(k)) for k in range(3))
    condition = Condition(masked, reference, torch.randn(1, 8, 16, 8), torch.randn(1, 39, 2), torch.zeros(1, 4))
    whole, half, none = (renderer.generate(noise, condition, SampleConfig(steps=2, difference=d)) for d in (1.0, 0.5, 0.0))
    inside = renderer.keep == 0
    assert torch.allclose(half[..., inside], (whole + reference)[..., inside] / 2, atol=1e-5)
    assert torch.allclose(none[..., inside], reference[..., inside], atol=1e-6)
    assert torch.allclose(half[..., ~inside], masked[..., ~inside], atol=1e-6)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_with_less_strength_the_way_starts_at_the_reference(sampler):
    """A model that always says `begin` leads back to it; the first time that it is asked is the share of the schedule."""
    schedule, asked = Schedule(prediction="sample"), []
    begin = torch.linspace(-1, 1, 96).reshape(1, 4, 4, 6)

    def denoise(z, t, condition):
        asked.append(int(t[0]))
        return begin

    noise = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    made = sample(denoise, schedule, noise, NOTHING, steps=5, sampler=sampler, begin=begin, strength=0.4)
    assert torch.allclose(made, begin, atol=1e-3) and len(asked) == 5
    assert 330 < asked[0] <= 420
    clean = sample(denoise, schedule, torch.zeros_like(noise), NOTHING, steps=5, sampler=sampler, begin=begin, strength=0.1)
    assert torch.allclose(clean, begin, atol=1e-3)


def test_what_the_first_stage_loses_of_the_reference_is_kept_by_models_that_draw_differences():
    """Where nothing changes, the reference's very pixels come back, whatever the first stage makes of them."""
    for residual in (True, False):
        renderer = make_renderer(residual=residual, prediction="sample")
        crops = np.random.default_rng(0).integers(0, 256, (2, renderer.resolution, renderer.resolution, 3)).astype(np.uint8)
        views = renderer.pictures(crops)
        z_r, lost = renderer.encode_reference(views)
        whole = renderer.encode(views)
        assert torch.equal(z_r, renderer.crop(whole)) and lost.shape == views.shape
        made = renderer.decode(whole, z_r, lost)[:, *renderer.view]
        assert (np.abs(made.astype(int) - crops[:, *renderer.view]).max() <= 1) == residual
