from pathlib import Path

import numpy as np
import pytest
import torch

from stages.errors import WeightsError
from stages.models import rife
from stages.models.rife import Rife, bisect, warp
from tests.fetched import fetched


@pytest.fixture(scope="module")
def untrained() -> Rife:
    torch.manual_seed(0)
    return Rife()


@pytest.fixture(scope="module")
def trained() -> Rife:
    return rife.load(fetched("rife-hdv3"))


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(-10 * (x - y).square().mean().log10())


def scene(shift: float, size: int = 128) -> torch.Tensor:
    """(1, 3, size, size): a smooth texture that has moved to the right, exact for any shift."""
    y, x = torch.meshgrid(torch.arange(size) / 9.0, (torch.arange(size) - shift) / 9.0, indexing="ij")
    waves = [torch.sin(x + 0.6 * c) * torch.cos(y * (0.7 + 0.2 * c)) + 0.5 * torch.sin(2.3 * x + y) for c in range(3)]
    return (torch.stack(waves)[None] / 3 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (70, 5)])
def test_any_size_comes_back_as_it_was(untrained, size):
    a, b = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    middle = untrained.between(a, b)
    assert middle.shape == a.shape and middle.dtype == torch.float32
    assert 0 <= float(middle.min()) and float(middle.max()) <= 1


def test_played_backwards_gives_the_same_picture(untrained):
    a, b = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(untrained.between(a, b), untrained.between(b, a), atol=1e-5, rtol=0)


def test_each_pair_of_a_batch_stands_alone(untrained):
    a, b = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32)
    together = untrained.between(a, b)
    torch.testing.assert_close(together[1:2], untrained.between(a[1:2], b[1:2]), atol=1e-5, rtol=0)


def test_warp_looks_up_at_pixel_plus_flow_and_continues_the_border():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 1  # x before y
    torch.testing.assert_close(warp(x, flow), x[..., [1, 2, 3, 3]])
    flow[:, 0], flow[:, 1] = 0, -1
    torch.testing.assert_close(warp(x, flow), x[:, :, [0, 0, 1]])


def test_bisection_meets_sixteenths_exactly_and_others_nearly():
    def middle(x: float, y: float) -> float:
        return (x + y) / 2

    exact = [k / 16 for k in range(17)]
    assert bisect(middle, 0.0, 1.0, exact) == exact
    others = [1 / 3, 0.4, 0.9]
    assert np.abs(np.array(bisect(middle, 0.0, 1.0, others)) - others).max() <= 1 / 32


def test_bisection_computes_shared_pictures_once():
    calls = []

    def middle(x: float, y: float) -> float:
        calls.append((x, y))
        return (x + y) / 2

    bisect(middle, 0.0, 1.0, [0, 0.25, 0.5, 0.75])
    assert len(calls) == 3 == len(set(calls))


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    return path


def test_load_reads_prefixed_keys_and_passes_over_the_teacher(untrained, tmp_path):
    path = save(tmp_path / "flownet.pkl", {**untrained.state_dict(), "block_tea.conv1.2.bias": torch.zeros(4)})
    a, b = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    assert torch.equal(rife.load(path).between(a, b), untrained.between(a, b))


@pytest.mark.parametrize("change", ["missing", "foreign", "shape"])
def test_load_refuses_another_version(untrained, tmp_path, change):
    state = dict(untrained.state_dict())
    if change == "missing":
        del state["block2.conv2.2.bias"]
    elif change == "foreign":
        state["encode.0.weight"] = torch.zeros(1)
    else:
        state["block0.conv0.0.0.weight"] = torch.zeros(45, 7, 3, 3)
    with pytest.raises(WeightsError, match="not the weights of RIFE HDv3"):
        rife.load(save(tmp_path / "flownet.pkl", state))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_load_runs_no_code_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"module.x": Evil()}, "evil.pkl")
    with pytest.raises(WeightsError):
        rife.load(Path("evil.pkl"))
    assert not Path("ran").exists()
    Path("text.pkl").write_text("not a pickle")
    with pytest.raises(WeightsError):
        rife.load(Path("text.pkl"))


@pytest.mark.weights
@pytest.mark.parametrize("size", [128, 101])
def test_moving_texture_is_met_far_better_than_by_a_blend(trained, size):
    a, b, truth = scene(0, size), scene(8, size), scene(4, size)
    assert psnr(trained.between(a, b), truth) > psnr((a + b) / 2, truth) + 8


@pytest.mark.weights
def test_timesteps_lie_in_order_along_the_motion(trained):
    a, b = scene(0), scene(8)
    for step, picture in zip((0.25, 0.5, 0.75), trained.at(a, b, [0.25, 0.5, 0.75]), strict=True):
        blend = psnr((1 - step) * a + step * b, scene(8 * step))
        assert psnr(picture, scene(8 * step)) > blend + 5, step


@pytest.mark.weights
def test_motion_can_be_looked_for_at_half_the_size(trained):
    a, b, truth = scene(0, 192), scene(8, 192), scene(4, 192)
    assert psnr(trained.between(a, b, shrink=2), truth) > psnr((a + b) / 2, truth) + 5


@pytest.mark.slow
@pytest.mark.weights
def test_real_speech_is_met_better_than_by_a_blend_in_most_clips(trained):
    """One triple of every fourth clip, still ones and unevenly timed ones included: a blend wins some of those."""
    from stages.media import VideoReader

    folder = Path(__file__).parents[2] / ".." / "shared" / "clips" / "train"
    clips = sorted(folder.iterdir())[::4] if folder.exists() else []
    if len(clips) < 8:
        pytest.skip(f"too few real clips beside the tree ({folder})")
    gains = []
    for clip in clips:
        frames = [torch.tensor(f).permute(2, 0, 1)[None] / 255 for f in VideoReader(clip, start_seconds=1.0, frames=3)]
        scale = min(1.0, 224 / min(frames[0].shape[2:]))
        size = [round(n * scale) for n in frames[0].shape[2:]]
        a, truth, b = (torch.nn.functional.interpolate(f, size=size, mode="area") for f in frames)
        gains.append(psnr(trained.between(a, b), truth) - psnr((a + b) / 2, truth))
    assert np.median(gains) > 0.1 and np.mean(gains) > 0.5, gains
