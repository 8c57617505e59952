"""Trains difftalk-sync and tells whether it works: on people that it was not trained on.

    python -m tests.bench.sync_expert WORK [--folds 5] [--steps 500] [--out stages/metrics/difftalk-sync] [--without NAME ...]

WORK is a clips artifact with sound. First the trials, by folds of identities: films of 3 s, of people of the other folds' networks,
with the sound shifted by up to 10 frames; found is found when it is within one frame of the shift and the offset that the whole film
has (which the same network finds: cameras and editors are some frames off). Then, with --out, one network on all clips.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from stages.artifacts import Clip, read_artifact
from stages.media.audio import read_audio
from stages.metrics.expert import SyncExpert, embed, film_lips, standardise
from stages.metrics.sync import SYNC_RATE, VSHIFT, sync_score
from stages.runtime import Runtime
from stages.speech.encoder import open_encoder
from stages.speech.training.augment import augment
from stages.training.order import generator

LENGTH, STRIDE, SHIFT = 75, 12, 10
"""Frames of a trial (3 s), between trials, and that the sound is shifted by at most."""
ROUNDS, BATCH = 3, 24
VERSIONS = 4
"""Of a clip's sound: as it is, and with rooms, noise and other microphones."""


@dataclass
class Film:
    name: str
    person: str
    rows: list[np.ndarray]
    """Versions of the sound's features (R, F) at 50 Hz."""
    shapes: np.ndarray
    """(T, 4) at 25 Hz, nan where no face is."""
    offset: int = 0
    """Frames by which the sound comes before the lips, as sync_score says it."""


def read(clip: Clip, person: str, encoder, number: int) -> Film | None:
    if not (clip.path / "speech.wav").exists():
        return None
    samples = read_audio(clip.path / "speech.wav")
    rng = generator(number, 3)
    rows = [encoder.encode(samples if k == 0 else augment(samples, rng, samples)) for k in range(VERSIONS)]
    arrays = (np.asarray(clip.array(f"{name}.npy")) for name in ("align", "landmarks", "frames"))
    even = film_lips(*arrays, float(Fraction(clip.facts["fps"])))
    return Film(clip.id, person, rows, even) if len(even) >= LENGTH - 2 else None


