"""infer: a reference (video, photo or preprocessed clip) and speech -> a talking video (DESIGN, walk 5; paper 3.3).

Track the face, crop it canonically, generate the masked window of every frame, paste it back: outside the mask every
pixel is the source's. Frames, fps, size and colour tags are the reference's; the driving sound is kept as it is.
"""

from __future__ import annotations

import csv
import functools
import time
import traceback
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stages.artifacts import (
    Call,
    Input,
    Store,
    Unit,
    config_dict,
    digest_json,
    explain,
    file_digest,
    refuse_bad_place,
    run_calls,
    write_atomic,
    write_json,
)
from stages.artifacts.files import read_json
from stages.artifacts.fingerprint import make_key
from stages.artifacts.parallel import Tick
from stages.dubbing.model import SAMPLING, find_model, load_model
from stages.dubbing.parts import Parts
from stages.dubbing.plan import make_plan
from stages.dubbing.reference import Reference, open_reference
from stages.dubbing.speech import Speech
from stages.errors import BusyError, DiffTalkError, InputError, UsageError
from stages.faces import LOST, FaceConfig
from stages.faces.detect import LandmarkTool
from stages.faces.mask import FEATHER
from stages.media.feed import open_feed
from stages.media.frames import FrameWriter
from stages.media.join import join
from stages.media.probe import MediaInfo, probe
from stages.media.video import VIDEO_SUFFIXES, VideoWriter
from stages.runtime import Needs, Report, Reporter, Runtime

if TYPE_CHECKING:
    from stages.diffusion.render import Renderer
    from stages.dubbing.job import Clock, Job

CODE = 5  # 5: short pauses close no lips; a frame that follows the one before keeps a share of its own reference
NEEDS = Needs(cpus=4, gpus=1)
LEASE_SECONDS = 150.0
"""How long a file server may keep the locks of a machine that is gone: NFS 90 s."""
METADATA = {"comment": "Speech animation generated with difftalk: the mouth in this video is synthetic."}
NO_MARK = (
    "--no-watermark: the mark exists so that people can find out that this mouth is synthetic; without it, say so yourself "
    "wherever the video is shown. The container still tells it"
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the video depends on."""

    steps: int | None = None
    """Denoising steps a frame; by default what the model was found to need, else 10 (the paper takes 200)."""
    sampler: Literal["ddim", "dpm++"] = "ddim"
    """DDIM (the paper) or DPM-Solver++."""
    guidance: float = 1.0
    """How strongly the sound leads: 1 as trained, above 1 exaggerated (twice the work; for models trained with audio dropout)."""
    strength: float | None = None
    """Share of the noise that drawing starts from: 1 draws all anew, less keeps more of the reference (0 to 1); by default the
    model's own, else 1."""
    difference: float | None = None
    """How much of what is drawn differently from the reference is shown (0 to 1); by default the model's own, else 1."""
    lip_gain: float = 1.0
    """How far the lips move: 1 as the person's usually do, 0 not at all, above 1 exaggerated (for models with --lips on)."""
    noise: Literal["fixed", "shared", "free"] = "fixed"
    """Starting noise of the frames: one for all, half of it in common, or each its own (flickers)."""
    reference: Literal["matched", "fixed", "progressive"] = "matched"
    """Reference of each frame: a frame in a like pose, one frame for all, or the frame generated before (paper 3.3)."""
    seed: int = 0
    """Same seed, same frames."""
    landmarks: LandmarkTool = "dlib"
    """Landmark tool: dlib or face-alignment."""
    face: int = 0
    """Whose face: 0 the most prominent, 1 the next, and so on, as listed in out.json."""
    start: float = 0.0
    """Use the reference from this second on."""
    end: float | None = None
    """Use the reference up to this second."""
    max_gap: float = 0.4
    """Seconds without a face that are bridged; longer ones pass through unchanged."""
    max_turn: float = 0.4
    """How far a face may look aside (0 to the camera, 0.5 in profile); frames beyond pass through unchanged."""
    feather: float = FEATHER
    """Width of the mask's soft edge, as a share of the face crop's side; it lies inside the mask, 0 is a hard edge."""
    match_colours: bool = True
    """Move the mouth's colours so that they meet the source's at the seam."""
    keep_detail: bool = True
    """Keep the source's pores and grain where the skin is the same and the face is larger than the model's crop."""
    watermark: bool = True
    """Mark every generated mouth invisibly as synthetic, as the paper demands; `difftalk detect` finds it again."""
    acoustic_model: Path | None = None
    """Acoustic model that the model was trained with, when it is not the one that ships."""
    batch: int = 8
    """Frames at a time; changes speed, not frames."""
    lanes: int = 4
    """With --reference progressive: stretches of about ten seconds that are sampled side by side; changes speed, not frames."""
    codec: Literal["h264", "hevc"] = "h264"
    """How the video is encoded."""
    crf: int = 8
    """Quality of the encode: lower is better and larger."""
    lossless: bool = False
    """Keep every RGB value exactly (large; few players show it)."""

    def __post_init__(self) -> None:
        least_1, least_0 = ("steps", "batch", "lanes"), ("face", "seed", "start", "guidance", "lip_gain", "max_turn")
        for name, least in [(n, 1) for n in least_1] + [(n, 0) for n in least_0]:
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise UsageError(f"--strength {self.strength}: must be above 0 and at most 1")
        if self.difference is not None and not 0 <= self.difference <= 1:
            raise UsageError(f"--difference {self.difference}: must be between 0 and 1")
        if not 0 <= self.feather <= 0.2:
            raise UsageError(f"--feather {self.feather}: must be between 0 and 0.2")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"--crf {self.crf}: must be between 0 and 51")
        if self.end is not None and self.end <= self.start:
            raise UsageError(f"--end {self.end}: must be after --start {self.start}")
        if self.lossless and self.codec != "h264":
            raise UsageError("--lossless: is H.264; leave --codec away")

    def filled(self, sampling: dict[str, Any]) -> Config:
        """With what is left open from the model's own settings (config.json, `sampling`)."""
        return replace(self, **{k: sampling.get(k, v) for k, v in SAMPLING.items() if getattr(self, k) is None})

    @property
    def faces(self) -> FaceConfig:
        return FaceConfig(landmarks=self.landmarks, face=self.face, max_gap=self.max_gap)


