"""train-speech: clips, recordings and synthesisers -> an acoustic model with DeepSpeech's contract (what ships was made so).

<out>/corpus/*.npz     shards: MFCC, teacher features, letters, lips (stages.speech.training.corpus)
      acoustic.onnx    the averaged weights, half precision on disk
      model.safetensors, config.json, state/, log.jsonl, tb/   as any training
"""

from __future__ import annotations

import csv
import fnmatch
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.artifacts import Artifact, Input, file_digest, read_artifact, write_json
from stages.artifacts.files import write_atomic
from stages.artifacts.fingerprint import digest_json
from stages.artifacts.model import ModelStore
from stages.errors import ArtifactError, InputError, UsageError
from stages.runtime import Report, Runtime, process_count
from stages.training.settings import require_counts
from stages.weights import locate

if TYPE_CHECKING:
    from stages.speech.training.corpus import Shard
    from stages.speech.training.task import Pool

CODE = 2  # 2: the lips of all utterances, as the teacher's features tell them
SPEEDS = {"clips": (1.0, 0.9, 1.11), "prompts": (1.0, 0.85, 1.17)}
"""Real recordings are heard at three speeds, which makes three speakers of one."""
PROMPT_SHARDS, SYNTHETIC_MINUTES = 6, 10
SENTENCES = Path("/usr/share/games/fortunes")
"""Where Debian's package `fortunes` puts its texts."""
TEACHER = ("whisper-tiny-en", "whisper-tiny-en-config", "whisper-tiny-en-tokenizer", "whisper-tiny-en-vocabulary")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the acoustic model depends on."""

    recordings: Path | None = None
    """More real speech: a .tsv of path, speaker, text (English; ? to be transcribed, - unknown), and `test` to keep it for testing."""
    synthetic_hours: float = 4.0
    """Hours of synthetic English speech."""
    texts: Path = SENTENCES
    """Folder of English text files that the synthesisers read."""
    hold_out: int = 10
    """Of so many longest clips, the last third is kept for testing."""
    without: str = ""
    """Clips kept for testing whole: names with * and ?, separated by commas."""
    dense: int = 512
    """Width of the three dense layers."""
    lstm: int = 384
    """Width of the LSTM in each direction."""
    hidden: int = 128
    """Width of the layer before the letters, the `hidden` features."""
    steps: int = 3000
    """Optimiser steps."""
    batch: int = 24
    """Utterances in a batch."""
    learning_rate: float = 1e-3
    """AdamW learning rate."""
    warmup: int = 200
    """Steps over which the learning rate rises from zero."""
    ema: float = 0.998
    """Decay of the averaged weights."""
    seed: int = 0
    """Seed of weights and data order."""
    save_every: int = 250
    """Steps between training states."""
    validate_every: int = 250
    """Steps between validations."""

    def __post_init__(self) -> None:
        require_counts(self, "dense", "lstm", "hidden", "steps", "batch", "save_every", "validate_every")
        if self.synthetic_hours < 0 or self.hold_out < 0:
            raise UsageError("--synthetic-hours and --hold-out: must be at least 0")


@dataclass
class Sources:
    """Recordings to learn from, and those kept for testing."""

    clips: list[dict[str, Any]] = field(default_factory=list)
    clips_held: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    prompts_held: list[dict[str, Any]] = field(default_factory=list)


def run(config: Config, inputs: Path, out: Path | None, runtime: Runtime) -> Report:
    """Build the corpus from the clips artifact `inputs` and train on it; all goes to `out`, by default inputs/acoustic."""
    work = read_artifact(Path(inputs), "clips")
    root = Path(out) if out else Path(inputs) / "acoustic"
    known = [Input("clips", "clips", work.digest)]
    if config.recordings:
        known.append(Input("recordings", "list", _recordings_digest(config.recordings)))
    with ModelStore(root, kind="acoustic", stage="train-speech", code=CODE, config=config, inputs=known, runtime=runtime) as store:
        if process_count() > 1:
            raise UsageError("train-speech runs in one process; start it without torchrun or accelerate launch")
        reason = store.why()
        runtime.reporter.log(f"train {root}: {reason}" if reason else f"skip {root}: up to date")
        if not reason or runtime.dry_run:
            return Report(out=root, skipped=int(not reason))
        teacher = {name: locate(name, offline=runtime.offline, reporter=runtime.reporter) for name in TEACHER}
        shards = build_corpus(config, work, root / "corpus", teacher, runtime)
        return _train(config, shards, work.manifest["facts"].get("identity", {}), root, store, runtime)


def _recordings_digest(path: Path) -> str:
    return digest_json([[file_digest(Path(s["path"])), s["speaker"], s.get("text", "")] for s in read_recordings(path)])


def read_recordings(path: Path) -> list[dict[str, Any]]:
    """Sources of a list. Raises InputError for a list, or a file in it, that cannot be read."""
    found = []
    try:
        with path.open(encoding="utf-8", newline="") as f:
            for number, row in enumerate(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
                if len(row) not in (3, 4) or row[3:] not in ([], ["test"]):
                    raise InputError(f"{path}, line {number}: expected path, speaker, text and perhaps `test`, with tabs between")
                file = path.parent / row[0]
                if not file.is_file():
                    raise InputError(f"{path}, line {number}: no file {file}")
                source = {"path": str(file), "speaker": row[1], "test": len(row) == 4}
                found.append(source if row[2] == "?" else {**source, "text": "" if row[2] == "-" else row[2]})
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not found:
        raise InputError(f"{path}: the list is empty")
    return found


def gather(config: Config, work: Artifact) -> Sources:
    """What is learned from and what is kept: by name and length, never by chance."""
    found = Sources()
    kept = [p.strip() for p in config.without.split(",") if p.strip()]
    heard = [c for _, c in sorted(work.clips.items()) if (c.path / "speech.wav").exists()]
    whole = [c for c in heard if any(fnmatch.fnmatch(c.id, p) for p in kept)]
    rest = [c for c in heard if c not in whole]
    longest = sorted(rest, key=lambda c: (-c.facts["seconds_sound"], c.id))[: config.hold_out]
    for clip in rest:
        source = {"path": str(clip.path / "speech.wav"), "speaker": clip.id, "lips": str(clip.path)}
        if clip in longest:
            start = clip.facts["seconds_sound"] * 2 / 3
            found.clips_held.append({**source, "start": start})
            source["stop"] = start
        found.clips.append(source)
    found.clips_held += [{"path": str(c.path / "speech.wav"), "speaker": c.id, "lips": str(c.path)} for c in whole]
    listed = read_recordings(config.recordings) if config.recordings else []
    for source in listed:
        known, test = "text" in source, source["test"]
        where = (found.prompts_held if test else found.prompts) if known else (found.clips_held if test else found.clips)
        where.append(source)
    return found


def plan_shards(config: Config, sources: Sources) -> Iterator[Shard]:
    """Every shard of the corpus, those for testing first."""
    from stages.speech.training.corpus import Shard
    from stages.speech.training.voices import read_sentences

    if sources.clips_held:
        yield Shard("held-clips", "recorded", 901, versions=1, held_out=True, sources=sources.clips_held)
    if sources.prompts_held:
        yield Shard("held-prompts", "recorded", 902, versions=1, held_out=True, sources=sources.prompts_held)
    count = round(config.synthetic_hours * 60 / SYNTHETIC_MINUTES)
    sentences: list[str] = []
    if count:
        if not config.texts.is_dir():
            raise InputError(f"--texts {config.texts}: no such folder; Debian's package `fortunes` has one, or use --synthetic-hours 0")
        every = sorted(read_sentences([p for p in sorted(config.texts.iterdir()) if p.is_file() and not p.suffix and not p.is_symlink()]))
        sentences = [s for i, s in enumerate(every) if i % 50]
        yield Shard("held-synthetic", "synthetic", 903, versions=1, held_out=True, minutes=8, sentences=every[::50])
    for i, speed in enumerate(SPEEDS["clips"]):
        if sources.clips:
            yield Shard(f"clips-{i}", "recorded", 100 + i, versions=4, speed=speed, sources=sources.clips)
    for i, speed in enumerate(SPEEDS["prompts"]):
        for j in range(PROMPT_SHARDS):
            if mine := sources.prompts[j::PROMPT_SHARDS]:
                yield Shard(f"prompts-{i}-{j}", "recorded", 200 + i * PROMPT_SHARDS + j, versions=3, speed=speed, sources=mine)
    for i in range(count):
        yield Shard(f"synthetic-{i:02d}", "synthetic", 300 + i, versions=3, minutes=SYNTHETIC_MINUTES, sentences=sentences)


def build_corpus(config: Config, work: Artifact, folder: Path, teacher: dict[str, Path], runtime: Runtime) -> list[Path]:
    """Build what is missing of the corpus; returns the shards' paths. Shards that are there are kept: the key guards them."""
    from stages.speech.training import corpus
    from stages.speech.training.transcribe import transcribe_sources

    folder.mkdir(parents=True, exist_ok=True)
    sources = gather(config, work)
    spoken = _whisper_folder(folder, teacher)
    transcribe_sources(sources.clips, folder / "transcripts-train.json", spoken, runtime.reporter)
    transcribe_sources(sources.clips_held, folder / "transcripts-held.json", spoken, runtime.reporter)
    shards = list(plan_shards(config, sources))
    missing = [s for s in shards if not (folder / f"{s.name}.npz").is_file()]
    if missing:
        runtime.reporter.log(f"corpus: {len(shards) - len(missing)} of {len(shards)} shards are there, {len(missing)} to build")
        with runtime.reporter.progress("corpus", len(missing), "shards") as bar, ProcessPoolExecutor(os.cpu_count() or 1) as pool:
            waiting = {pool.submit(corpus.build, s, folder, teacher["whisper-tiny-en"]): s for s in missing}
            for done in as_completed(waiting):
                done.result()
                bar.note(waiting[done].name)
                bar.advance(1)
    return [folder / f"{s.name}.npz" for s in shards]


