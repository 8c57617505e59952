"""The first stage's whole recipe: LPIPS, a discriminator from some step on, exact resume, and nothing of it by default."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages import train_vae
from stages.artifacts import read_artifact
from stages.errors import UsageError, WeightsError
from stages.metrics import lpips
from stages.metrics.lpips import Lpips
from stages.models.discriminator import PatchDiscriminator, adaptive_weight
from stages.models.vae import build_first_stage, first_stage_config
from stages.runtime import Runtime
from stages.training import checkpoint
from stages.training.adversary import BETAS, Adversary
from stages.training.crops import ClipSet, split_clips
from stages.training.first_stage import FirstStageTask
from stages.training.loop import LoopConfig, fit
from tests.fetched import fetched
from tests.small import make_lpips_files, make_training_data

CPU = Runtime(device="cpu")
PLAIN = train_vae.Config(preset="tiny", steps=4, batch=2, patch=32, save_every=1, validate_every=4)
WHOLE = replace(PLAIN, perceptual_weight=1.0, adversarial_weight=0.75, adversarial_start=1)


def untrained(folder: Path) -> Lpips:
    return Lpips(*make_lpips_files(folder))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_training_data(tmp_path_factory.mktemp("adversary") / "work", frames=12)


@pytest.fixture(scope="module")
def perceptual(tmp_path_factory: pytest.TempPathFactory) -> Lpips:
    return untrained(tmp_path_factory.mktemp("lpips"))


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, perceptual: Lpips) -> None:
    """Features that never learned anything instead of VGG16's."""
    monkeypatch.setattr(lpips, "load_lpips", lambda network, runtime: perceptual)


def weights(root: Path) -> dict[str, torch.Tensor]:
    return load_file(root / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]


def make_task(work: Path, config: train_vae.Config, perceptual: Lpips | None = None, kind: str = "kl") -> FirstStageTask:
    clips = read_artifact(work, "clips")
    torch.manual_seed(0)
    shape = replace(first_stage_config("tiny", 64), kind=kind, widths=(16, 32, 32), latent_channels=4, codes=64, shortcut=False)
    stage = build_first_stage(shape)
    adversary = PatchDiscriminator(2, width=16) if config.adversarial_weight else None
    sets = ClipSet(split_clips(clips, "train"), "train on"), ClipSet(split_clips(clips, "val"), "validate on")
    return FirstStageTask(stage, *sets, config, perceptual, adversary)


def test_presets_carry_ldms_figures() -> None:
    def figures(preset: str, resolution: int) -> tuple:
        c = train_vae.Config(preset=preset).resolved(resolution)
        layers = len([m for m in train_vae._adversary(c, CPU).net if getattr(m, "stride", 0) == (2, 2)])
        return c.perceptual_weight, c.adversarial_weight, c.adversarial_start, layers, c.batch, c.learning_rate, c.mouth_weight

    assert figures("paper", 256) == (1.0, 0.75, 0, 3, 8, pytest.approx(4.5e-6 * 8), 1.0)
    assert figures("paper", 512) == (1.0, 0.6, 1, 2, 10, pytest.approx(4.5e-6 * 10), 1.0)
    for preset in ("kl-f4", "kl-f8"):
        assert figures(preset, 256) == (1.0, 0.5, 50_001, 3, 24, pytest.approx(4.5e-6 * 24), 1.0)
    for preset in ("tiny", "compact"):
        assert figures(preset, 256)[:3] == (0.0, 0.0, 0)
        loop = train_vae._loop(train_vae.Config(preset=preset).resolved(256))
        assert (loop.betas, loop.weight_decay, loop.warmup, loop.clip_gradient) == ((0.9, 0.999), 0.01, 100, 1.0)
    loop = train_vae._loop(train_vae.Config(preset="paper").resolved(256))
    assert (loop.betas, loop.weight_decay, loop.warmup, loop.clip_gradient) == ((0.5, 0.9), 0.0, 1, float("inf"))
    assert BETAS == (0.5, 0.9)
    given = train_vae.Config(preset="paper", adversarial_weight=0.0, perceptual_weight=0.5, adversarial_start=7).resolved(256)
    assert (given.adversarial_weight, given.perceptual_weight, given.adversarial_start) == (0.0, 0.5, 7)


