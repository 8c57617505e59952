"""Eight frames of a real clip, learned by heart: what training optimises and what sampling shows are the same thing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages import extract_audio, infer, preprocess, train, train_vae
from stages.artifacts import Input, Store, Unit, read_artifact
from stages.runtime import Runtime
from tests.bench.held_out import evaluate

CPU = Runtime(device="cpu")
FRAMES, RESOLUTION, STEPS = 8, 128, 600


def first_frames(source: Path, root: Path) -> Path:
    """The clips artifact `source`, cut to a few frames that are far enough apart to differ, on both sides of the split."""
    work = read_artifact(source, "clips")
    [clip] = work.clips.values()
    picked = np.linspace(0, clip.facts["frames"] - 1, FRAMES).astype(int)
    config = preprocess.Config(resolution=RESOLUTION)
    ids = {"seen-00000000": "train", "again-0000000": "val"}
    with Store(root, kind="clips", stage="preprocess", code=1, config=config, runtime=CPU) as store:
        for unit in store.plan([Unit(id, (Input("video", "file", id),)) for id in ids]):
            with store.draft(unit) as draft:
                for name in ("crops", "landmarks", "align", "segment", "frames"):
                    np.save(draft.path / f"{name}.npy", np.asarray(clip.array(f"{name}.npy"))[picked])
                np.save(draft.path / "identity.npy", np.asarray(clip.array("identity.npy")))
                (draft.path / "speech.wav").write_bytes((clip.path / "speech.wav").read_bytes())
                draft.facts |= {**clip.facts, "frames": FRAMES}
        store.seal(facts={"identity": {id: id for id in ids}, "split": ids})
    return root


@pytest.mark.long
def test_eight_frames_of_a_real_clip_are_learned_by_heart(shared_clips, tmp_path):
    whole = tmp_path / "whole"
    preprocess.run(preprocess.Config(resolution=RESOLUTION), [shared_clips / "train" / "rizkiarm__LipNet__bbaf2n.mpg"], whole, CPU)
    work = first_frames(whole, tmp_path / "work")
    extract_audio.run(extract_audio.Config(), work, None, CPU)
    train_vae.run(train_vae.Config(preset="tiny", steps=150, batch=4, patch=64, save_every=1000, validate_every=1000), work, None, CPU)
    config = train.Config(preset="tiny", steps=STEPS, batch=8, learning_rate=1e-3, ema=0.99, save_every=10**6, validate_every=10**6)
    train.run(replace(config, previous_frame_share=0.0), train.Inputs(work), tmp_path / "model", CPU)
    features = read_artifact(work / "features", "features")
    scores = evaluate(tmp_path / "model", read_artifact(work, "clips"), features, side="val", frames=FRAMES, steps=20)
    print({k: str(v) for k, v in scores.items()})
    assert infer.load_model(tmp_path / "model", CPU)
    assert scores["generated"].psnr >= 30, scores
    assert scores["generated"].opening > 0.8, scores

