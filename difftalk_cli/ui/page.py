"""The page: forms on the left, the chosen job and the list of jobs on the right. Whatever it starts is a job (ui.jobs)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from difftalk_cli.ui import show
from difftalk_cli.ui.form import config_of, setting_components
from difftalk_cli.ui.jobs import Job, Table
from difftalk_cli.ui.worker import Worker, WorkerGone
from stages import infer
from stages.dubbing.model import BUNDLED
from stages.errors import DiffTalkError, UsageError

if TYPE_CHECKING:
    from difftalk_cli.ui.serve import Settings

STATIC = Path(__file__).with_name("static")
CSS = (STATIC / "page.css").read_text(encoding="utf-8")
HEAD = f"<script>{(STATIC / 'page.js').read_text(encoding='utf-8')}</script>"
LOOK_SECONDS = 60.0
KEPT_UPLOADS = (600, 6 * 3600)
"""Every so many seconds, uploads older than so many seconds are deleted; jobs have their own links to theirs."""
AT_ONCE: dict[str, Any] = {"queue": False, "api_visibility": "private"}
"""How every handler is called. Each is short (what takes long is a job), and gradio's queue loses answers: its browser side goes on
listening to a stream that the server is closing, so what is asked for in that moment is done but never shown."""
QUIET: dict[str, Any] = AT_ONCE | {"show_progress": "hidden"}
HEADER = """<header class="dt-top"><h1>difftalk</h1>
<p>A person in a video or a photo says a recording. Everything stays on this machine.</p></header>"""
CONSENT = "The people shown and heard agreed to this, or are me."
ETHICS = (
    "Do not deceive, impersonate or harass with it. Every result carries an invisible mark and a note in its metadata that its mouth "
    "is synthetic."
)


def THEME() -> gr.themes.Base:
    """Fonts of the machine alone: gradio's own would come from the network. Greys and greens are dark enough to be read."""
    plain, mono = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"], ["ui-monospace", "Consolas", "monospace"]
    theme = gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="md", font=plain, font_mono=mono
    )
    return theme.set(
        body_text_color_subdued="*neutral_500", button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800", link_text_color="*primary_700", block_info_text_color="*neutral_500",
    )  # fmt: skip


def make_page(settings: Settings, table: Table, eyes: Worker, uploads: Path) -> gr.Blocks:
    return Page(settings, table, eyes, uploads).build()