def fit(films: list[Film], steps: int, seed: int) -> SyncExpert:
    torch.manual_seed(seed)
    rng = generator(seed, 4)
    expert = SyncExpert(films[0].rows[0].shape[1])
    rows = np.concatenate([f.rows[0] for f in films])
    expert.mean[:, 0], expert.deviation[:, 0] = torch.from_numpy(rows.mean(0)), torch.from_numpy(rows.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(expert.parameters(), 2e-3, weight_decay=0.1)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    lips = [standardise(f.shapes) for f in films]
    share = np.array([len(f.shapes) for f in films]) ** 0.6
    for _ in range(steps):
        drawn = [piece(films[k], lips[k], rng) for k in rng.choice(len(films), BATCH, p=share / share.sum())]
        sound, shapes = (torch.from_numpy(np.stack(x)) for x in zip(*drawn, strict=True))
        sound = sound + 0.2 * expert.deviation * torch.randn_like(sound)
        a, v = expert.sound(sound), expert.lips(shapes)  # (B, E, T + 30), (B, E, T)
        curve = torch.stack([(v * a[..., k : k + v.shape[-1]]).sum(1).mean(-1) for k in range(2 * VSHIFT + 1)], 1)  # (B, 31)
        wanted = torch.full((BATCH,), VSHIFT)
        loss = torch.nn.functional.cross_entropy(curve * expert.sharpness.exp(), wanted, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return expert.eval()


def piece(film: Film, lips: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """1.5 s of lips (4, T), and of the sound 15 frames more on either side (F, 2 (T + 30)), the film's own offset undone."""
    count = LENGTH // 2
    start = int(rng.integers(max(1, len(lips) - count + 1)))
    rows = film.rows[int(rng.integers(len(film.rows)))]
    at = 2 * (start - film.offset - VSHIFT) + np.arange(2 * (count + 2 * VSHIFT))
    sound = np.where(((at >= 0) & (at < len(rows)))[:, None], rows[np.clip(at, 0, len(rows) - 1)], 0)
    seen = lips[np.minimum(start + np.arange(count), len(lips) - 1)]
    seen = seen * rng.uniform(0.7, 1.3, (1, 4)) + rng.normal(0, 0.25, seen.shape)  # other mouths, other landmarks
    return np.ascontiguousarray(sound.T, np.float32), np.ascontiguousarray(seen.T, np.float32)


def offset(expert: SyncExpert, film: Film) -> int:
    return round(sync_score(*embed(expert, film.rows[0], film.shapes)).offset)


def trials(expert: SyncExpert, film: Film, rng: np.random.Generator) -> list[bool]:
    """Whether each stretch of 3 s tells the shift of its sound, within one frame."""
    own, found = offset(expert, film), []
    for start in range(0, len(film.shapes) - LENGTH + 1, STRIDE):
        shift = int(rng.integers(-SHIFT, SHIFT + 1))
        at = np.clip(2 * (start + shift) + np.arange(2 * LENGTH), 0, len(film.rows[0]) - 1)
        score = sync_score(*embed(expert, film.rows[0][at], film.shapes[start : start + LENGTH]))
        found.append(abs(score.offset - (own + shift)) <= 1)
    return found


def fit_by_rounds(films: list[Film], steps: int, folds: int) -> dict[str, SyncExpert]:
    """The network of each film, that knows nobody in it; offsets are found anew after every round."""
    people = sorted({f.person for f in films})
    fold = dict(zip(people, (generator(0, 5).permutation(len(people)) % folds).tolist(), strict=True))
    experts: dict[int, SyncExpert] = {}
    for number in range(ROUNDS):
        experts = {k: fit([f for f in films if fold[f.person] != k], steps, k) for k in range(folds)}
        for f in films:
            f.offset = offset(experts[fold[f.person]], f)
        print(f"round {number + 1}: offsets {sorted(f.offset for f in films)}", flush=True)
    return {f.name: experts[fold[f.person]] for f in films}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--encoder", default="mel")
    parser.add_argument("--model", type=Path, help="an acoustic model, for --encoder deepspeech")
    parser.add_argument("--without", nargs="*", default=[], help="clips that the network of --out does not learn from (patterns)")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    torch.set_num_threads(1)
    work = read_artifact(o.work, "clips")
    people = work.manifest["facts"]["identity"]
    encoder = open_encoder(o.encoder, o.model, Runtime(device="cpu"), threads=1)
    read_films = [read(c, people[id], encoder, k) for k, (id, c) in enumerate(sorted(work.clips.items()))]
    films = [f for f in read_films if f is not None]
    print(f"{len(films)} films of {len({f.person for f in films})} people, {sum(len(f.shapes) for f in films) / SYNC_RATE / 60:.1f} min")
    experts = fit_by_rounds(films, o.steps, o.folds)
    rng = generator(0, 6)
    hits = {f.name: trials(experts[f.name], f, rng) for f in films}
    for f in films:
        print(f"{f.name[-34:]:36} offset {f.offset:3}  {sum(hits[f.name])} of {len(hits[f.name])}")
    each = [np.mean(h) for h in hits.values() if h]
    draws = np.random.default_rng(0).choice(each, (2000, len(each))).mean(1)
    print(f"trials: {np.mean([x for h in hits.values() for x in h]):.3f} of {sum(map(len, hits.values()))}")
    print(f"clips:  {np.mean(each):.3f} of {len(each)}, 95 % interval {np.percentile(draws, 2.5):.3f} .. {np.percentile(draws, 97.5):.3f}")
    if o.out:
        expert = fit([f for f in films if not any(fnmatch.fnmatch(f.name, p) for p in o.without)], o.steps, 0)
        o.out.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in expert.state_dict().items()}, o.out / "model.safetensors")
        print(json.dumps({"parameters": sum(p.numel() for p in expert.parameters())}))


if __name__ == "__main__":
    main()