@dataclass(frozen=True)
class Inputs:
    """What speaks and who."""

    audio: Path
    """Any file with sound."""
    reference: Path
    """A video or a photo of the person, or a clip of a clips artifact."""
    model: Path | None = None
    """A denoiser artifact (difftalk train); by default the bundled one."""


Loaded = tuple["Renderer", dict[str, Any], str]


def run(config: Config, inputs: Inputs, out: Path, runtime: Runtime, *, preview: bool = False, loaded: Loaded | None = None) -> Report:
    """Write `out`: a video (.mp4 .m4v .mov .mkv) with out.json beside it, or, without such a suffix, a frames artifact.

    With `preview`, one frame as a picture instead: source and result side by side, `out` with suffix .png. `loaded` is a
    model that is open already. Raises InputError for a reference without a face or sound that cannot be read,
    ArtifactError for a model that cannot be used, UsageError for options that do not fit together.
    """
    from stages.dubbing.job import Clock, Drawing, Job

    out, clock, log = Path(out), Clock(), runtime.reporter.log
    if not config.watermark:
        runtime.reporter.warn(NO_MARK)
    if preview:
        out = out.with_suffix(".png")
    _check_paths(inputs, out, preview)
    media = open_sound(inputs.audio)
    if runtime.dry_run:
        if not Path(inputs.reference).is_dir():
            feed = open_feed(Path(inputs.reference))
            log(f"make {out}: {feed.fps} fps, {feed.size[0]}x{feed.size[1]}")
        return Report(out=out)
    with clock("load"):
        renderer, described, model = loaded or load_model(inputs.model, runtime)
    config = config.filled(described.get("sampling", {}))
    key = _key(config, inputs, model)
    if not preview and out.suffix and (reason := _why(out, key, runtime)) is not None:
        if not reason:
            log(f"skip {out}: up to date")
            return Report(out=out, skipped=1)
        log(f"make {out}: {reason}")
    with clock("track"):
        reference = open_reference(
            Path(inputs.reference), config.faces, runtime, start=config.start, end=config.end, max_turn=config.max_turn
        )
    with clock("audio"):
        speech = Speech(described, inputs.audio, media, reference.feed.fps, config.acoustic_model, runtime)
    plan = make_plan(reference, speech.frames, speech.loudness, reference.feed.fps)
    job = Job(Drawing.of(config), renderer, reference, speech, plan, clock)
    if preview:
        return _preview(job, out)
    if not out.suffix:
        return _frames_artifact(job, config, inputs, key, out, runtime)
    facts = _video(job, config, inputs, key, out, runtime)
    facts |= _provenance(config, inputs, model, reference) | {"key": key, "sha256": file_digest(out)}
    write_json(out.with_suffix(".json"), facts)
    return Report(out=out, done=1, facts=facts)


