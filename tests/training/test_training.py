"""The training engine: order, averages, states, resume, and the two stages that use it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stages import train, train_vae
from stages.artifacts import read_artifact
from stages.errors import ArtifactError, UsageError
from stages.runtime import Runtime
from stages.training import checkpoint
from stages.training.denoising import gather_windows
from stages.training.ema import Ema
from stages.training.latents import far_frame
from stages.training.order import balanced, generator
from tests.small import make_training_data

VAE = train_vae.Config(preset="tiny", steps=2, batch=2, patch=32, save_every=1, validate_every=2)
DENOISER = train.Config(preset="tiny", steps=4, batch=2, save_every=2, validate_every=4)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    root = make_training_data(tmp_path_factory.mktemp("training") / "work")
    train_vae.run(VAE, root, None, Runtime())
    return root


def weights(root: Path) -> dict[str, torch.Tensor]:
    return load_file(root / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_draws_depend_on_seed_and_place_only():
    first = generator(3, 10, 2).random(4)
    generator(3, 10, 3).random(100)
    assert np.array_equal(first, generator(3, 10, 2).random(4))
    assert not np.array_equal(first, generator(3, 11, 2).random(4))
    assert not np.array_equal(first, generator(4, 10, 2).random(4))


def test_long_clips_do_not_drown_short_ones():
    share = balanced(np.array([1500, 60]))
    assert share.sum() == pytest.approx(1) and share[0] / share[1] == pytest.approx(5)


@pytest.mark.parametrize("count, frame", [(200, 0), (200, 100), (200, 199), (90, 45), (10, 5), (2, 1), (1, 0)])
def test_references_are_far_from_the_target(count, frame):
    gap = min(60, max(1, (count - 1) // 2))
    picks = {far_frame(np.random.default_rng(i), count, frame) for i in range(200)}
    assert all(0 <= p < count for p in picks)
    if count > 1:
        assert all(abs(p - frame) >= gap for p in picks)


def test_missing_neighbours_are_zero_windows():
    audio = np.ones((3, 16, 2), np.float32)
    windows = gather_windows(audio, np.array([-1, 0, 2]))
    assert windows.shape == (3, 16, 2) and windows[0].sum() == 0 and windows[1:].min() == 1


def test_ema_averages_every_parameter():
    model = torch.nn.Linear(2, 2)
    ema = Ema(model, 0.5)
    before = ema.model.weight.clone()
    with torch.no_grad():
        model.weight += 1
    ema.update(model, 1000)
    assert torch.allclose(ema.model.weight, before + 0.5)
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_only_the_last_two_states_are_kept_and_a_half_written_one_is_not_seen(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (1, 2, 3):
        checkpoint.save_state(tmp_path, step, model=model, ema=model, optimizer=optimizer, meta={"key": "k"})
    (tmp_path / "state" / "step-000000009").mkdir()  # torn: no state.json
    assert [p.name for p in checkpoint.states(tmp_path)] == ["step-000000002", "step-000000003"]


def test_damaged_weights_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        checkpoint.load_weights(tmp_path / "model.safetensors", torch.nn.Linear(2, 2))


def test_first_stage_artifact_is_whole_and_normalised(work):
    vae = read_artifact(work / "vae-64", "vae")
    assert vae.manifest["facts"]["finished"] and vae.manifest["facts"]["factor"] == 8
    stage = checkpoint.load_first_stage(vae.root)
    crops = read_artifact(work, "clips").clips["clip1-00000001"].array("crops.npy")[:40]
    z = stage.encode(torch.from_numpy(np.array(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert z.mean().abs() < 0.3 and 0.6 < z.std() < 1.6


def test_the_same_command_again_skips_and_a_longer_one_goes_on(work, tmp_path):
    lines = []

    class Listening(type(Runtime().reporter)):
        def log(self, message):
            lines.append(message)

    runtime = Runtime(reporter=Listening())
    assert train_vae.run(VAE, work, tmp_path / "vae", runtime).done == 1
    assert train_vae.run(VAE, work, tmp_path / "vae", runtime).skipped == 1
    assert train_vae.run(replace(VAE, steps=3), work, tmp_path / "vae", runtime).done == 1
    assert any("going on from step-000000002" in line for line in lines)


def test_other_settings_do_not_throw_a_training_away(work, tmp_path):
    train_vae.run(VAE, work, tmp_path / "vae", Runtime())
    before = weights(tmp_path / "vae")
    with pytest.raises(ArtifactError, match=r"seed: 0 -> 1.*--force"):
        train_vae.run(replace(VAE, seed=1), work, tmp_path / "vae", Runtime())
    assert same(before, weights(tmp_path / "vae"))
    train_vae.run(replace(VAE, seed=1), work, tmp_path / "vae", Runtime(force=True))
    assert not same(before, weights(tmp_path / "vae"))


def test_resolution_must_be_the_clips(work):
    with pytest.raises(UsageError, match="preprocess --resolution 512"):
        train_vae.run(replace(VAE, resolution=512), work, None, Runtime())


def test_training_stopped_and_resumed_gives_the_very_same_weights(work, tmp_path):
    train.run(DENOISER, train.Inputs(work), tmp_path / "whole", Runtime())
    train.run(replace(DENOISER, steps=2), train.Inputs(work), tmp_path / "parts", Runtime())
    train.run(DENOISER, train.Inputs(work), tmp_path / "parts", Runtime())
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    rows = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["kind"] == "validation"] == [2, 4]


def test_training_killed_at_any_moment_and_rerun_gives_the_very_same_weights(work, tmp_path):
    train.run(DENOISER, train.Inputs(work), tmp_path / "whole", Runtime())
    code = (
        "import sys\nfrom pathlib import Path\nfrom stages import train\nfrom stages.runtime import Runtime\n"
        "from tests.training.test_training import DENOISER\n"
        "train.run(DENOISER, train.Inputs(Path(sys.argv[1])), Path(sys.argv[2]), Runtime())"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(work), str(tmp_path / "killed")], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not checkpoint.states(tmp_path / "killed") and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.states(tmp_path / "killed"), "the run never reached its first state"
    train.run(DENOISER, train.Inputs(work), tmp_path / "killed", Runtime())
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert not list((tmp_path / "killed").glob(".tmp*"))


def test_a_time_limit_leaves_a_usable_model_that_goes_on(work, tmp_path):
    report = train.run(DENOISER, train.Inputs(work), tmp_path / "d", Runtime(max_minutes=0))
    assert report.facts["finished"] is False and read_artifact(tmp_path / "d", "denoiser").manifest["facts"]["steps"] == 0
    assert train.run(DENOISER, train.Inputs(work), tmp_path / "d", Runtime()).facts["finished"] is True


def test_denoiser_artifact_carries_all_that_infer_needs(work, tmp_path):
    from stages.infer import load_model

    train.run(DENOISER, train.Inputs(work), tmp_path / "d", Runtime())
    renderer, described, _ = load_model(tmp_path / "d", Runtime())
    assert described["audio"]["features"] == 12 and renderer.shape == (8, 4, 6)
    assert renderer.denoiser.audio_std.min() > 0.5  # measured, not the initial ones only
    assert any((tmp_path / "d" / "samples").glob("*.png")) and any((tmp_path / "d" / "tb").iterdir())


def test_switches_change_the_model(work, tmp_path):
    for name, change in {
        "single": {"context": "single"}, "nofilter": {"audio_filter": False}, "fixed": {"reference": "fixed"},
        "mouth": {"mask": "mouth"}, "epsilon": {"prediction": "epsilon"}, "previous": {"previous_frame_share": 1.0},
        "difference": {"target": "difference"}, "picture": {"target": "picture"}, "looks": {"looks": 3}, "deaf": {"audio_dropout": 0.9},
    }.items():  # fmt: skip
        config = replace(DENOISER, steps=1, validate_every=1, **change)
        assert train.run(config, train.Inputs(work), tmp_path / name, Runtime()).facts["finished"]


def test_fine_tuning_starts_from_the_given_weights_and_their_first_stage(work, tmp_path):
    train.run(DENOISER, train.Inputs(work), tmp_path / "base", Runtime())
    other = replace(DENOISER, learning_rate=0.0, ema=0.0, seed=5)
    train.run(other, train.Inputs(work, init=tmp_path / "base"), tmp_path / "fine", Runtime())
    assert same(weights(tmp_path / "base"), weights(tmp_path / "fine"))
    own = [i["digest"] for i in read_artifact(tmp_path / "fine", "denoiser").manifest["inputs"] if i["kind"] == "vae"]
    assert own == [read_artifact(tmp_path / "base" / "first-stage", "vae").digest]
    # another acoustic model of the same form: its sound is normalised anew
    told = tmp_path / "base" / "config.json"
    described = json.loads(told.read_text())
    described["audio"]["weights"] = [{"role": "acoustic model", "sha256": "0" * 64, "licence": "none"}]
    told.write_text(json.dumps(described))
    base = weights(tmp_path / "base")
    save_file(base | {"audio_mean": base["audio_mean"] + 7}, tmp_path / "base" / "model.safetensors")
    train.run(other, train.Inputs(work, init=tmp_path / "base"), tmp_path / "heard", Runtime())
    assert same(weights(tmp_path / "fine"), weights(tmp_path / "heard"))
    with pytest.raises(ArtifactError, match=r"residual is True there, False here"):
        train.run(replace(other, target="picture"), train.Inputs(work, init=tmp_path / "base"), tmp_path / "no", Runtime())


def test_a_first_stage_goes_on_from_another_and_its_decoder_alone_leaves_the_latents_as_they_are(work, tmp_path):
    with pytest.raises(UsageError, match="--init"):
        train_vae.Config(part="decoder")
    config = replace(VAE, init=str(work / "vae-64"), part="decoder")
    train_vae.run(config, work, tmp_path / "decoder", Runtime())
    before, after = weights(work / "vae-64"), weights(tmp_path / "decoder")
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all(k.startswith(("net.decoder", "net.post_quant", "up.")) for k in changed)
    train_vae.run(replace(VAE, init=str(work / "vae-64"), steps=0), work, tmp_path / "as-is", Runtime())
    assert same(before, weights(tmp_path / "as-is"))


def test_missing_or_stale_features_are_named(work, tmp_path):

    with pytest.raises(ArtifactError, match="extract-audio"):
        train.run(DENOISER, train.Inputs(work, features=tmp_path / "none"), tmp_path / "d", Runtime())
    copied = tmp_path / "features"
    shutil.copytree(work / "features", copied)
    record = json.loads((copied / "clip1-00000001" / "clip.json").read_text())
    record["key"]["inputs"][0]["digest"] = "0" * 64
    (copied / "clip1-00000001" / "clip.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="out of date"):
        train.run(DENOISER, train.Inputs(work, features=copied), tmp_path / "d", Runtime())


@pytest.mark.slow
def test_a_few_frames_can_be_learned_by_heart(tmp_path):
    """The loss of a tiny denoiser on two clips falls well below its start: gradients reach where they must."""
    root = make_training_data(tmp_path / "work", clips=2, frames=4)
    train_vae.run(replace(VAE, steps=1), root, None, Runtime())
    config = replace(DENOISER, steps=100, batch=8, save_every=1000, validate_every=1000, learning_rate=1e-3)
    train.run(config, train.Inputs(root), None, Runtime())
    rows = [json.loads(line) for line in (root / "denoiser-64" / "log.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in rows if r["kind"] == "train"]
    assert len(losses) == 2 and losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("conditions", ["a,l", "a,l,m", "a,r"])
def test_a_model_hears_only_the_conditions_it_is_given(work, tmp_path, conditions):
    train.run(replace(DENOISER, conditions=conditions, steps=1), train.Inputs(work), tmp_path / "d", Runtime())
    described = json.loads((tmp_path / "d" / "config.json").read_text())["denoiser"]
    assert described["conditions"] == conditions.replace(",", "")
    from stages.models.denoiser import Condition, Denoiser, DenoiserConfig

    config = DenoiserConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in described.items()})
    torch.manual_seed(0)
    model = Denoiser(config).eval()
    for p in model.parameters():  # diffusers starts some layers at zero
        torch.nn.init.normal_(p, std=0.05)
    z = torch.randn(1, config.latent_channels, 8, 8)
    parts = {"m": torch.randn_like(z), "r": torch.randn_like(z), "a": torch.randn(1, 8, 16, 12), "l": torch.rand(1, 39, 2)}

    def output(changed: str = "") -> torch.Tensor:
        m, r, a, l = (parts[k] + (k == changed) for k in "mral")
        with torch.no_grad():
            return model(z, torch.tensor([5]), Condition(m, r, a, l, torch.zeros(1, 4)))

    plain = output()
    for letter in "almr":
        assert torch.equal(output(letter), plain) == (letter not in conditions), letter


def test_conditions_that_do_not_exist_are_usage_errors():
    for wrong in ("", "a,x", "audio"):
        with pytest.raises(UsageError, match="--conditions"):
            train.Config(conditions=wrong)


def test_the_pixel_term_reaches_the_network_through_the_decoder_and_only_where_there_is_little_noise(work, tmp_path):
    from stages.diffusion.render import Renderer
    from stages.diffusion.schedule import Schedule
    from stages.models.denoiser import Denoiser, denoiser_config
    from stages.training.crops import ClipSet, split_clips
    from stages.training.denoising import Batch, DenoisingTask
    from stages.training.latents import cache_latents

    torch.manual_seed(0)
    first_stage = checkpoint.load_first_stage(work / "vae-64")
    model = Denoiser(denoiser_config("tiny", latent_channels=first_stage.channels, audio_features=12))
    schedule = Schedule()
    renderer = Renderer(first_stage, model, schedule, "lower-face", 64)
    clips, vae = read_artifact(work, "clips"), read_artifact(work / "vae-64", "vae")
    cache_latents(renderer, clips, vae, tmp_path / "latents", Runtime(), references=2)
    sets = ClipSet(split_clips(clips, "train"), "train on"), ClipSet(split_clips(clips, "val"), "validate on")
    config = replace(train.Config(preset="tiny", pixel_weight=2.0), seed=0).resolved(64)
    distance = lambda a, b: (a - b).square().mean(dim=(1, 2, 3))  # noqa: E731 - stands for LPIPS
    arrays = read_artifact(tmp_path / "latents", "latents"), read_artifact(work / "features", "features")
    task = DenoisingTask(model, renderer, *sets, *arrays, config, distance)
    batch = task.batch(0, range(4), torch.device("cpu"))
    _, sigma = schedule.coefficients(torch.arange(1000), torch.zeros(1))
    last = int((sigma.flatten() <= config.pixel_noise).nonzero().max())

    def pixel(t: int, output: torch.Tensor) -> torch.Tensor:
        at = Batch(batch.z0, batch.noise, torch.full((4,), t), batch.condition)
        return task._pixel_loss(output, schedule.add_noise(at.z0, at.noise, at.t), at)

    right = schedule.target(batch.z0, batch.noise, torch.full((4,), last))
    assert pixel(last, right) < 1e-4 < pixel(last, right + 0.5)
    assert pixel(last + 1, right + 0.5) == 0
    output = (right + 0.5).requires_grad_()
    pixel(last, output).backward()
    assert output.grad is not None and output.grad.abs().max() > 0
    assert all(p.grad is None for p in first_stage.parameters())
    total, figures = task.loss(model, Batch(batch.z0, batch.noise, torch.tensor([0, 1, 2, 3]), batch.condition))
    assert float(figures["pixel"]) > 0 and torch.isfinite(total)


def test_one_step_samples_see_noise_alone_and_are_judged_in_pixels(work, tmp_path):
    from stages.diffusion.render import Renderer
    from stages.diffusion.schedule import Schedule
    from stages.models.denoiser import Denoiser, denoiser_config
    from stages.training.crops import ClipSet, split_clips
    from stages.training.denoising import DenoisingTask
    from stages.training.latents import cache_latents

    first_stage = checkpoint.load_first_stage(work / "vae-64")
    model = Denoiser(denoiser_config("tiny", latent_channels=first_stage.channels, audio_features=12))
    renderer = Renderer(first_stage, model, Schedule(prediction="sample"), "lower-face", 64)
    clips, vae = read_artifact(work, "clips"), read_artifact(work / "vae-64", "vae")
    cache_latents(renderer, clips, vae, tmp_path / "latents", Runtime(), references=2)
    sets = ClipSet(split_clips(clips, "train"), "train on"), ClipSet(split_clips(clips, "val"), "validate on")
    arrays = read_artifact(tmp_path / "latents", "latents"), read_artifact(work / "features", "features")
    config = train.Config(preset="tiny", pixel_weight=2.0, pixel_noise=0.01, one_step=0.5).resolved(64)
    task = DenoisingTask(model, renderer, *sets, *arrays, config, lambda a, b: (a - b).square().mean(dim=(1, 2, 3)))
    batch = task.batch(0, range(16), torch.device("cpu"))
    assert batch.at_once is not None and 3 < batch.at_once.sum() < 13
    assert (batch.t[batch.at_once] == 999).all() and (batch.t[~batch.at_once] < 999).any()
    z_t = task._noised(batch)
    assert torch.equal(z_t[batch.at_once], batch.noise[batch.at_once])
    assert not torch.equal(z_t[~batch.at_once], batch.noise[~batch.at_once])
    wrong = batch.z0 + 0.5 * batch.at_once[:, None, None, None]
    plain = replace(batch, pictures=None)
    assert task._pixel_loss(batch.z0, z_t, plain) < 1e-4 < task._pixel_loss(wrong, z_t, plain)
    # with pictures: nothing drawn is the reference itself, to the pixel, and it is judged against the true picture
    assert batch.pictures
    true, shown, _ = batch.pictures
    assert true.shape == shown.shape and true.abs().max() <= 1 and not torch.equal(true, shown)
    nothing = task._pixel_loss(torch.zeros_like(batch.z0), z_t, replace(batch, at_once=torch.ones(16, dtype=torch.bool)))
    apart = (shown - true).abs().mean() + (shown - true).square().mean()
    assert float(nothing) == pytest.approx(float(apart), rel=1e-2)  # a previous frame's latents are noisy
    for share in (-0.1, 1.1):
        with pytest.raises(UsageError, match="--one-step"):
            train.Config(one_step=share)
    task.config = replace(config, tint=0.3)
    tinted = task.batch(0, range(16), torch.device("cpu"))
    scale = tinted.z0 / batch.z0  # differences to the reference lose the offset
    assert scale.std(dim=(1, 2, 3)).max() < 1e-2 and scale.mean(dim=(1, 2, 3)).std() > 0.1
    offset = tinted.condition.masked - batch.condition.masked * scale.mean(dim=(1, 2, 3), keepdim=True)
    assert offset.std(dim=(2, 3)).max() < 1e-2 and offset.mean(dim=(2, 3)).std() > 0.1


def test_a_dry_run_tells_parameters_memory_and_time_and_writes_nothing(work, tmp_path):
    from stages.runtime import Reporter

    class Notes(Reporter):
        lines: list[str] = []

        def log(self, message: str) -> None:
            self.lines.append(message)

    runtime = Runtime(device="cpu", dry_run=True, reporter=Notes())
    train.run(replace(DENOISER, steps=1000, batch=8), train.Inputs(work), tmp_path / "d", runtime)
    text = "\n".join(Notes.lines)
    assert "parameters" in text and "GiB" in text and "for 1,000 steps of 8" in text and not (tmp_path / "d").exists()


def test_pieces_of_a_batch_give_the_step_of_the_whole(work, tmp_path):
    config = replace(DENOISER, batch=4, steps=3)
    for pieces in (1, 2, 4):
        train.run(config, train.Inputs(work), tmp_path / str(pieces), Runtime(device="cpu", accumulate=pieces))
    one, two, four = (weights(tmp_path / str(n)) for n in (1, 2, 4))
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-5
    assert max((one[k] - four[k]).abs().max().item() for k in one) < 1e-5
    with pytest.raises(UsageError, match="--accumulate 3"):
        train.run(config, train.Inputs(work), tmp_path / "x", Runtime(device="cpu", accumulate=3))


def test_recomputed_activations_change_nothing(work, tmp_path):
    for recompute in (False, True):
        train.run(DENOISER, train.Inputs(work), tmp_path / str(recompute), Runtime(device="cpu", gradient_checkpointing=recompute))
    one, two = (weights(tmp_path / name) for name in ("False", "True"))
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_takes_the_same_steps(tmp_path):
    root = make_training_data(tmp_path / "work", clips=2, frames=4)
    train_vae.run(replace(VAE, steps=1), root, None, Runtime(device="cpu"))
    train_vae.run(replace(VAE, steps=2), root, tmp_path / "plain", Runtime(device="cpu"))
    train_vae.run(replace(VAE, steps=2), root, tmp_path / "compiled", Runtime(device="cpu", compile=True))
    one, two = (weights(tmp_path / name) for name in ("plain", "compiled"))
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-4


def test_the_best_weights_are_kept_and_used_on_request(work, tmp_path):
    root = tmp_path / "d"
    train.run(replace(DENOISER, validate_every=1), train.Inputs(work), root, Runtime(device="cpu"))
    rows = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    losses = {r["step"]: r["loss"] for r in rows if r["kind"] == "validation"}
    best = json.loads((root / "state" / "best" / "state.json").read_text())
    assert best["step"] == min(losses, key=losses.get) and len(losses) == 4
    train.run(replace(DENOISER, validate_every=1, final="best"), train.Inputs(work), root, Runtime(device="cpu"))
    assert same(weights(root), load_file(root / "state" / "best" / "model.safetensors"))


def test_best_means_more_or_less_as_the_score_says(tmp_path):
    model = torch.nn.Linear(2, 2)
    kept = [checkpoint.keep_best(tmp_path, i, model, {"psnr": v}, "psnr", 1) for i, v in enumerate((3.0, 2.0, 4.0, 4.0))]
    assert kept == [True, False, True, False]
    kept = [checkpoint.keep_best(tmp_path / "b", i, model, {"loss": v}, "loss", -1) for i, v in enumerate((3.0, 2.0, 4.0))]
    assert kept == [True, True, False]
    assert checkpoint.load_best(tmp_path, model)["step"] == 2 and checkpoint.load_best(tmp_path / "none", model) is None


def test_a_sample_does_not_depend_on_its_batch(work, tmp_path):
    """The loss of a batch is the mean over its samples, in whatever order and company they come."""
    train.run(replace(DENOISER, steps=1), train.Inputs(work), tmp_path / "d", Runtime(device="cpu"))
    from stages.diffusion.render import Renderer
    from stages.diffusion.schedule import Schedule
    from stages.models.denoiser import Denoiser, denoiser_config
    from stages.training.crops import ClipSet, split_clips
    from stages.training.denoising import DenoisingTask

    torch.manual_seed(0)
    first_stage = checkpoint.load_first_stage(work / "vae-64")
    model = Denoiser(denoiser_config("tiny", latent_channels=first_stage.channels, audio_features=12))
    clips = read_artifact(work, "clips")
    sets = ClipSet(split_clips(clips, "train"), "train on"), ClipSet(split_clips(clips, "val"), "validate on")
    latents = min(work.glob("latents-64-lower-face-*-2-references"))
    arrays = read_artifact(latents, "latents"), read_artifact(work / "features", "features")
    task = DenoisingTask(model, Renderer(first_stage, model, Schedule(), "lower-face", 64), *sets, *arrays, train.Config().resolved(64))
    with torch.no_grad():
        whole = task.loss(model, task.batch(7, range(6), torch.device("cpu")))[0]
        alone = [task.loss(model, task.batch(7, range(i, i + 1), torch.device("cpu")))[0] for i in reversed(range(6))]
    assert torch.stack(alone).mean() == pytest.approx(whole.item(), rel=1e-5)
    assert len({round(float(x), 6) for x in alone}) == 6
