"""Small made things that several tests need."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np


def make_model(root: Path, resolution: int = 128, seed: int = 0, still: bool = False) -> Path:
    """A whole denoiser artifact with random weights, as `difftalk train` would leave it: what infer reads, in a second.

    A `still` one shows the reference's mouth whatever is said: a picture instead of noise.
    """
    import torch

    from stages.artifacts import Input, write_json
    from stages.artifacts.model import ModelStore
    from stages.diffusion.schedule import Schedule
    from stages.models.denoiser import Denoiser, denoiser_config
    from stages.models.vae import build_first_stage, first_stage_config
    from stages.runtime import Runtime
    from stages.train import Config
    from stages.train_vae import _net_config
    from stages.training.checkpoint import save_weights

    torch.manual_seed(seed)
    config = Config(preset="tiny").resolved(resolution)
    first_stage = build_first_stage(first_stage_config("tiny", resolution))
    kind = {"residual": True, "prediction": "sample"} if still else {}
    shape = denoiser_config("tiny", latent_channels=first_stage.channels, audio_features=80, widths=(32, 32, 64), **kind)
    denoiser = Denoiser(shape)
    if still:
        torch.nn.init.zeros_(denoiser.unet.conv_out.weight)
        torch.nn.init.zeros_(denoiser.unet.conv_out.bias)
    (root / "first-stage").mkdir(parents=True)
    told = dict(code=1, config=config, inputs=[Input("clips", "clips", "0")], runtime=Runtime())
    with ModelStore(root / "first-stage", kind="vae", stage="train-vae", **told) as store:
        save_weights(root / "first-stage" / "model.safetensors", first_stage)
        net = {"first_stage": first_stage.config, "net": _net_config(first_stage), "mean": [], "std": []}
        write_json(root / "first-stage" / "config.json", net)
        store.seal(["model.safetensors", "config.json"], {"finished": True})
    with ModelStore(root, kind="denoiser", stage="train", **told) as store:
        save_weights(root / "model.safetensors", denoiser)
        described = {
            "denoiser": denoiser.config_dict(),
            "schedule": asdict(Schedule(prediction=shape.prediction)),
            "mask": "lower-face",
            "resolution": resolution,
            "audio": {"encoder": "mel", "features": 80, "weights": []},
        }
        write_json(root / "config.json", described)
        store.seal(["model.safetensors", "config.json"], {"finished": True})
    return root


def make_training_data(root: Path, clips: int = 3, frames: int = 80, resolution: int = 64) -> Path:
    """A work folder with clips and features artifacts of smooth noise: what train-vae and train read, without a face."""
    from stages.artifacts import Input, Store, Unit
    from stages.extract_audio import Config as AudioConfig
    from stages.media.audio import write_wav
    from stages.preprocess import Config
    from stages.runtime import Runtime
    from stages.speech.windows import neighbours

    rng = np.random.default_rng(0)
    ids = [f"clip{i}-0000000{i}" for i in range(clips)]
    config = Config(resolution=resolution)
    with Store(root, kind="clips", stage="preprocess", code=1, config=config, runtime=Runtime()) as store:
        for id in ids:
            for unit in store.plan([Unit(id, (Input("video", "file", id),))]):
                with store.draft(unit) as draft:
                    coarse = rng.integers(0, 256, (frames, 4, 4, 3)).astype(np.uint8)
                    smooth = [cv2.resize(c, (resolution, resolution), interpolation=cv2.INTER_CUBIC) for c in coarse]
                    np.save(draft.path / "crops.npy", np.stack(smooth))
                    np.save(draft.path / "frames.npy", np.arange(frames, dtype=np.int32))
                    np.save(draft.path / "segment.npy", np.zeros(frames, np.int32))
                    np.save(draft.path / "landmarks.npy", rng.uniform(0, 1, (frames, 68, 2)).astype(np.float32))
                    np.save(draft.path / "align.npy", np.tile(np.eye(2, 3, dtype=np.float32), (frames, 1, 1)))
                    np.save(draft.path / "identity.npy", rng.normal(size=128).astype(np.float32))
                    write_wav(draft.path / "speech.wav", np.zeros(frames * 640, np.int16))
                    draft.facts |= {"frames": frames, "frames_total": frames, "fps": "25/1"}
        split = {id: "val" if i == 0 else "train" for i, id in enumerate(ids)}
        store.seal(facts={"identity": {id: id for id in ids}, "split": split})
    made = {p.parent.name: p for p in root.glob("clips/*/clip.json")}
    from stages.artifacts.read import read_clip

    with Store(root / "features", kind="features", stage="extract-audio", code=1, config=AudioConfig(), runtime=Runtime()) as store:
        units = [Unit(id, (Input("clip", "clips", read_clip(p.parent).digest),)) for id, p in made.items()]
        for unit in store.plan(units):
            with store.draft(unit) as draft:
                np.save(draft.path / "audio.npy", rng.normal(size=(frames, 16, 12)).astype(np.float32))
                np.save(draft.path / "neighbours.npy", neighbours(frames, 25))
        store.seal(facts={"encoder": "mel", "features": 12, "rows_hz": 50, "window": 16})
    return root


def make_lpips_files(folder: Path, network: str = "alex") -> tuple[Path, Path]:
    """Trunk and heads of LPIPS in the packages' formats, with random values."""
    import pickle

    import torch

    from stages.metrics.lpips import TRUNKS

    random, layers = np.random.default_rng(0), {}
    for i, shape in enumerate(TRUNKS[network].kernels):
        kernel = random.normal(0, np.sqrt(1.5 / np.prod(shape[:3])), shape)
        layers[f"Conv_{i}"] = {"kernel": kernel.astype(np.float32), "bias": random.normal(0, 0.1, shape[3]).astype(np.float32)}
    trunk, heads = folder / "trunk.ckpt", folder / "heads.pth"
    trunk.write_bytes(pickle.dumps({TRUNKS[network].key: layers}, protocol=3))
    generator = torch.Generator().manual_seed(0)
    channels = TRUNKS[network].channels
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for i, c in enumerate(channels)}, heads)
    return trunk, heads