def open_sound(path: Path) -> MediaInfo:
    """What the recording at `path` holds. Raises InputError when it has no sound or cannot be read."""
    media = probe(path)
    if media.audio is None:
        raise InputError(f"{path}: no audio track; give a file with sound as --audio")
    return media


def run_list(config: Config, path: Path, model: Path | None, runtime: Runtime) -> Report:
    """Every job of the table `path`: tab-separated with a header; columns audio, ref, out and, if wanted, any setting's name.

    Paths are taken from the table's folder. A job that fails is reported and the rest go on; one that is done is skipped.
    With several workers or a cluster each job is done by one of them; with a shard, only its share of the jobs is done.
    """
    jobs = read_list(path, config)
    report, here = Report(out=path.parent), not runtime.elsewhere or runtime.dry_run
    single = replace(runtime, workers=1, ray=None, shard=None)
    if here:
        work = functools.partial(draw_job, loaded=None if runtime.dry_run else load_model(model, single))
        arguments, engine, shown = (single,), single, Reporter()  # a job draws its own bar
    else:
        find_model(model)  # now: a wrong one would fail every job
        work, arguments, engine, shown = draw_job, (replace(single, reporter=Reporter()),), runtime, runtime.reporter
    calls = []
    for number, (settings, inputs, out) in enumerate(jobs, 1):
        if runtime.shard is None or int(digest_json(str(out)), 16) % runtime.shard[1] == runtime.shard[0]:
            name = f"job {number} of {len(jobs)}: {out}"
            calls.append(Call(str(out), work, (settings, replace(inputs, model=model), out, *arguments, name), name=name))
    with (
        shown.progress("infer", len(calls), "videos") as bar,
        closing(run_calls(calls, engine, NEEDS, bar, jobs[0][2].parent)) as ended,
    ):
        for call, outcome in ended:
            if isinstance(outcome, Exception):
                _note_failure(report, call.id, outcome, runtime)
                continue
            one, lines = outcome
            for line in lines:
                runtime.reporter.log(f"{call.id}: {line}")
            report.done, report.skipped = report.done + one.done, report.skipped + one.skipped
    return report


def draw_job(
    config: Config, inputs: Inputs, out: Path, runtime: Runtime, name: str, tick: Tick, loaded: Loaded | None = None
) -> tuple[Report, list[str]]:
    """One job of a table, and what it had to say; `loaded` is the model of this process, else a worker's own is opened."""
    if loaded or runtime.dry_run:
        runtime.reporter.log(name)
        return run(config, inputs, out, runtime, loaded=loaded), []
    kept = Kept()
    loaded = _worker_model(inputs.model, runtime.device, runtime.threads, runtime.dtype, runtime.compile)
    deadline = time.monotonic() + LEASE_SECONDS
    while True:
        try:
            return run(config, inputs, out, replace(runtime, reporter=kept), loaded=loaded), kept.lines
        except BusyError:  # a worker on a lost node began it, and the file server still keeps its lock
            if time.monotonic() > deadline:
                raise
            time.sleep(2)


class Kept(Reporter):
    """Keeps what a worker has to say for the driver."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(f"warning: {message}")


@functools.lru_cache(maxsize=1)
def _worker_model(model: Path | None, device: str, threads: int | None, dtype: Any, compile: bool) -> Loaded:
    """The model of a worker process, opened once for all its jobs."""
    return load_model(model, Runtime(device=device, threads=threads, dtype=dtype, compile=compile))


def _note_failure(report: Report, out: str, error: Exception, runtime: Runtime) -> None:
    told = str(error) if isinstance(error, DiffTalkError) else f"{type(error).__name__}: {error}"
    runtime.reporter.warn(f"{out}: {told}")
    if not isinstance(error, DiffTalkError):  # a bug: one job's must not end the others, but is to be found
        runtime.reporter.log("".join(traceback.format_exception(error)))
    report.failed[out] = told


def read_list(path: Path, config: Config) -> list[tuple[Config, Inputs, Path]]:
    """The table's jobs. Raises InputError when it cannot be read, UsageError for a column or value that cannot be."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    known = {f.replace("_", "-"): f for f in asdict(config)}
    jobs, taken = [], set()
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or not {"audio", "ref", "out"} <= row.keys():
            raise InputError(f"{path}, line {number}: needs the columns audio, ref and out, separated by tabs, in every line")
        if unknown := set(row) - {"audio", "ref", "out"} - set(known):
            raise UsageError(f"{path}: unknown column {', '.join(sorted(unknown))}; audio, ref, out, or one of {', '.join(known)}")
        changes = {known[k]: _typed(config, known[k], v, f"{path}, line {number}") for k, v in row.items() if k in known and v}
        audio, reference, out = (path.parent / row[k] for k in ("audio", "ref", "out"))
        if out in taken:
            raise UsageError(f"{path}, line {number}: {row['out']} is written by an earlier line already")
        taken.add(out)
        jobs.append((replace(config, **changes), Inputs(audio, reference), out))
    if not jobs:
        raise InputError(f"{path}: no jobs; a header line with audio, ref and out, then one line for each")
    return jobs


