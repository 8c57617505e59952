"""What the acoustic model learns: letters (CTC), the teacher's features and the lips, from a corpus of shards."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.errors import ArtifactError
from stages.speech.mfcc import whitening
from stages.speech.training.corpus import LIPS
from stages.speech.training.network import AcousticModel, Sizes
from stages.training.order import generator

ALPHABET = " abcdefghijklmnopqrstuvwxyz'"
"""Letter k is ALPHABET[k]; 28 is CTC's blank."""
BLANK = 28
COMPONENTS = 96
"""Principal components of the teacher's 384 features that are learned."""
SHARES = {"clips": 0.3, "prompts": 0.35, "synthetic": 0.35}
"""Of the rows drawn, by the shard's name up to its first dash."""
BUCKETS = 12
WEIGHTS = {"ctc": 0.2, "teacher": 1.0, "lips": 1.0, "teacher_of_logits": 0.5, "lips_of_logits": 0.5}


@dataclass
class Pool:
    """Utterances in memory. Rows of all are concatenated; utterance u has rows start[u] .. start[u] + count[u] - 1."""

    versions: list[list[np.ndarray]]
    """Per utterance, its recordings: (R, 26) f32."""
    teacher: list[np.ndarray]
    """(R, 384) f16 as read, (R, COMPONENTS) f32 once projected."""
    lips: list[np.ndarray]
    texts: list[np.ndarray]
    groups: list[str]
    speakers: list[str]

    @property
    def counts(self) -> np.ndarray:
        return np.array([len(t) for t in self.teacher])


@dataclass(frozen=True)
class Projection:
    """The teacher's features -> COMPONENTS numbers of about unit size."""

    mean: np.ndarray
    matrix: np.ndarray
    """(384, COMPONENTS)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return ((x.astype(np.float32) - self.mean) @ self.matrix).astype(np.float16)


def fit_projection(parts: Iterator[np.ndarray]) -> Projection:
    """Principal components; each is divided by the root of its deviation, so that small ones count, but less than large ones."""
    total, first, second = 0, 0.0, 0.0
    for part in parts:
        x = part.astype(np.float64)
        total, first, second = total + len(x), first + x.sum(0), second + x.T @ x
    mean = first / total
    values, vectors = np.linalg.eigh(second / total - np.outer(mean, mean))
    values, vectors = values[::-1][:COMPONENTS], vectors[:, ::-1][:, :COMPONENTS]
    matrix = vectors / values**0.25
    matrix = matrix / np.sqrt(np.sqrt(values).mean())
    return Projection(mean.astype(np.float32), matrix.astype(np.float32))


def read_pool(paths: list[Path], projection: Projection) -> Pool:
    """Raises ArtifactError for a shard that cannot be read."""
    pool = Pool([], [], [], [], [], [])
    for path in paths:
        try:
            with np.load(path) as data:
                lines = json.loads(data["utterances"].tobytes())
                mfcc = [data[f"mfcc{k}"] for k in range(sum(name.startswith("mfcc") for name in data.files))]
                teacher, lips = projection(data["teacher"]), data["lips"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path}: not a readable corpus shard ({error}); remove it and run the same command again") from error
        at = 0
        for line in lines:
            rows = slice(at, at + line["rows"])
            at = rows.stop
            pool.versions.append([m[rows] for m in mfcc])
            pool.teacher.append(teacher[rows])
            pool.lips.append(lips[rows])
            pool.texts.append(np.array([ALPHABET.index(c) for c in line["text"]], np.int64))
            pool.groups.append(path.stem.split("-")[0])
            pool.speakers.append(line["speaker"])
    return pool


class AcousticTask:
    """The loop's task: `stages.training.loop.Task`."""

    def __init__(self, train: Pool, held_out: dict[str, Pool], sizes: Sizes, seed: int):
        self.train, self.held_out, self.seed = train, held_out, seed
        first = next(iter(held_out), "")
        self.criterion = (f"{first}/left_hidden", -1)
        torch.manual_seed(seed)
        self.model: nn.Module = AcousticModel(sizes, COMPONENTS, len(LIPS))
        counts = train.counts
        groups = np.array(train.groups)
        share = np.zeros(len(counts))
        for name in set(train.groups):
            mine = groups == name
            share[mine] = SHARES.get(name, 0.3) * counts[mine] / counts[mine].sum()
        order = np.argsort(counts, kind="stable")
        # Utterances of like length go together; a bucket is drawn as often as its rows' share asks for.
        self.buckets = [b for b in np.array_split(order, BUCKETS) if len(b)]
        self.within = [share[b] / share[b].sum() for b in self.buckets]
        weight = np.array([share[b].sum() / np.average(counts[b], weights=w) for b, w in zip(self.buckets, self.within, strict=True)])
        self.weight = weight / weight.sum()

    def batch(self, step: int, indices: range, device: torch.device) -> dict[str, Tensor]:
        bucket = int(generator(self.seed, step).choice(len(self.buckets), p=self.weight))
        chosen = []
        for i in indices:
            rng = generator(self.seed, step, i)
            u = int(rng.choice(self.buckets[bucket], p=self.within[bucket]))
            versions = self.train.versions[u]
            x = whiten(versions[int(rng.integers(len(versions)))])
            for _ in range(int(rng.integers(3))):  # up to two gaps of 0.2 s at most, as SpecAugment
                at, width = int(rng.integers(len(x))), int(rng.integers(1, 11))
                x[at : at + width] = 0
            chosen.append((x, self.train.teacher[u], self.train.lips[u], self.train.texts[u]))
        return collate(chosen, device)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float | Tensor]]:
        parts = losses(model(batch["mfcc"]), batch)
        total = sum(WEIGHTS[k] * v for k, v in parts.items())
        return total, {k: v.detach() for k, v in parts.items()}

    @torch.no_grad()
    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Per held-out shard: letter error rate, teacher variance left, correlation of the lips' opening."""
        model.eval()
        scores = {}
        for name, pool in self.held_out.items():
            wrong = letters = 0
            left, lips = [], []
            for u in range(len(pool.teacher)):
                batch = collate([(whiten(pool.versions[u][0]), pool.teacher[u], pool.lips[u], pool.texts[u])], device)
                out = model(batch["mfcc"])
                mask = batch["rows"]
                left.append([float(squared(out[f"teacher_of_{k}"], batch["teacher"], mask)) for k in ("hidden", "logits")])
                if len(pool.texts[u]):
                    wrong += edits(greedy(out["logits"][0].cpu().numpy()), pool.texts[u].tolist())
                    letters += len(pool.texts[u])
                seen = ~torch.isnan(batch["lips"][0, :, 0])
                if seen.sum() > 50:
                    truth = batch["lips"][0, seen, 0]
                    lips.append(
                        [float(torch.corrcoef(torch.stack([truth, out[f"lips_of_{k}"][0, seen, 0]]))[0, 1]) for k in ("hidden", "logits")]
                    )
            scores[f"{name}/left_hidden"], scores[f"{name}/left_logits"] = (float(v) for v in np.mean(left, 0))
            if letters:
                scores[f"{name}/letter_errors"] = wrong / letters
            if lips:
                scores[f"{name}/lips_hidden"], scores[f"{name}/lips_logits"] = (float(v) for v in np.nanmean(lips, 0))
        model.train()
        return scores

    def sheet(self, model: nn.Module, device: torch.device) -> np.ndarray | None:
        return None