def test_the_kl_term_stands_to_the_reconstruction_as_in_ldm() -> None:
    """LDM: 1e-6 times a sum over the latent, beside a sum over the picture's values."""
    for preset, factor, channels in (("kl-f4", 4, 3), ("kl-f8", 8, 4)):
        shape, side = first_stage_config(preset, 256), 256
        assert (shape.factor, shape.latent_channels) == (factor, channels)
        each, values, latents = 0.3, 3 * side**2, channels * (side // factor) ** 2
        ours = train_vae.Config(preset=preset).resolved(256).kl_weight * channels * each
        assert ours == pytest.approx(1e-6 * each * latents / values)


def test_kl_f8_is_stable_diffusions_first_stage() -> None:
    with torch.device("meta"):
        model = build_first_stage(first_stage_config("kl-f8", 256))
    assert sum(p.numel() for p in model.parameters()) == 83_653_863


def test_wrong_options_are_usage_errors() -> None:
    for wrong in ({"perceptual_weight": -1.0}, {"adversarial_weight": -0.1}, {"adversarial_start": -1}, {"mouth_weight": -1.0}):
        with pytest.raises(UsageError, match="at least 0"):
            train_vae.Config(**wrong)
    with pytest.raises(UsageError, match="fp16"):
        train_vae.Config(preset="paper", precision="fp16").resolved(256)


def test_without_the_recipe_a_training_is_what_it_was(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("neither features nor a discriminator are needed")

    monkeypatch.setattr(lpips, "load_lpips", never)
    monkeypatch.setattr(train_vae, "_adversary", never)
    train_vae.run(replace(PLAIN, steps=3), work, tmp_path / "default", CPU)
    zeros = replace(PLAIN, steps=3, perceptual_weight=0.0, adversarial_weight=0.0)
    train_vae.run(zeros, work, tmp_path / "zeros", CPU)
    assert same(weights(tmp_path / "default"), weights(tmp_path / "zeros"))
    names = {p.name for p in checkpoint.states(tmp_path / "default")[-1].iterdir()}
    assert names == {"model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"}


def test_the_loss_is_the_recipes_sum(work: Path, perceptual: Lpips) -> None:
    config = replace(WHOLE, adversarial_start=0).resolved(64)
    task = make_task(work, config, perceptual)
    batch = task.batch(0, range(3), torch.device("cpu"))
    total, figures = task.loss(task.model, batch)
    rebuilt, kl = task.model(batch.pictures, batch.noise)
    l1 = ((rebuilt - batch.pictures).abs() * batch.weight).mean()
    reconstruction = l1 + perceptual(rebuilt, batch.pictures).mean()
    adversarial = -task.adversary.net(rebuilt).mean()
    last = task.model.net.decoder.conv_out.weight
    pulls = [torch.autograd.grad(x, last, retain_graph=True)[0].square().sum().sqrt() for x in (reconstruction, adversarial)]
    ratio = pulls[0] / (pulls[1] + 1e-4)
    assert figures["adaptive_weight"].item() == pytest.approx(ratio.item(), rel=1e-4) and 0 < ratio < 1e4
    expected = reconstruction + 1e-6 * task.model.channels * kl + 0.75 * ratio * adversarial
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert figures["l1"].item() == pytest.approx(l1.item(), rel=1e-6)
    assert figures["perceptual"].item() == pytest.approx((reconstruction - l1).item(), rel=1e-4)
    assert figures["adversarial"].item() == pytest.approx(adversarial.item(), rel=1e-4)
    total.backward()
    assert all(p.grad is None for p in (*task.adversary.parameters(), *perceptual.parameters()))
    loss, seen = task.adversary_loss(task.adversary, batch)
    real, made = task.adversary.net(batch.pictures), task.adversary.net(rebuilt.detach())
    assert loss.item() == pytest.approx(0.5 * ((1 - real).relu().mean() + (1 + made).relu().mean()).item(), rel=1e-5)
    assert seen["logits_real"].item() == pytest.approx(real.mean().item(), abs=1e-6)
    loss.backward()
    assert all(p.grad is not None for p in task.adversary.parameters())


def test_before_its_start_the_adversary_counts_for_nothing_and_rests(work: Path) -> None:
    config = replace(WHOLE, perceptual_weight=0.0, adversarial_start=3).resolved(64)
    task, plain = make_task(work, config), make_task(work, replace(config, adversarial_weight=0.0))
    for step in (0, 2):
        batch = task.batch(step, range(2), torch.device("cpu"))
        total, figures = task.loss(task.model, batch)
        assert torch.equal(total, plain.loss(plain.model, plain.batch(step, range(2), torch.device("cpu")))[0])
        assert figures.keys() == {"l1", "regulariser"} and task.adversary_loss(task.adversary, batch) is None
    batch = task.batch(3, range(2), torch.device("cpu"))
    assert "adaptive_weight" in task.loss(task.model, batch)[1] and task.adversary_loss(task.adversary, batch) is not None


def test_the_discriminator_first_moves_at_its_start(work: Path, tmp_path: Path) -> None:
    config = replace(WHOLE, perceptual_weight=0.0, steps=2, adversarial_start=2)
    train_vae.run(config, work, tmp_path / "v", CPU)
    states = [load_file(s / "adversary.safetensors") for s in checkpoint.states(tmp_path / "v")]
    assert same(*states)
    train_vae.run(replace(config, steps=3), work, tmp_path / "v", CPU)
    after = load_file(checkpoint.states(tmp_path / "v")[-1] / "adversary.safetensors")
    assert all(not torch.equal(states[0][k], after[k]) for k in after if k.endswith("weight"))
    plain = replace(config, adversarial_weight=0.0)
    train_vae.run(plain, work, tmp_path / "plain", CPU)
    two = [checkpoint.states(tmp_path / n)[i] for n, i in (("v", 0), ("plain", -1))]
    assert [s.name for s in two] == ["step-000000002"] * 2
    assert same(*(load_file(s / "model.safetensors") for s in two)), "until then it changes nothing"


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_tiny_first_stage_learns_with_the_whole_recipe(work: Path, tmp_path: Path, perceptual: Lpips, kind: str) -> None:
    config = replace(WHOLE, steps=50, batch=4, adversarial_start=25, save_every=50, validate_every=50, learning_rate=5e-3).resolved(64)
    task = make_task(work, config, perceptual, kind)
    before = task.validate(task.model, torch.device("cpu"))
    outcome = fit(task, replace(LoopConfig.of(config), betas=(0.5, 0.9), ema=0.8, warmup=5), tmp_path, CPU, "key")
    assert outcome.scores["psnr"] > before["psnr"] + 1, (before, outcome.scores)
    found = [r for r in rows(tmp_path) if r["kind"] == "train"][-1]
    names = {"l1", "regulariser", "perceptual", "adversarial", "adaptive_weight", "discriminator", "logits_real", "logits_made", "loss"}
    assert names <= found.keys() and all(torch.tensor(found[n]).isfinite() for n in names)
    assert not any("adversary" in k for k in outcome.ema.state_dict())
    assert outcome.ema.state_dict().keys() == task.model.state_dict().keys(), "averages are the first stage's only"


def test_stopped_and_resumed_gives_the_very_same_weights(work: Path, tmp_path: Path, recipe: None) -> None:
    train_vae.run(WHOLE, work, tmp_path / "whole", CPU)
    train_vae.run(replace(WHOLE, steps=2), work, tmp_path / "parts", CPU)
    train_vae.run(WHOLE, work, tmp_path / "parts", CPU)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    last = [checkpoint.states(tmp_path / n)[-1] / "adversary.safetensors" for n in ("whole", "parts")]
    assert same(*map(load_file, last))


def test_killed_at_any_moment_and_rerun_gives_the_very_same_weights(work: Path, tmp_path: Path, recipe: None) -> None:
    train_vae.run(WHOLE, work, tmp_path / "whole", CPU)
    code = (
        "import sys\nfrom pathlib import Path\nfrom stages import train_vae\nfrom stages.metrics import lpips\n"
        "from tests.training.test_adversary import CPU, WHOLE, untrained\n"
        "lpips.load_lpips = lambda network, runtime: untrained(Path(sys.argv[3]))\n"
        "train_vae.run(WHOLE, Path(sys.argv[1]), Path(sys.argv[2]), CPU)"
    )
    command = [sys.executable, "-c", code, str(work), str(tmp_path / "killed"), str(tmp_path)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while len(checkpoint.states(tmp_path / "killed")) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.states(tmp_path / "killed"), "the run never reached a state"
    train_vae.run(WHOLE, work, tmp_path / "killed", CPU)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_a_state_keeps_the_adversarys_weights_and_moments(work: Path, tmp_path: Path) -> None:
    config = replace(WHOLE, perceptual_weight=0.0).resolved(64)
    task = make_task(work, config)
    adversary = Adversary(task, torch.device("cpu"))
    optimizer = torch.optim.AdamW(task.model.parameters())
    batch = task.batch(1, range(2), torch.device("cpu"))
    task.loss(task.model, batch)
    adversary.task.adversary_loss(adversary.module, batch)[0].backward()
    adversary.optimizer.step()
    parts = {"model": task.model, "ema": task.model, "optimizer": optimizer}
    checkpoint.save_state(tmp_path, 1, **parts, adversary=adversary, meta={"key": "k"})
    [state] = checkpoint.states(tmp_path)
    fresh = Adversary(make_task(work, config), torch.device("cpu"))
    with torch.no_grad():
        fresh.module.net[0].weight += 1
    assert checkpoint.load_state(state, **parts, adversary=fresh)["step"] == 1
    assert same(adversary.module.state_dict(), fresh.module.state_dict())
    moments = [list(a.optimizer.state_dict()["state"].values())[0]["exp_avg"] for a in (adversary, fresh)]
    assert torch.equal(*moments) and moments[0].abs().max() > 0
    assert checkpoint.load_state(state, **parts)["step"] == 1, "who has no adversary needs none of it"


def test_pieces_of_a_batch_train_both(work: Path, tmp_path: Path) -> None:
    config = replace(WHOLE, perceptual_weight=0.0, batch=4, steps=2, adversarial_start=0)
    for pieces in (1, 2):
        train_vae.run(config, work, tmp_path / str(pieces), replace(CPU, accumulate=pieces, gradient_checkpointing=pieces == 2))
    last = [load_file(checkpoint.states(tmp_path / n)[-1] / "adversary.safetensors") for n in ("1", "2")]
    one, two = (d["net.0.weight"] for d in last)
    assert not torch.equal(one, two) and (one - two).abs().max() < 0.01  # BatchNorm sees two pictures instead of four


def test_compiling_and_an_adversary_exclude_each_other(work: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--compile"):
        train_vae.run(replace(WHOLE, perceptual_weight=0.0), work, tmp_path / "v", replace(CPU, compile=True))


def test_missing_weights_are_told_before_training_and_other_options_may_follow(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFTALK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFTALK_WEIGHTS", raising=False)
    with pytest.raises(WeightsError, match="lpips-vgg-trunk.*--offline"):
        train_vae.run(WHOLE, work, tmp_path / "v", replace(CPU, offline=True))
    assert not (tmp_path / "v" / "state").exists()
    report = train_vae.run(replace(WHOLE, perceptual_weight=0.0, steps=1), work, tmp_path / "v", CPU)
    assert report.facts["finished"]


def test_a_training_from_before_these_options_goes_on(work: Path, tmp_path: Path) -> None:
    train_vae.run(PLAIN, work, tmp_path / "whole", CPU)
    train_vae.run(replace(PLAIN, steps=2), work, tmp_path / "old", CPU)
    new = ("perceptual_weight", "adversarial_weight", "adversarial_start")
    for name in ("training.json", "artifact.json"):
        record = json.loads((tmp_path / "old" / name).read_text())
        assert all(record["config"].pop(k) == 0 for k in new)
        (tmp_path / "old" / name).write_text(json.dumps(record))
    assert train_vae.run(replace(PLAIN, steps=2), work, tmp_path / "old", CPU).skipped == 1
    assert train_vae.run(PLAIN, work, tmp_path / "old", CPU).done == 1
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "old"))


@pytest.mark.weights
def test_the_real_vgg16_is_what_train_vae_takes(work: Path, tmp_path: Path) -> None:
    fetched("lpips-vgg-trunk"), fetched("lpips-vgg-heads")
    assert lpips.load_lpips("vgg", CPU).trunk.name == "VGG16"
    train_vae.run(replace(WHOLE, steps=2, validate_every=2), work, tmp_path / "v", CPU)
    assert all(x.isfinite().all() for x in weights(tmp_path / "v").values())


def test_weighing_the_two_losses_leaves_the_graph_for_the_step(work: Path) -> None:
    task = make_task(work, replace(WHOLE, perceptual_weight=0.0, adversarial_start=0).resolved(64))
    batch = task.batch(0, range(2), torch.device("cpu"))
    rebuilt, _ = task.model(batch.pictures, batch.noise)
    l1, g = (rebuilt - batch.pictures).abs().mean(), -task.adversary.frozen(rebuilt).mean()
    weight = adaptive_weight(l1, g, task.model.last)
    (l1 + weight * g).backward()
    assert task.model.last.grad is not None
    with torch.no_grad():
        assert "adversarial" in task.loss(task.model, batch)[1]  # counting operations needs no gradient


@pytest.mark.slow
def test_two_processes_train_one_model_and_one_adversary(work: Path, tmp_path: Path) -> None:
    """Both processes end with the same weights: gradients of both networks are shared out, pieces of a batch or not."""
    code = (
        "import os, sys\nfrom dataclasses import replace\nfrom pathlib import Path\nfrom safetensors.torch import save_file\n"
        "from stages import train_vae\nfrom stages.training import loop\nfrom tests.training.test_adversary import CPU, WHOLE\n"
        "class Kept(loop.Adversary):\n"
        "    def __init__(self, task, device):\n"
        "        super().__init__(task, device)\n"
        "        Kept.last = task\n"
        "loop.Adversary = Kept\n"
        "config = replace(WHOLE, perceptual_weight=0.0, batch=4)\n"
        "train_vae.run(config, Path(sys.argv[1]), Path(sys.argv[2]) / 'v', replace(CPU, accumulate=2))\n"
        "task = Kept.last\n"
        "both = {f'{n}.{k}': p.detach() for n in ('model', 'adversary') for k, p in getattr(task, n).named_parameters()}\n"
        "save_file(both, Path(sys.argv[2]) / f'rank-{os.environ[\"RANK\"]}.safetensors')\n"
    )
    (tmp_path / "both.py").write_text(code)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "both.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run([*command, str(work), str(tmp_path)], capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert same(one, two)
    torch.manual_seed(0)
    build_first_stage(first_stage_config("tiny", 64))
    before = train_vae._adversary(WHOLE.resolved(64), CPU).net[0].weight
    assert not torch.equal(before, one["adversary.net.0.weight"]), "it must have moved"
