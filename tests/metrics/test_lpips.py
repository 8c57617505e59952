"""LPIPS: the published example values, the arithmetic against the paper's formula written out, gradients, and safe loading."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from stages.artifacts import file_digest
from stages.errors import WeightsError
from stages.metrics.lpips import SCALE, SHIFT, TRUNKS, Lpips, load_arrays
from tests.fetched import fetched
from tests.small import make_lpips_files

PUBLISHED = {"I03": 0.7237, "I04": 0.2572, "I06": 0.05079, "I08": 0.05205, "I19": 0.4253}
"""LPIPS (alex, v0.1) of five TID2013 pairs by its authors' code: IQA-PyTorch, ResultsCalibra/results_original.csv.
Both pictures of each pair lie in the source package pyiqa 0.1.0."""
PYIQA_SHA256 = "6b31ad9d1f1fd863dfb95e6669c384e4fef2452690219d4be46cede4237912a0"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """AlexNet's trunk and heads in the packages' formats, with random values."""
    return make_lpips_files(tmp_path)


def frames(count: int, seed: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


ALEXNET = [(4, 2, 0, True), (1, 2, 3, True), (1, 1, 3, True), (1, 1, 0, True), (1, 1, 0, True)]
VGG16 = [(1, 1, 2 if i in (2, 4, 7, 10) else 0, i in (1, 3, 6, 9, 12)) for i in range(13)]
"""(stride, padding, side of the pooling before it, whether it is compared) of each convolution."""


def by_the_formula(network: str, trunk: Path, heads: Path, a: np.ndarray, b: np.ndarray) -> float:
    """Equation 1 of the paper for one pair of pictures (H, W, 3) u8, position by position."""
    layers = next(iter(pickle.loads(trunk.read_bytes()).values()))
    lin = torch.load(heads, weights_only=True)

    def features(picture: np.ndarray) -> list[np.ndarray]:
        x = (picture / 127.5 - 1 - np.array(SHIFT)) / np.array(SCALE)
        y = torch.from_numpy(x.transpose(2, 0, 1)[None]).double()
        found = []
        for i, (stride, padding, pool, compared) in enumerate(ALEXNET if network == "alex" else VGG16):
            y = F.max_pool2d(y, pool, 2) if pool else y
            kernel = torch.from_numpy(layers[f"Conv_{i}"]["kernel"]).permute(3, 2, 0, 1).double()
            y = F.conv2d(y, kernel, torch.from_numpy(layers[f"Conv_{i}"]["bias"]).double(), stride, padding).relu()
            if compared:
                found.append(y[0].numpy())  # (C, h, w)
        return found

    total = 0.0
    for i, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        w = lin[f"lin{i}.model.1.weight"].double().numpy()[0, :, 0, 0]
        for row in range(x.shape[1]):
            for column in range(x.shape[2]):
                p, q = x[:, row, column], y[:, row, column]
                p, q = p / (np.linalg.norm(p) + 1e-10), q / (np.linalg.norm(q) + 1e-10)
                total += float(w @ (p - q) ** 2) / (x.shape[1] * x.shape[2])
    return total


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_distance_is_the_papers_formula(tmp_path: Path, network: str) -> None:
    files = make_lpips_files(tmp_path, network)
    a, b = frames(2, 1, side=48), frames(2, 2, side=48)
    found = Lpips(*files, network).frames(a, b)
    assert found.shape == (2,)
    expected = [by_the_formula(network, *files, x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_the_least_picture_leaves_something_to_compare(tmp_path: Path, network: str) -> None:
    metric, side = Lpips(*make_lpips_files(tmp_path, network), network), TRUNKS[network].smallest
    assert metric.frames(frames(1, 1, side), frames(1, 2, side))[0] > 0
    with pytest.raises(RuntimeError, match="too small|smaller than"):
        metric.features(torch.zeros(1, 3, side - 1, side - 1))


def test_gradients_reach_the_pictures_and_are_numbers_where_all_features_are_zero(files: tuple[Path, Path]) -> None:
    metric = Lpips(*files)
    a = torch.from_numpy(frames(1, 1)).permute(0, 3, 1, 2) / 127.5 - 1
    made = (a * 0.5).requires_grad_()
    before = metric(made, a)
    before.sum().backward()
    assert made.grad is not None and made.grad.isfinite().all() and all(p.grad is None for p in metric.parameters())
    with torch.no_grad():
        assert metric(made - 1e-3 * made.grad / made.grad.abs().max(), a) < before
    with torch.no_grad():
        metric.convs[0].bias.fill_(-100)  # no feature is left
    dark = torch.zeros_like(a).requires_grad_()
    metric(dark, a).sum().backward()
    assert dark.grad is not None and dark.grad.isfinite().all()


def test_equal_pictures_have_distance_zero_and_order_does_not_matter(files: tuple[Path, Path]) -> None:
    metric, a, b = Lpips(*files), frames(2, 1), frames(2, 2)
    assert metric.frames(a, a).max() == 0
    np.testing.assert_allclose(metric.frames(a, b), metric.frames(b, a), rtol=1e-5)


def test_a_pair_in_a_batch_scores_as_alone(files: tuple[Path, Path]) -> None:
    metric, a, b = Lpips(*files), frames(4, 1), frames(4, 2)
    alone = [metric.frames(a[i : i + 1], b[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(metric.frames(a, b), alone, rtol=1e-5)


class Trap:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_trunk_that_would_run_code_is_refused_before_it_runs(files: tuple[Path, Path], tmp_path: Path) -> None:
    evil = tmp_path / "evil.ckpt"
    evil.write_bytes(pickle.dumps({"AlexNet_0": Trap(tmp_path / "sprung")}))
    with pytest.raises(ValueError, match="mkdir is not allowed"):
        load_arrays(evil)
    with pytest.raises(WeightsError, match=r"evil\.ckpt"):
        Lpips(evil, files[1])
    assert not (tmp_path / "sprung").exists()


def test_heads_that_would_run_code_are_refused_before_they_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    evil = tmp_path / "evil.pth"
    torch.save({"lin0.model.1.weight": Trap(tmp_path / "sprung")}, evil)
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        Lpips(files[0], evil)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"AlexNet_0": {}}), pickle.dumps([1, 2])])
def test_a_damaged_trunk_is_a_weights_error(files: tuple[Path, Path], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.ckpt").write_bytes(content)
    with pytest.raises(WeightsError, match="not the AlexNet trunk"):
        Lpips(tmp_path / "bad.ckpt", files[1])


def test_a_truncated_trunk_and_a_swapped_file_are_weights_errors(files: tuple[Path, Path], tmp_path: Path) -> None:
    trunk, heads = files
    (tmp_path / "short.ckpt").write_bytes(trunk.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="not the AlexNet trunk"):
        Lpips(tmp_path / "short.ckpt", heads)
    with pytest.raises(WeightsError, match="not the AlexNet trunk"):
        Lpips(heads, heads)
    with pytest.raises(WeightsError, match="not the AlexNet trunk"):
        Lpips(tmp_path / "absent.ckpt", heads)
    (tmp_path / "short.pth").write_bytes(heads.read_bytes()[:2000])
    with pytest.raises(WeightsError, match="not the linear heads"):
        Lpips(trunk, tmp_path / "short.pth")


@pytest.fixture(scope="module")
def real() -> Lpips:
    return Lpips(fetched("lpips-alex-trunk"), fetched("lpips-alex-heads"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source package that holds the example pictures; fetched through pip, never kept."""
    folder = tmp_path_factory.mktemp("pyiqa")
    (folder / "wanted.txt").write_text(f"pyiqa==0.1.0 --hash=sha256:{PYIQA_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "pyiqa", "--no-build-isolation", "-q"]
    command += ["--require-hashes", "-r", str(folder / "wanted.txt"), "-d", str(folder), "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    archive = folder / "pyiqa-0.1.0.tar.gz"
    if done.returncode or not archive.is_file():
        pytest.skip(f"pip cannot fetch pyiqa 0.1.0, which holds the example pictures: {done.stderr.strip()[-200:]}")
    assert file_digest(archive) == PYIQA_SHA256
    return archive


@pytest.mark.weights
def test_published_example_values_are_reproduced(real: Lpips, examples: Path) -> None:
    with tarfile.open(examples) as archive:
        for name, published in PUBLISHED.items():
            pair = []
            for side in ("ref_dir", "dist_dir"):
                member = archive.extractfile(f"pyiqa-0.1.0/ResultsCalibra/{side}/{name}.bmp")
                assert member is not None
                pair.append(np.asarray(Image.open(io.BytesIO(member.read())).convert("RGB"))[None])
            assert real.frames(*pair)[0] == pytest.approx(published, abs=1e-4), name


@pytest.mark.weights
def test_real_heads_are_not_negative_so_that_distance_grows_with_any_difference(real: Lpips) -> None:
    assert all((head >= 0).all() for head in real.heads)
    a = frames(1, 3, 128)
    near = np.clip(a.astype(int) + 8, 0, 255).astype(np.uint8)
    assert 0 < real.frames(a, near)[0] < real.frames(a, frames(1, 4, 128))[0]


@pytest.mark.weights
def test_vgg16_loads_and_ranks_differences() -> None:
    metric = Lpips(fetched("lpips-vgg-trunk"), fetched("lpips-vgg-heads"), "vgg")
    assert all((head >= 0).all() for head in metric.heads)
    a = frames(1, 3, 96)
    near = np.clip(a.astype(int) + 8, 0, 255).astype(np.uint8)
    assert 0 < metric.frames(a, near)[0] < metric.frames(a, frames(1, 4, 96))[0]