def whiten(rows: np.ndarray) -> np.ndarray:
    """(R, 26) -> the same less the utterance's mean, over its deviation: what `mfcc.network_input` feeds the network."""
    mean, deviation = whitening(rows.astype(np.float64))
    return ((rows - mean) / deviation).astype(np.float32)


def collate(items: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], device: torch.device) -> dict[str, Tensor]:
    """Padded to the longest. mfcc (B, T, 26), teacher (B, T, C), lips (B, T, 6) nan where unknown, rows (B, T) bool, counts, text."""
    B, T = len(items), max(len(x) for x, *_ in items)
    mfcc = np.zeros((B, T, items[0][0].shape[1]), np.float32)
    teacher = np.zeros((B, T, items[0][1].shape[1]), np.float32)
    lips = np.full((B, T, len(LIPS)), np.nan, np.float32)
    rows = np.zeros((B, T), bool)
    for b, (x, y, mouth, _) in enumerate(items):
        n = len(x)
        mfcc[b, :n], teacher[b, :n], lips[b, :n], rows[b, :n] = x, y, mouth, True
    texts = [t for *_, t in items]
    batch = {
        "mfcc": mfcc, "teacher": teacher, "lips": lips, "rows": rows, "counts": rows.sum(1),
        "text": np.concatenate(texts), "letters": np.array([len(t) for t in texts], np.int64),
    }  # fmt: skip
    return {k: torch.from_numpy(v).to(device) for k, v in batch.items()}


def losses(out: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """ctc: nats a letter. teacher: share of the variance left. lips: the same, where they are known."""
    mask, spoken = batch["rows"], batch["letters"] > 0
    found = {
        "teacher": squared(out["teacher_of_hidden"], batch["teacher"], mask),
        "teacher_of_logits": squared(out["teacher_of_logits"], batch["teacher"], mask),
    }
    seen = ~torch.isnan(batch["lips"][..., 0])
    zero = out["logits"].sum() * 0
    lips = torch.nan_to_num(batch["lips"])
    found["lips"] = squared(out["lips_of_hidden"], lips, seen) if seen.any() else zero
    found["lips_of_logits"] = squared(out["lips_of_logits"], lips, seen) if seen.any() else zero
    found["ctc"] = zero
    if spoken.any():
        log = out["logits"][spoken].float().log_softmax(-1).transpose(0, 1)  # (T, b, 29)
        ctc = F.ctc_loss(log, batch["text"], batch["counts"][spoken], batch["letters"][spoken], BLANK, reduction="none", zero_infinity=True)
        found["ctc"] = ctc.sum() / batch["letters"].sum()
    return found


def squared(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference where `mask` (B, T) holds."""
    return ((found - wanted) ** 2)[mask].mean()


def greedy(logits: np.ndarray) -> list[int]:
    """(T, 29) -> letters: the best of each row, repeats and blanks dropped."""
    best = logits.argmax(-1)
    keep = np.append(True, best[1:] != best[:-1]) & (best != BLANK)
    return best[keep].tolist()


def edits(a: list[int], b: list[int]) -> int:
    """Levenshtein distance."""
    row = np.arange(len(b) + 1)
    target = np.array(b)
    for i, letter in enumerate(a, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (target != letter))
        # insertions run along the row: a running minimum of (value - place)
        row = np.minimum.accumulate(np.append(i, best) - np.arange(len(b) + 1)) + np.arange(len(b) + 1)
    return int(row[-1])
