"""The page's hands: a process of its own that runs one stage after the other, so that it can be stopped and the page stays free.

    python -m difftalk_cli.ui.work

Requests come in on stdin and events go out on stdout, a JSON object a line. The process ends when stdin does (the server is
gone) or when it is interrupted (the job is to stop); what was finished by then is on disk, and the same request goes on from there.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from difftalk_cli.progress import LineBar, LineReporter
from stages.errors import DiffTalkError, InputError, WeightsError
from stages.runtime import Progress, Runtime

TELL_SECONDS = 0.3
"""How often a bar speaks."""
POLITE = 5
"""Added to the process's nice value: the page answers first."""
SECOND = "second"
"""What evaluate calls the second of two videos."""

Emit = Callable[..., None]


class PipeReporter(LineReporter):
    """Lines and bars as events."""

    def __init__(self, emit: Emit):
        super().__init__("info")
        self.emit = emit

    def log(self, message: str) -> None:
        self.emit("log", text=message)

    def warn(self, message: str) -> None:
        self.emit("warn", text=message)

    @contextmanager
    def progress(self, title: str, total: float | None, unit: str = "") -> Iterator[Progress]:
        bar = PipeBar(self, title, total, unit)
        bar.say()
        yield bar
        bar.say()


class PipeBar(LineBar):
    """Says how far it is every TELL_SECONDS."""

    period = TELL_SECONDS
    reporter: PipeReporter

    def say(self) -> None:
        self._say()

    def _say(self) -> None:
        self.spoke, rate = time.monotonic(), self.rate()
        self.reporter.emit(
            "bar", title=self.title, done=self.done, total=self.total, unit=self.unit, rate=rate, left=self.left(rate), note=self.text
        )


# -- what can be asked for: request, runtime -> facts


class Models:
    """The model that was used last, kept open."""

    key: Any = None
    loaded: Any = None

    def open(self, path: Path | None, runtime: Runtime) -> Any:
        from stages.dubbing.model import BUNDLED, load_model

        told = Path(path or BUNDLED) / "artifact.json"
        stamp = (told.stat().st_mtime_ns, told.stat().st_size) if told.exists() else None
        key = (path, stamp, runtime.device, runtime.dtype, runtime.threads)
        if self.key != key:
            self.key = None
            self.loaded = load_model(path, runtime)
            self.key = key
        return self.loaded


MODELS = Models()