def _typed(config: Config, name: str, text: str, where: str) -> Any:
    """A setting's value from its text."""
    hint = Config.__annotations__[name]
    try:
        if "bool" in hint:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if "Path" in hint:
            return Path(text)
        return int(text) if hint.startswith("int") else float(text) if "float" in hint else text
    except (ValueError, KeyError):
        raise UsageError(f"{where}: {name} cannot be {text!r}") from None


def _check_paths(inputs: Inputs, out: Path, preview: bool) -> None:
    for path in (inputs.audio, inputs.reference):
        if not Path(path).exists():
            raise InputError(f"{path}: no such file")
        if out.exists() and out.samefile(path):
            raise UsageError(f"{out}: would overwrite an input; choose another -o")
    if not preview and out.suffix and out.suffix.lower() not in VIDEO_SUFFIXES:
        raise UsageError(f"{out}: cannot write {out.suffix}; use {' '.join(VIDEO_SUFFIXES)}, or a name without suffix for frames")
    refuse_bad_place(out if out.suffix else out / "artifact.json")


def _key(config: Config, inputs: Inputs, model: str) -> dict[str, Any]:
    """All that the frames depend on."""
    settings = config_dict(replace(config, batch=Config.batch, lanes=Config.lanes))  # they change the speed, not the frames
    reference = Path(inputs.reference)
    digest = digest_json(read_json(reference / "clip.json")) if reference.is_dir() else file_digest(reference)
    sources = [
        Input("audio", "file", file_digest(Path(inputs.audio))),
        Input("reference", "file", digest),
        Input("model", "denoiser", model),
    ]
    return make_key("infer", CODE, settings, sources, ())


def _why(out: Path, key: dict[str, Any], runtime: Runtime) -> str | None:
    """Why `out` must be made; an empty text when it is there and sound, None when nothing is there."""
    told = read_json(out.with_suffix(".json"))
    if not out.exists() or told is None or "key" not in told:
        return None
    if runtime.force:
        return "forced"
    if told["key"] != key:
        return explain(told["key"], key)
    return "" if told.get("sha256") == file_digest(out) else "damaged"


