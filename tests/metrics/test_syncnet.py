"""SyncNet's architecture and inputs, and its weights by path. The official file is not here; a made one has its names and shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.errors import InputError, WeightsError
from stages.metrics.heard import SyncNetMeter
from stages.metrics.syncnet import (
    COLUMNS,
    FRAMES,
    PARAMETERS,
    LipEmbedder,
    SyncNet,
    boxes,
    cut,
    embed_sound,
    load_syncnet,
    sound_windows,
    window_count,
)
from tests.metrics.test_mouth import face, moved


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.save(SyncNet().state_dict(), path)
    return path


def test_the_network_has_the_releases_parameters_and_outputs() -> None:
    net = SyncNet().eval()
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS == 13_631_616
    with torch.inference_mode():
        assert net.lips(torch.zeros(1, 3, FRAMES, 224, 224)).shape == (1, 1024)
        assert net.sound(torch.zeros(2, 1, 13, COLUMNS)).shape == (2, 1024)
    names = set(net.state_dict())
    assert {"netcnnaud.0.weight", "netcnnlip.0.weight", "netfcaud.3.bias", "netfclip.1.running_mean"} <= names


def test_weights_come_from_a_path_and_wrong_files_are_told(weights_file: Path, tmp_path: Path) -> None:
    net = load_syncnet(weights_file)
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    stored = torch.load(weights_file, weights_only=True)
    assert torch.equal(net.state_dict()["netfclip.3.weight"], stored["netfclip.3.weight"])
    older = {k: v for k, v in stored.items() if not k.endswith("num_batches_tracked")}  # of a torch that did not count
    torch.save(older, tmp_path / "older.model")
    assert torch.equal(load_syncnet(tmp_path / "older.model").state_dict()["netcnnaud.0.weight"], stored["netcnnaud.0.weight"])
    with pytest.raises(InputError, match="no such file"):
        load_syncnet(tmp_path / "absent.model")
    (tmp_path / "text.model").write_text("a shopping list")
    torch.save({k: v for k, v in stored.items() if not k.startswith("netfcaud")}, tmp_path / "half.model")
    torch.save([1, 2, 3], tmp_path / "list.model")
    torch.save({"model": Path("x")}, tmp_path / "code.model")  # a pickle that names a class
    for name in ("text", "half", "list", "code"):
        with pytest.raises(WeightsError, match=f"{name}.model: not SyncNet's state dict"):
            load_syncnet(tmp_path / f"{name}.model")


def test_a_window_of_sound_is_20_columns_of_13_mfcc_from_each_frames_time_on() -> None:
    from python_speech_features import mfcc

    samples = np.random.default_rng(0).integers(-9000, 9000, 32_000).astype(np.int16)
    windows = sound_windows(samples)
    every = mfcc(samples, 16_000)  # 199 columns
    assert windows.shape == (45, 13, 20) and windows.dtype == np.float32
    np.testing.assert_allclose(windows[7], every[28:48].T, rtol=1e-5)
    assert sound_windows(samples[:3000]).shape == (0, 13, 20)
    assert window_count(50, len(samples)) == 45 and window_count(80, len(samples)) == 45 and window_count(3, 99) == 0


def test_the_crop_is_the_releases_square_around_the_face() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    inner = cut(frame, np.array([250.0, 180.0, 80.0]))  # 2.8 half sides: 224 pixels, so nothing is scaled
    np.testing.assert_array_equal(inner, frame[100:324, 138:362])
    edge = cut(frame, np.array([20.0, 180.0, 80.0]))
    assert (edge[:, :92] == 110).all() and np.array_equal(edge[:, 92:], frame[100:324, :132])
    assert (cut(frame, np.array([-900.0, -900.0, 5.0])) == 110).all()


def test_boxes_hold_the_face_and_are_steadied_over_13_frames() -> None:
    points = np.stack([moved(face(), 0, 60, (300 + i, 200)) for i in range(40)])
    points[20] += 500  # one wrong frame
    found = boxes(points)
    assert found.shape == (40, 3) and abs(found[20, 0] - found[19, 0]) < 3
    inside = np.abs(points[10] - found[10, :2]).max(0)
    assert (inside <= found[10, 2] + 1e-6).all()


def test_the_meter_gives_what_the_network_gives_window_by_window(weights_file: Path) -> None:
    net, random = load_syncnet(weights_file), np.random.default_rng(1)
    frames = random.integers(0, 256, (33, 240, 240, 3), dtype=np.uint8)
    samples = random.integers(-9000, 9000, 33 * 640).astype(np.int16)
    around = np.tile([120.0, 90.0, 60.0], (33, 1))
    meter, embedder = SyncNetMeter(net, around, 25.0), LipEmbedder(net)
    for frame, box in zip(frames, around, strict=True):
        meter.add(frame, None, None)
        embedder.add(cut(frame, box))
    lips = embedder.embeddings()
    assert lips.shape == (29, 1024)
    last = torch.from_numpy(np.stack([cut(f, around[0]) for f in frames[28:33]])[..., ::-1].copy()).float()  # BGR
    with torch.inference_mode():
        np.testing.assert_allclose(net.lips(last.permute(3, 0, 1, 2)[None])[0], lips[28], rtol=1e-3, atol=1e-4)
    score = meter.score(samples)
    assert score and score.curve.shape == (31,)
    sound = embed_sound(net, sound_windows(samples)[:28])
    middle = np.linalg.norm(lips[:28] - sound + 1e-6, axis=1).mean()  # offset 0
    assert score.curve[15] == pytest.approx(middle, rel=1e-4)