def warm(request: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """Open the model before it is asked for: the first preview need not wait for it."""
    import stages.dubbing.job  # noqa: F401

    MODELS.open(_path(request["model"]), runtime)
    return {}


def warm_eyes(request: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    from difftalk_cli.ui.look import finder

    finder()
    return {}


def look(request: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    from difftalk_cli.ui.look import look_at_person

    return look_at_person(Path(request["path"]), request["chosen"], request["mask"], request["feather"])


def listen(request: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    from difftalk_cli.ui.look import look_at_sound

    return look_at_sound(Path(request["path"]))


def video(request: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """The talking video, and beside it the reference's frames in the order in which they were played."""
    return _infer(request, runtime, preview=False)


def preview(request: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    return _infer(request, runtime, preview=True)


def _infer(request: dict[str, Any], runtime: Runtime, preview: bool) -> dict[str, Any]:
    from stages import infer

    config, model, out = infer.Config(**request["settings"]), _path(request["model"]), Path(request["out"])
    inputs = infer.Inputs(Path(request["audio"]), Path(request["reference"]), model)
    infer.open_sound(inputs.audio)  # what cannot be heard need not wait for the model
    loaded = MODELS.open(model, runtime)
    if request["face_at"]:
        config = replace(config, face=_whose(config, inputs.reference, request["face_at"], runtime))
    report = infer.run(config, inputs, out, runtime, preview=preview, loaded=loaded)
    if preview:
        return report.facts
    facts = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    _copy_source(config, inputs.reference, facts, out.with_name("source.mp4"), runtime)
    return facts


def _whose(config: Any, reference: Path, at: list[float], runtime: Runtime) -> int:
    """The number of the face that the first frame shows at a place: the whole film, not one frame, decides how they are numbered."""
    from difftalk_cli.ui.look import nearest
    from stages.dubbing.reference import open_reference

    faces = replace(config, face=0).faces
    found = open_reference(reference, faces, runtime, start=config.start, end=config.end, max_turn=config.max_turn)
    return nearest(found.track.people, *at) if found.track.people else 0


def _copy_source(config: Any, reference: Path, facts: dict[str, Any], out: Path, runtime: Runtime) -> None:
    """What the result is compared with: the same frames without the new mouth, in a form that browsers play."""
    from stages.artifacts import write_atomic
    from stages.media.feed import open_feed, pingpong
    from stages.media.video import VideoWriter

    if out.exists():
        return
    feed = open_feed(reference, start_seconds=config.start, seconds=None if config.end is None else config.end - config.start)
    order = pingpong(facts["reference_frames"], facts["frames"])
    with write_atomic(out) as part, VideoWriter(part, fps=feed.fps, size=feed.size, like=feed.info, preset="veryfast") as sink:
        with runtime.reporter.progress("copy the source to compare with", len(order), "frames") as bar:
            for frame in feed.play(order, out.parent):
                sink.write(frame)
                bar.advance(1)


def smooth(request: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    from stages import interpolate

    config = interpolate.Config(**request["settings"])
    return interpolate.run(config, Path(request["video"]), Path(request["out"]), runtime).facts


def scores(request: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """One or two videos against the true one: `methods`, {title: {metric: figures}}, and `folders`, evaluate's artifacts."""
    from stages import evaluate

    # Without VGG's LPIPS and the standing rows, which take longer than somebody waits; the command line has them.
    config = evaluate.Config(metrics="psnr,ssim,lpips,mouth,identity,jitter,sync", rows="")
    videos = [Path(request[role]) for role in ("a", "b") if request.get(role)]
    titles = dict(zip((evaluate.METHOD, SECOND)[: len(videos)], request["names"], strict=False))
    inputs = evaluate.Inputs(videos[0], Path(request["truth"]), methods=dict(zip([SECOND], videos[1:], strict=False)))
    report = evaluate.run(config, inputs, Path(request["out"]) / "a", runtime)
    means = json.loads((Path(request["out"]) / "a" / "scores.json").read_text(encoding="utf-8"))["methods"]
    why = "; ".join(dict.fromkeys(report.failed.values()))
    if unscored := [titles[method] for method in titles if not means.get(method)]:
        raise InputError(f"{' and '.join(unscored)}: {why}")
    if why:  # scored in part
        runtime.reporter.warn(why)
    return {"methods": {titles.get(method, method): figures for method, figures in means.items() if figures}, "folders": ["a"]}


def mark(request: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    from stages import detect

    return detect.run(detect.Config(), Path(request["file"]), runtime).facts


KINDS: dict[str, Callable[[dict[str, Any], Runtime], dict[str, Any]]] = {
    "warm": warm, "warm-eyes": warm_eyes, "look": look, "listen": listen,
    "preview": preview, "video": video, "smooth": smooth, "scores": scores, "mark": mark,
}  # fmt: skip


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


# -- the process


def run(request: dict[str, Any], emit: Emit) -> None:
    """Do what is asked; the last event says how it ended."""
    try:
        runtime = Runtime(**request["runtime"], reporter=PipeReporter(emit))
        facts = KINDS[request["kind"]](request, runtime)
    except WeightsError as error:
        hint = " (The page fetches nothing unless it is started with --fetch.)" if runtime.offline else ""
        emit("end", state="failed", error=f"{error}{hint}")
    except DiffTalkError as error:
        emit("end", state="failed", error=str(error))
    except Exception as error:
        traceback.print_exc()
        emit("end", state="failed", error=f"bug: {type(error).__name__}: {error}; the terminal shows where. Please report it.")
    else:
        emit("end", state="done", facts=facts)


def main() -> None:
    """Serve requests until stdin ends or SIGINT comes, and end the process."""
    events, one_at_a_time = os.fdopen(os.dup(1), "w", encoding="utf-8"), threading.Lock()
    os.dup2(2, 1)  # what libraries print is for the terminal
    os.nice(POLITE)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asked: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(asked,), daemon=True).start()
    try:
        while (request := asked.get()) is not None:

            def emit(event: str, job: str = request["job"], **told: Any) -> None:
                line = json.dumps({"job": job, "event": event, **told}, default=str) + "\n"
                with one_at_a_time, suppress(BrokenPipeError):  # without a server stdin ends too, and that ends the job
                    events.write(line)
                    events.flush()

            run(request, emit)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of stdin sends one more, which would disturb the tidying up
        _end(130)
    _end(0)


def _end(code: int) -> NoReturn:
    """End at once: what there was to tidy up is, and to take torch apart piece by piece costs a second or more."""
    sys.stderr.flush()
    os._exit(code)


def _hear(asked: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Requests from stdin. Not through sys.stdin, whose lock a thread must not hold when Python ends."""
    rest = b""
    while data := os.read(0, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            asked.put(json.loads(line))
    asked.put(None)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