def _whisper_folder(folder: Path, teacher: dict[str, Path]) -> Path:
    """CTranslate2 wants a folder with its own names."""
    spoken = folder / "whisper"
    spoken.mkdir(exist_ok=True)
    names = ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
    for name, key in zip(names, TEACHER, strict=True):
        link = spoken / name
        link.unlink(missing_ok=True)
        link.symlink_to(teacher[key].resolve())
    return spoken


def _train(
    config: Config, shards: list[Path], people: dict[str, str], root: Path, store: ModelStore, runtime: Runtime
) -> Report:
    from stages.speech.training.network import Sizes
    from stages.speech.training.task import AcousticTask, fit_projection, read_pool
    from stages.training.checkpoint import save_weights
    from stages.training.loop import LoopConfig, fit

    train = [p for p in shards if not p.stem.startswith("held-")]
    projection = fit_projection(_teacher_rows(train, runtime.reporter.log))
    held = {p.stem.removeprefix("held-"): read_pool([p], projection) for p in shards if p.stem.startswith("held-")}
    pool = read_pool(train, projection)
    runtime.reporter.log(f"{pool.counts.sum() / 180_000:.1f} h in {len(pool.teacher)} utterances, each {len(pool.versions[0])} times or so")
    pool.lips = _lips(pool, people, config.seed, root / "lips.npz", runtime.reporter.log)
    sizes = Sizes(dense=config.dense, lstm=config.lstm, hidden=config.hidden)
    task = AcousticTask(pool, held, sizes, config.seed)
    outcome = fit(task, LoopConfig.of(config), root, runtime, store.open_for_training())
    model = outcome.ema.cpu()
    scores = outcome.scores or task.validate(model, next(model.parameters()).device)
    save_weights(root / "model.safetensors", model)
    from stages.speech.training.export import export

    export(model, root / "acoustic.onnx")
    write_json(root / "config.json", {"sizes": {"dense": sizes.dense, "lstm": sizes.lstm, "hidden": sizes.hidden}})
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "hours": round(float(pool.counts.sum()) / 180_000, 2),
        "steps": outcome.step,
        "finished": outcome.finished,
        "scores": {k: round(float(v), 4) for k, v in scores.items()},
    }
    return store.seal(["model.safetensors", "config.json", "acoustic.onnx"], facts)