def _video(job: Job, config: Config, inputs: Inputs, key: dict[str, Any], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Draw the segments that are not there yet, and join them. Returns what out.json tells."""
    feed, plan, log = job.reference.feed, job.plan, runtime.reporter.log
    with Parts(out, key) as parts, runtime.reporter.progress("infer", len(plan.order), "frames") as bar:
        if parts.why:
            log(f"{out}: parts of an earlier run are of no use: {parts.why}")
        todo = []
        for number, (a, b) in enumerate(plan.segments):
            if parts.facts(number):
                bar.advance(b - a)
            else:
                todo.append(number)
        if len(todo) < len(plan.segments):
            log(f"{out}: going on, {len(plan.segments) - len(todo)} of {len(plan.segments)} parts are there")
        side_by_side = config.lanes if config.reference == "progressive" else 1
        for i in range(0, len(todo), side_by_side):
            group = todo[i : i + side_by_side]
            drawn = None
            if config.reference == "progressive":
                drawn = job.progress([plan.segments[n] for n in group], parts.folder)
            for number in group:
                with parts.make(number) as (path, told):
                    writer = VideoWriter(
                        path, fps=feed.fps, size=feed.size, like=feed.info, lossless=config.lossless, crf=config.crf, codec=config.codec
                    )
                    with writer as sink:
                        job.render(*plan.segments[number], sink, parts.folder, bar, drawn)
                    told["covered"] = ranges(job.occlusion.covered())
        covered = [r for n in range(len(plan.segments)) for r in parts.facts(n)["covered"]]  # type: ignore[index]
        with job.clock("join"), write_atomic(out) as part:
            join([parts.path(n) for n in range(len(plan.segments))], part, fps=feed.fps, audio=inputs.audio, metadata=METADATA)
        parts.discard()
    return _facts(job, job.clock) | {"frames_covered": covered}


def _preview(job: Job, out: Path) -> Report:
    """The source and the result side by side, of the frame that speaks loudest."""
    from PIL import Image

    class Last:
        frame: np.ndarray

        def write(self, frame: np.ndarray) -> None:
            self.frame = frame

    class Nothing:
        def advance(self, n: float = 1) -> None: ...
        def note(self, text: str) -> None: ...

    plan, last = job.plan, Last()
    chosen = int(np.argmax(job.speech.loudness * (plan.presence > 0)))
    source = next(job.reference.feed.play(plan.order[chosen : chosen + 1], out.parent))
    job.render(chosen, chosen + 1, last, out.parent, Nothing())
    with write_atomic(out) as part:
        Image.fromarray(np.concatenate([source, last.frame], axis=1)).save(part)
    return Report(out=out, done=1, facts={"frame": chosen, "seconds": _seconds(job.clock)})


def _facts(job: Job, clock: Clock) -> dict[str, Any]:
    plan, reference = job.plan, job.reference
    lost = reference.track.status[plan.order] == LOST
    return {
        "frames": len(plan.order),
        "fps": f"{reference.feed.fps.numerator}/{reference.feed.fps.denominator}",
        "size": list(reference.feed.size),
        "seconds_sound": round(job.speech.seconds, 3),
        "coverage": round(float((plan.presence > 0).mean()), 4),
        "frames_passed_through": ranges(np.flatnonzero(plan.presence == 0)),
        "frames_lost": ranges(np.flatnonzero(lost)),
        "frames_turned": ranges(np.flatnonzero(reference.turned[plan.order])),
        "reference_frames": reference.count,
        "frames_referred_to": sorted(job.references.shown),
        "people": reference.track.people,
        "seconds": _seconds(clock),
    }


def _seconds(clock: Clock) -> dict[str, float]:
    return {k: round(v, 2) for k, v in clock.seconds.items()} | {"all": round(clock.all, 2)}


def ranges(numbers: np.ndarray) -> list[list[int]]:
    """Rising numbers as [first, last] runs."""
    if not len(numbers):
        return []
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return [[int(p[0]), int(p[-1])] for p in parts]


def _provenance(config: Config, inputs: Inputs, model: str, reference: Reference) -> dict[str, Any]:
    settings = {k: (str(v) if isinstance(v, Path) else v) for k, v in asdict(config).items()}
    return {
        "model": model,
        "audio": {"name": Path(inputs.audio).name, "sha256": file_digest(Path(inputs.audio))},
        "reference": {"name": Path(inputs.reference).name, "sha256": reference.digest},
        "settings": settings,
        "note": METADATA["comment"],
    }


def _frames_artifact(job: Job, config: Config, inputs: Inputs, key: dict[str, Any], out: Path, runtime: Runtime) -> Report:
    """clips/<reference>-<hash>/frames/000000.png ..., for tools that want pictures."""
    sources = tuple(Input(i["role"], i["kind"], i["digest"]) for i in key["inputs"])
    settled = replace(config, batch=Config.batch, lanes=Config.lanes)
    with Store(out, kind="frames", stage="infer", code=CODE, config=settled, runtime=runtime) as store:
        id = f"{Path(inputs.reference).stem}-{job.reference.digest[:8]}"
        for unit in store.plan([Unit(id, sources)]):
            with store.draft(unit) as draft, runtime.reporter.progress("infer", len(job.plan.order), "frames") as bar:
                writer = FrameWriter(draft.path)
                for a, b in job.plan.segments:
                    drawn = job.progress([(a, b)], draft.path) if config.reference == "progressive" else None
                    job.render(a, b, writer, draft.path, bar, drawn)
                made = _facts(job, job.clock)
                made.pop("seconds")  # facts hold no time: the same inputs give the same artifact
                draft.facts |= made
        return store.seal()
