"""evaluate: generated videos against the true ones (DESIGN, walk 7).

Several methods are scored against one truth, and with them the standing rows that tell floor and ceiling (metrics.rows). Face
and mouth are found in the true video only and cut out of both at the same place. The folder of one clip of one method holds

    per_frame.npy  (T, M) f32     figure M of compared frame T, NaN where it has none; names in clip.json
    motion.npy     (2, R, R) f32  mean difference of adjacent frames over the face crop, generated and true
    sync.npy       (31,) f32      distance of lips and sound for the offsets +15 .. -15, where it could be measured
    strip.jpg                     frames side by side, true above generated

and the artifact, for all of them together, scores.json, per_clip.jsonl and report.html.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from stages import weights
from stages.artifacts import (
    DigestCache,
    Input,
    Store,
    Unit,
    Weight,
    digest_json,
    file_digest,
    read_artifact,
    remove_tree,
    run_units,
    write_atomic,
    write_json,
)
from stages.artifacts.files import append_line
from stages.artifacts.read import read_clip
from stages.errors import InputError, UsageError
from stages.media.pairs import VideoPair, find_pairs
from stages.media.probe import probe
from stages.metrics import statistics
from stages.metrics.names import METRICS, MODEL_ROWS, ROWS, STANDING, result_names
from stages.metrics.scoring import How, Job, score_pair
from stages.metrics.settings import settings
from stages.runtime import Needs, Report, Runtime

CODE = 7  # 7: drawn rows keep their lips moving in short pauses and close them further
METHOD = "generated"
"""What the videos given first are called."""
LPIPS_FILES = {
    "lpips_alex": ("lpips-alex-trunk", "lpips-alex-heads"),
    "lpips_vgg": ("lpips-vgg-trunk", "lpips-vgg-heads"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the scores depend on."""

    metrics: str = ",".join(METRICS)
    """What to measure, separated by commas: psnr, ssim, lpips, vgg, mouth, identity, jitter, sync."""
    rows: str = ",".join(STANDING)
    """Standing rows, separated by commas: ground_truth, autoencoder, copy_baseline, wrong_audio, silence; turned_copy; empty for none."""
    resolution: int = 256
    """Side in pixels of the face crop that is compared."""
    mouth_resolution: int = 128
    """Side in pixels of the mouth crop that is compared."""
    lpips_seconds: float = 0.08
    """LPIPS with AlexNet looks at one frame in so many seconds; 0: at every frame."""
    vgg_seconds: float = 1.0
    """LPIPS with VGG16, which is slow, looks at one frame in so many seconds; 0: at every frame."""
    row_seconds: float = 3.0
    """The rows that a model draws are drawn for so many seconds of each clip."""
    landmarks: Literal["dlib", "face-alignment"] = "dlib"
    """Landmark tool: dlib (weights come with the installation) or face-alignment (the paper's, downloads once)."""
    face: int = 0
    """Whose face in the true video: 0 the most prominent, 1 the next, and so on."""

    def __post_init__(self) -> None:
        # One spelling for one choice, so that another order is no other configuration.
        object.__setattr__(self, "metrics", _choice("metrics", self.metrics, METRICS, empty=False))
        object.__setattr__(self, "rows", _choice("rows", self.rows, ROWS, empty=True))
        for name in ("resolution", "mouth_resolution"):
            if not 64 <= getattr(self, name) <= 1024:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be between 64 and 1024")
        for name in ("face", "lpips_seconds", "vgg_seconds"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be 0 or more")
        if self.row_seconds < 1:
            raise UsageError(f"--row-seconds {self.row_seconds}: must be at least 1")

    @property
    def how(self) -> How:
        """The settings of a single clip."""
        names = ("resolution", "mouth_resolution", "lpips_seconds", "vgg_seconds", "row_seconds", "landmarks", "face")
        return How(chosen=self.chosen, **{name: getattr(self, name) for name in names})

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(self.metrics.split(","))

    @property
    def standing(self) -> tuple[str, ...]:
        return tuple(name for name in self.rows.split(",") if name)


def _choice(option: str, text: str, known: tuple[str, ...], *, empty: bool) -> str:
    asked = {name.strip().lower() for name in text.split(",")} - {""}
    if not (asked or empty) or not asked <= set(known):
        raise UsageError(f"--{option} {text}: choose from {', '.join(known)}, separated by commas")
    return ",".join(name for name in known if name in asked)


@dataclass(frozen=True)
class Inputs:
    """Two videos, or two folders of videos that are paired by path below the folder, else by stem; or a frames artifact and a folder."""

    generated: Path
    truth: Path
    methods: dict[str, Path] = field(default_factory=dict)
    """More generated videos, by the method's name, against the same truth."""
    model: Path | None = None
    """A denoiser artifact for the rows that a model draws; by default the bundled one, where there is one."""
    syncnet: Path | None = None
    """SyncNet's official weights, `syncnet_v2.model`."""


def run(config: Config, inputs: Inputs, out: Path, runtime: Runtime) -> Report:
    """Score every pair and write the scores artifact `out`.

    Raises InputError when there is nothing to compare, WeightsError when a metric's weights cannot be had, ArtifactError for a
    model that is none. A pair that cannot be scored (no partner, not readable, no face) is recorded in failures.jsonl and the rest go on;
    one that could be scored in part (no sound) is recorded too, and keeps its figures.
    """
    inputs = replace(inputs, model=_model(inputs.model, config, runtime))
    pairs = all_pairs(inputs, config)
    used = _weights(config, inputs)
    with Store(out, kind="scores", stage="evaluate", code=CODE, config=config, runtime=runtime, weights=used) as store:
        todo = store.plan(_units(pairs, config, inputs, store.digests))
        if runtime.dry_run:
            return store.seal()
        todo = _prepare(todo, config, inputs, runtime)
        run_units(store, todo, score_pair, title="evaluate", unit="clips", size=lambda unit: 1.0, needs=_needs(inputs, config))
        if runtime.shard:
            return store.seal()
        _forget_others(store)
        scores = _collect(store, config, inputs, list(pairs))
        _write(store, scores)
        report = store.seal(facts={"methods": scores["methods"], "settings": scores["settings"]})
        _tell_parts(store, scores)
        places = {"scores": str(store.root / "scores.json"), "report": str(store.root / "report.html")}
        report.facts |= {key: scores[key] for key in ("methods", "clips", "settings")} | places
        return report


# -- what there is to score


def all_pairs(inputs: Inputs, config: Config) -> dict[str, list[VideoPair]]:
    """Method -> its pairs: the videos given first, the other methods, then the standing rows of every truth that has a partner."""
    truth = Path(inputs.truth)
    found = {METHOD: find_pairs(Path(inputs.generated), truth)}
    for name, folder in inputs.methods.items():
        if name in (METHOD, *ROWS) or not re.fullmatch(r"[\w.+-]+", name):
            taken = ", ".join((METHOD, *ROWS))
            raise UsageError(f"--method {name}=...: choose another name, of letters, digits, . + - and _, and none of {taken}")
        found[name] = find_pairs(Path(folder), truth)
    named = {pair.truth: pair.name for pairs in reversed(found.values()) for pair in pairs if pair.truth and not pair.problem}
    for row in config.standing:
        if row not in MODEL_ROWS or inputs.model:
            found[row] = [VideoPair(name, path, path) for path, name in sorted(named.items(), key=lambda item: item[1])]
    return found


def _units(pairs: dict[str, list[VideoPair]], config: Config, inputs: Inputs, digests: DigestCache) -> list[Unit]:
    model = read_artifact(inputs.model, "denoiser").digest if inputs.model else ""
    others = _others([pair.truth for pair in pairs.get("wrong_audio", []) if pair.truth])
    units = []
    for method, rows in pairs.items():
        for pair in rows:
            job = Job(pair=pair, how=config.how, method=method, other=others.get(pair.truth) if method == "wrong_audio" else None)
            more = [Input("model", "denoiser", model)] if method in MODEL_ROWS else []
            units.append(_unit(job, more, digests))
    return units


def _others(truths: list[Path]) -> dict[Path | None, Path | None]:
    """Whose sound drives the wrong-audio row of each film: the next film's that has any; none where there is no other."""
    heard, found = [path for path in truths if _sounds(path)], {}
    for path in heard:
        after = heard.index(path) + 1
        found[path] = next((other for other in heard[after:] + heard if other != path), None)
    return {path: found.get(path) for path in truths}


def _sounds(path: Path) -> bool:
    try:
        return probe(path).audio is not None
    except InputError:
        return False


def _unit(job: Job, more: list[Input], digests: DigestCache) -> Unit:
    """The pair's place is its name, not its content: a video made anew replaces the old one's scores."""
    pair, inputs = job.pair, list(more)
    first = ("other", job.other) if job.method in ROWS else ("generated", pair.generated)
    for role, path in (first, ("truth", pair.truth)):
        try:
            if path and path.is_dir():
                inputs.append(Input(role, "frames", read_clip(path).digest))
            elif path:
                inputs.append(Input(role, "file", digests.digest(path)))
        except OSError as error:
            pair = replace(pair, problem=f"{pair.name}: its {role} video cannot be read ({error.strerror})")
            inputs.append(Input(role, "file", "unreadable"))
    if pair.problem:
        inputs.append(Input("problem", "text", pair.problem))
    return Unit(unit_id(job.method, pair.name), tuple(inputs), replace(job, pair=pair), pair.name)


def unit_id(method: str, name: str) -> str:
    """Where the scores of the clip `name` of a method lie."""
    stem = re.sub(r"[^\w.+-]+", "_", name.rsplit("/", 1)[-1]).strip("._")[:80] or "clip"
    whose = "" if method == METHOD else f"{method}--"
    return f"{whose}{stem}-{digest_json(name)[:8]}"


# -- what a run needs


def _model(path: Path | None, config: Config, runtime: Runtime) -> Path | None:
    """The model that draws rows, where some are wanted."""
    if not set(config.standing) & set(MODEL_ROWS):
        return None
    if path is None:
        from stages.dubbing.model import BUNDLED

        path = BUNDLED if BUNDLED.exists() else None
    if path is None:
        missing = ", ".join(row for row in config.standing if row in MODEL_ROWS)
        runtime.reporter.warn(f"rows left out: {missing}; they need a model, give one with --model DIR (or choose others with --rows)")
        return None
    read_artifact(path, "denoiser")
    return Path(path)


def _names(config: Config) -> list[str]:
    wanted = [name for metric, name in (("lpips", "lpips_alex"), ("vgg", "lpips_vgg")) if metric in config.chosen]
    return ["dlib-68", "dlib-resnet", *(file for name in wanted for file in LPIPS_FILES[name])]


def _weights(config: Config, inputs: Inputs) -> list[Weight]:
    found = [weights.describe(name) for name in _names(config)]
    used = [Weight(w.name, w.sha256, w.licence) for w in found]
    if config.landmarks == "face-alignment":
        used.append(Weight("face-alignment", "2DFAN4, fetched by face-alignment", "BSD-3-Clause"))
    if "sync" in config.chosen:
        name, path, licence = sync_meter(inputs.syncnet)
        if not path.is_file():
            raise InputError(f"--syncnet {path}: no such file; it is syncnet_v2.model of the SyncNet release")
        used.append(Weight(name, file_digest(path), licence))
    return used


def sync_meter(syncnet: Path | None) -> tuple[str, Path, str]:
    """(name, weights, licence) of what measures sync: SyncNet where its weights are given, else the expert that ships."""
    if syncnet is not None:
        return "syncnet", Path(syncnet), "unknown: given by the user"
    from stages.metrics.expert import BUNDLED

    return "difftalk-sync", BUNDLED, "difftalk's own; trained on research data, for research"


def _networks(inputs: Inputs, config: Config) -> bool:
    """Whether anything runs that a GPU makes faster."""
    return bool({"lpips", "vgg"} & set(config.chosen) or inputs.model or inputs.syncnet)


def _needs(inputs: Inputs, config: Config) -> Needs:
    return Needs(cpus=1, gpus=0.25 if _networks(inputs, config) else 0.0)


def _prepare(todo: list[Unit], config: Config, inputs: Inputs, runtime: Runtime) -> list[Unit]:
    """Give each pair what it runs with. Weights are fetched here, once, and only when there is something to score."""
    if all(unit.payload.pair.problem for unit in todo):
        return todo
    paths = {name: weights.locate(name, offline=runtime.offline, reporter=runtime.reporter) for name in _names(config)}
    lpips = {network: tuple(paths[f] for f in files) for network, files in LPIPS_FILES.items() if files[0] in paths}
    # A cluster's workers look for devices of their own: this machine may have none, or others.
    device = "cpu" if not _networks(inputs, config) else runtime.device if runtime.ray else str(runtime.torch_device())
    alone = runtime.ray is None and min(runtime.workers, len(todo)) == 1
    threads = None if alone else runtime.threads_of_a_worker(_needs(inputs, config))
    shared = {"lpips": lpips, "device": device, "threads": threads, "model": inputs.model, "syncnet": inputs.syncnet}
    return [replace(u, payload=replace(u.payload, **shared)) for u in todo]


# -- all clips together


def _forget_others(store: Store) -> None:
    """A pair that is not asked for any more must not stay in the means."""
    for id in set(store.failures) - set(store.planned):
        del store.failures[id]
    for record in sorted(store.units.glob("*/clip.json")):
        if record.parent.name not in store.planned:
            store.log(f"drop {record.parent.name}: no longer among the videos to compare")
            remove_tree(record.parent)


def _collect(store: Store, config: Config, inputs: Inputs, methods: list[str]) -> dict[str, Any]:
    """The content of scores.json."""
    rows: list[dict[str, Any]] = []
    place = {method: number for number, method in enumerate(methods)}
    for id, unit in sorted(store.planned.items(), key=lambda item: (place[item[1].payload.method], item[0])):
        row: dict[str, Any] = {"clip": id, "method": unit.payload.method, "name": unit.source}
        if id in store.report.failed:
            rows.append({**row, "error": store.report.failed[id]})
            continue
        facts = read_clip(store.units / id).facts
        for note in facts["notes"] if unit.payload.method not in ROWS else ():
            store.log(f"{unit.source}: {note}")
        rows.append({**row, **{key: facts[key] for key in ("metrics", "frames", "fps", "sound", "notes", "problems", "files")}})
    expert = sync_meter(inputs.syncnet)[0]
    return {
        "methods": {method: _means(rows, method, config) for method in methods},
        "clips": rows,
        "settings": settings(config.how, expert, tuple(m for m in methods if m in ROWS)),
    }


def _means(rows: list[dict[str, Any]], method: str, config: Config) -> dict[str, Any]:
    """Metric -> mean, interval and number of clips; a metric that no clip has is null of 0, one without any clip is left out."""
    scored = [row["metrics"] for row in rows if row["method"] == method and "metrics" in row]
    if not scored:
        return {}
    nothing = {"mean": None, "ci95": None, "n": 0}
    known = {name: [m[name] for m in scored if name in m] for name in result_names(config.chosen)}
    return {name: statistics.summary(values) if values else nothing for name, values in known.items()}


def _write(store: Store, scores: dict[str, Any]) -> None:
    from stages.metrics.report.page import write_page

    write_json(store.root / "scores.json", scores)
    with write_atomic(store.root / "per_clip.jsonl") as part, part.open("w", encoding="utf-8") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in scores["clips"])
    used = [vars(weight) for weight in store.weights]
    inputs = {id: [vars(i) for i in unit.inputs] for id, unit in store.planned.items()}
    write_page(store.root / "report.html", scores, store.units, used, inputs)


def _tell_parts(store: Store, scores: dict[str, Any]) -> None:
    """Clips that have figures, but not all that were asked for: reported as failures, and kept."""
    for row in scores["clips"]:
        for problem in row.get("problems", ()):
            store.report.failed[row["clip"]] = problem
            record = {"id": row["clip"], "source": row["name"], "error": "InputError", "message": problem}
            record |= {"detail": "", "fingerprint": "", "final": True, "partial": True}
            append_line(store.failures_path, record)
            store.runtime.reporter.warn(f"{row['method']}: {problem}")