def _lips(pool: Pool, people: dict[str, str], seed: int, kept: Path, log: Callable[[str], None]) -> list[np.ndarray]:
    """What the lips of every utterance are taken to do; found once and kept, so that a training goes on with the same."""
    from stages.speech.training.lips import Heard, hear_lips

    each = [Heard(*u, people.get(s, s), s) for *u, s in zip(pool.teacher, pool.lips, pool.speakers, strict=True)]
    if len({u.person for u in each if np.isfinite(u.lips).any()}) < 2:
        log("lips: fewer than two people are seen; the lips are learned as they are")
        return pool.lips
    ends = np.cumsum(pool.counts)
    if kept.is_file():
        with np.load(kept) as data:
            if len(data["lips"]) == ends[-1]:
                return np.split(data["lips"].astype(np.float32), ends[:-1])
    found = hear_lips(each, seed, log)
    with write_atomic(kept) as part, part.open("wb") as f:
        np.savez(f, lips=np.concatenate(found).astype(np.float16))
    return [x.astype(np.float16).astype(np.float32) for x in found]


def _teacher_rows(paths: list[Path], log: Callable[[str], None]) -> Iterator[np.ndarray]:
    for path in paths:
        try:
            with np.load(path) as data:
                yield data["teacher"][::3]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path}: not a readable corpus shard ({error}); remove it and run the same command again") from error