class Page:
    """Handlers are methods; components are made in `build` and the methods below it."""

    def __init__(self, settings: Settings, table: Table, eyes: Worker, uploads: Path):
        self.settings, self.table, self.eyes, self.uploads = settings, table, eyes, uploads.resolve()
        self.models = {name: str(path) for name, path in _names(settings.models).items()} or {"bundled": ""}

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="difftalk", analytics_enabled=False, delete_cache=KEPT_UPLOADS) as page:
            gr.HTML(HEADER)
            with gr.Row(elem_classes="dt-columns"):
                with gr.Column(scale=5, min_width=320):
                    with gr.Tabs():
                        with gr.Tab("Speak", elem_id="tab-speak"):
                            submits = self._speak()
                        with gr.Tab("Compare", elem_id="tab-compare"):
                            compared, self.pickers = self._compare()
                        with gr.Tab("Check a file", elem_id="tab-check"):
                            checked = self._check()
                with gr.Column(scale=6, min_width=320, elem_id="dt-right"):
                    self._results()
            for click, inputs, notice in [*submits, compared, checked]:
                click["button"].click(click["call"], inputs, [notice, self.jobs], **QUIET).then(self.refresh, *self.watched, **QUIET)
            page.load(self.opened, None, self.jobs, **QUIET).then(self.refresh, *self.watched, **QUIET)
        return page

    # -- Speak

    def _speak(self) -> list[tuple[dict[str, Any], list[Any], Any]]:
        with gr.Row():
            with gr.Column(min_width=220):
                person = gr.File(label="Person: a video or a photo", elem_id="person", height=150)
                with gr.Accordion("Record with the camera", open=False):
                    camera = gr.Video(
                        sources=["webcam"], include_audio=True, show_label=False, webcam_options=gr.WebcamOptions(mirror=False)
                    )
            with gr.Column(min_width=220):
                audio = gr.File(label="Speech: a recording", elem_id="speech", height=150)
                with gr.Accordion("Record with the microphone", open=False):
                    microphone = gr.Audio(sources=["microphone"], type="filepath", show_label=False)
        with gr.Row():
            seen, heard = gr.HTML(elem_id="seen", min_width=220), gr.HTML(elem_id="heard", min_width=220)
        faces = gr.State([])
        face = gr.Radio([], label="Who speaks", visible=False, elem_id="face")
        with gr.Row(elem_classes="dt-main-settings"):
            model = gr.Dropdown(list(self.models), value=next(iter(self.models)), label="Model", elem_id="model", min_width=150)
            main = setting_components(infer.Config, ("steps", "seed", "feather"), brief=True)
        with gr.Accordion("All settings", open=False):
            rest = setting_components(infer.Config, tuple(n for n in asdict(infer.Config()) if n not in main and n not in HIDDEN))
        consent = gr.Checkbox(label=CONSENT, elem_id="consent")
        gr.HTML(f'<p class="dt-small">{ETHICS}</p>')
        notice = gr.HTML(elem_id="notice")
        with gr.Row():
            preview = gr.Button("Preview one frame", elem_id="preview")
            run = gr.Button("Make the video", variant="primary", elem_id="run")

        looks = [person, face, model, main["feather"]]
        camera.change(self.pass_on, camera, person, **QUIET)
        microphone.change(self.pass_on, microphone, audio, **QUIET)
        person.change(self.look_anew, [person, model, main["feather"]], [seen, faces, face], show_progress_on=[seen], **AT_ONCE)
        face.input(self.look_again, looks, seen, **QUIET)
        model.input(self.look_again, looks, seen, **QUIET)
        main["feather"].change(self.look_again, looks, seen, trigger_mode="always_last", **QUIET)
        audio.change(self.listen, audio, heard, show_progress_on=[heard], **AT_ONCE)
        names, parts = list(main | rest), list((main | rest).values())
        inputs = [person, audio, face, faces, consent, model, *parts]

        def submit(kind: str) -> Any:
            def call(person: Any, audio: Any, face: Any, faces: Any, consent: Any, model: Any, *values: Any) -> Any:
                return self.speak(kind, person, audio, face, faces, consent, model, dict(zip(names, values, strict=True)))

            return call

        return [
            ({"button": button, "call": submit(kind)}, inputs, notice) for button, kind in ((preview, "preview"), (run, "video"))
        ]

    def _own(self, path: str | None) -> Path | None:
        """The upload. gradio has looked too, but that no other file is read is worth a line of our own."""
        if not path:
            return None
        found = Path(path).resolve()
        if not found.is_relative_to(self.uploads):
            raise UsageError(f"{found.name}: not a file that was uploaded")
        return found

    def pass_on(self, path: str | None) -> Any:
        """What was recorded, as if it had been dropped."""
        return str(self._own(path)) if path else gr.skip()

    def look_anew(self, person: str | None, model: str, feather: float | None) -> Any:
        """The picture, the faces and the choice among them, for a new upload."""
        nothing = gr.update(choices=[], value=None, visible=False)
        if not person:
            return "", [], nothing
        told, error = self._ask("look", path=person, chosen=0, mask=self._mask(model), feather=feather or 0.0)
        if error:
            return show.notice(error), [], nothing
        faces = told["faces"]
        choices = [(f"{i + 1}: {_where(f['x'])}", i) for i, f in enumerate(faces)]
        return show.person(told), faces, gr.update(choices=choices, value=0 if faces else None, visible=len(faces) > 1)

    def look_again(self, person: str | None, face: int | None, model: str, feather: float | None) -> Any:
        """The picture with another choice."""
        if not person:
            return gr.skip()
        told, error = self._ask("look", path=person, chosen=face or 0, mask=self._mask(model), feather=feather or 0.0)
        return show.notice(error) if error else show.person(told)

    def listen(self, audio: str | None) -> str:
        if not audio:
            return ""
        told, error = self._ask("listen", path=audio)
        return show.notice(error) if error else show.sound(told, f"/gradio_api/file={audio}")

    def _ask(self, kind: str, **request: Any) -> tuple[dict[str, Any], str]:
        """(facts, error) of a short look, by the process that looks."""
        try:
            path = self._own(request["path"])
            assert path
            end = self.eyes.ask({"kind": kind, "job": kind, "runtime": {}, **request}, LOOK_SECONDS)
        except UsageError as error:
            return {}, str(error)
        except WorkerGone:
            return {}, f"{path.name}: looking at it took too long or too much memory; give another file"
        return end.get("facts", {}), end.get("error", "").replace(str(path), path.name)

    def _mask(self, model: str) -> str:
        """The mask that a model was trained with."""
        try:
            told = json.loads((Path(self.models[model] or BUNDLED) / "config.json").read_text(encoding="utf-8"))
            return str(told["mask"])
        except (OSError, ValueError, KeyError):
            return "lower-face"

    def speak(
        self, kind: Any, person: str | None, audio: str | None, face: int | None, faces: list[dict[str, float]], consent: bool,
        model: str, values: dict[str, Any],
    ) -> Any:  # fmt: skip
        """Queue a preview or a video."""

        def add() -> Job:
            if not person or not audio:
                missing = " and ".join(n for n, v in (("a person", person), ("a recording", audio)) if not v)
                raise UsageError(f"missing: {missing}; drop a file, or record one")
            if not consent:
                raise UsageError("missing: that the people agreed; tick the line above the buttons")
            config = config_of(infer.Config, values)
            # one face needs no choosing; of several the place in the first frame says which
            at = [faces[face]["x"], faces[face]["y"]] if len(faces) > 1 and face is not None else None
            settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
            request = {"settings": settings, "model": self.models[model], "face_at": at, "runtime": self.settings.runtime}
            title = f"{Path(audio).name} × {Path(person).name}"
            files = {"audio": self._own(audio), "reference": self._own(person)}
            return self.table.add(kind, title, request, files, "result.mp4" if kind == "video" else "preview.png")

        return self._add(add)

    def _add(self, make: Any) -> Any:
        """(message, list of jobs): the new job is the one that is shown."""
        try:
            job = make()
        except DiffTalkError as error:
            return show.notice(str(error)), gr.skip()
        return "", gr.update(choices=self._choices(), value=job.id)

    # -- Compare and Check

    def _compare(self) -> tuple[tuple[dict[str, Any], list[Any], Any], list[Any]]:
        gr.HTML("<p class='dt-small'>Scores of one or two videos against the true one, by <code>difftalk evaluate</code>.</p>")
        picks, files = [], []
        for name, what in (("a", "First"), ("b", "Second, if any")):
            with gr.Row():
                picks.append(gr.Dropdown([], label=f"{what}: one made here", elem_id=f"pick-{name}", min_width=150))
                files.append(gr.File(label="or a file", height=150, elem_id=f"file-{name}", min_width=150))
        truth = gr.File(label="True video; without one, the first's own source", height=150, elem_id="truth")
        notice = gr.HTML()
        button = gr.Button("Compare", variant="primary", elem_id="compare")
        return ({"button": button, "call": self.compare}, [*picks, *files, truth], notice), picks

    def compare(self, pick_a: str | None, pick_b: str | None, file_a: str | None, file_b: str | None, truth: str | None) -> Any:
        def add() -> Job:
            made = {"a": self.table.get(pick_a), "b": self.table.get(pick_b)}
            dropped = {"a": file_a, "b": file_b}
            found = {k: self._own(v) or ((j := made[k]) and j.result()) for k, v in dropped.items()}  # a file goes before a choice
            videos = {k: path for k, path in found.items() if path}
            if "a" not in videos:
                raise UsageError("missing: the first video; choose one that was made here, or drop a file")
            source = made["a"].path("source.mp4") if made["a"] and not file_a else None
            if not truth and source is None:
                raise UsageError("missing: the true video; a file of your own has no source here")
            names = [Path(v).name if (v := dropped[k]) else f"#{made[k].number}" for k in videos]  # type: ignore[union-attr]
            if len(set(names)) < len(names):
                names[1] += " (second)"
            request = {"names": names, "runtime": self.settings.runtime}
            return self.table.add("scores", " and ".join(names), request, {**videos, "truth": self._own(truth) or source})  # type: ignore[dict-item]

        return self._add(add)

    def _check(self) -> tuple[dict[str, Any], list[Any], Any]:
        gr.HTML("<p class='dt-small'>Was a video or a picture made by difftalk? Its invisible mark and its metadata tell.</p>")
        file = gr.File(label="A video or a picture", height=150, elem_id="marked")
        notice = gr.HTML()
        button = gr.Button("Check", variant="primary", elem_id="check")
        return {"button": button, "call": self.check}, [file], notice

    def check(self, file: str | None) -> Any:
        def add() -> Job:
            path = self._own(file)
            if path is None:
                raise UsageError("missing: a file to look at")
            return self._check_file(path, path.name)

        return self._add(add)

    def _check_file(self, path: Path, name: str) -> Job:
        return self.table.add("mark", name, {"runtime": self.settings.runtime}, {"file": path})

    # -- the jobs

    def _results(self) -> None:
        status = gr.HTML(show.status(None), elem_id="status")
        with gr.Row(elem_classes="dt-actions"):
            stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop", size="sm", min_width=90)
            again = gr.Button("Go on", variant="primary", visible=False, elem_id="again", size="sm", min_width=90)
            smooth = gr.Button("Twice the frame rate", visible=False, elem_id="smooth", size="sm", min_width=90)
            check = gr.Button("Check its mark", visible=False, elem_id="check-result", size="sm", min_width=90)
            remove = gr.Button("Delete", visible=False, elem_id="remove", size="sm", min_width=90)
        made = gr.HTML(elem_id="result")
        notice = gr.HTML()
        self.jobs = gr.Radio([], label="Jobs, one at a time", elem_id="jobs", visible=False)
        # What this tab was told last. The tab itself keeps it, not the server: answers that overtake each other then leave a
        # tab and its record in agreement, and the next look mends what is old.
        shown = gr.Textbox("{}", visible="hidden", elem_id="shown")
        buttons = [stop, again, smooth, check, remove]
        self.watched = ([self.jobs, shown], [self.jobs, status, made, *buttons, *self.pickers, shown])
        gr.Timer(1.0).tick(self.refresh, *self.watched, **QUIET)
        self.jobs.input(self.refresh, *self.watched, **QUIET)
        for button, call in ((stop, self.table.stop), (again, self.table.again), (remove, self._remove)):
            button.click(_quietly(call), self.jobs, None, **QUIET).then(self.refresh, *self.watched, **QUIET)
        for button, follow in ((smooth, self.smooth), (check, self.check_result)):
            button.click(follow, self.jobs, [notice, self.jobs], **QUIET).then(self.refresh, *self.watched, **QUIET)

    def _remove(self, id: str) -> None:
        self.table.remove(id)

    def smooth(self, id: str | None) -> Any:
        """Queue twice the frame rate for a finished video."""

        def add() -> Job:
            job = self.table.get(id)
            if job is None or (video := job.result()) is None:
                raise UsageError("no finished video is chosen")
            request = {"settings": {"factor": 2}, "runtime": self.settings.runtime}
            made = self.table.add("smooth", job.title, request, {"video": video}, "result.mp4")
            made.path("source.mp4").hardlink_to(video)
            return made

        return self._add(add)

    def check_result(self, id: str | None) -> Any:
        def add() -> Job:
            job = self.table.get(id)
            if job is None or (video := job.result()) is None:
                raise UsageError("no finished video is chosen")
            return self._check_file(video, f"#{job.number} {job.title}")

        return self._add(add)

    def opened(self) -> Any:
        """A page that is opened shows what runs, else what was made last."""
        jobs = self.table.all()
        running = next((j for j in jobs if j.state == "running"), None)
        chosen = running or (jobs[-1] if jobs else None)
        return gr.update(choices=self._choices(), value=chosen.id if chosen else None)

    def _choices(self) -> list[tuple[str, str]]:
        return [(show.label(job), job.id) for job in reversed(self.table.all())]

    def refresh(self, id: str | None, told: str) -> Any:
        """Whatever changed since this page was last told; the player is left alone while it plays."""
        shown, jobs = _record(told), self.table.all()
        job = self.table.get(id)
        if job is None and jobs:
            job = jobs[-1]
        ahead = sum(j.active and j.number < job.number for j in jobs) if job and job.state == "waiting" else 0
        done = job is not None and job.result() is not None
        films = [(f"#{j.number} {j.title}", j.id) for j in reversed(jobs) if j.result()]
        now: dict[str, Any] = {
            "jobs": [self._choices(), job.id if job else None],
            "status": show.status(job, ahead),
            "result": [job.id, job.state] if job else None,
            "buttons": [
                bool(job and job.active), bool(job and job.state in ("stopped", "failed")), done and job.kind == "video",  # type: ignore[union-attr]
                done, bool(job and not job.active),
            ],
            "films": films,
        }  # fmt: skip
        now = json.loads(json.dumps(now))  # as it comes back
        new = {key for key, value in now.items() if shown.get(key) != value}
        list_of_jobs = gr.skip()
        if "jobs" in new:
            chosen = {} if job and job.id == id else {"value": now["jobs"][1]}
            list_of_jobs = gr.update(choices=now["jobs"][0], visible=bool(jobs), **chosen)
        return (
            list_of_jobs,
            now["status"] if "status" in new else gr.skip(),
            show.result(job) if "result" in new else gr.skip(),
            *(gr.update(visible=v) if "buttons" in new else gr.skip() for v in now["buttons"]),
            *(gr.update(choices=films) if "films" in new else gr.skip() for _ in self.pickers),
            json.dumps(now) if new else gr.skip(),
        )


HIDDEN = ("face", "acoustic_model", "landmarks", "batch", "lanes")
"""Settings that the page decides by other means (the face by its picture), or that name files or weights of the machine."""


def _record(told: str) -> dict[str, Any]:
    """What a tab says that it shows; nothing where that makes no sense."""
    try:
        shown = json.loads(told)
    except (TypeError, ValueError):
        return {}
    return shown if isinstance(shown, dict) else {}


def _quietly(call: Any) -> Any:
    """A click on nothing does nothing."""
    return lambda id: call(id) if id else None


def _where(x: float) -> str:
    return "left" if x < 0.4 else "right" if x > 0.6 else "middle"


def _names(paths: list[Path]) -> dict[str, Path]:
    """Short names that tell the models apart."""
    names = [p.name for p in paths]
    return {(p.name if names.count(p.name) == 1 else f"{p.parent.name}/{p.name}"): p for p in paths}
