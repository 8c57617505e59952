"""difftalk ui without a browser: the queue and its worker, what the server gives away, pieces of the page."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stages import infer
from stages.errors import InputError, UsageError
from stages.media.audio import read_audio, write_wav
from tests.small import make_model

pytest.importorskip("gradio", reason="the page's extra is not installed")

from difftalk_cli.ui import show  # noqa: E402
from difftalk_cli.ui.jobs import STOPPED, Job, Table, clean_name  # noqa: E402
from difftalk_cli.ui.worker import Worker  # noqa: E402

ROOT = Path(__file__).parents[2]
RUNTIME = {"device": "cpu", "threads": 1, "offline": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("ui") / "model", still=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def table(folder):
    """One table for all, as the page has it: a worker costs seconds to start."""
    table = Table(folder, Worker())
    yield table
    table.close()


@pytest.fixture(scope="module")
def words(made_clip, tmp_path_factory) -> Path:
    """0.6 s of speech: 15 frames to draw."""
    path = tmp_path_factory.mktemp("said") / "words.wav"
    write_wav(path, read_audio(made_clip)[:9600])
    return path


def wait(check, seconds=600.0):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)


def hear(table: Table, path: Path) -> Job:
    return table.add("listen", path.name, {"runtime": RUNTIME}, {"path": path})  # type: ignore[arg-type]


def speak(table: Table, clip: Path, words: Path, model: Path, **settings) -> Job:
    config = {k: v for k, v in vars(infer.Config(**{"steps": 1, "max_turn": 1.0, **settings})).items()}
    request = {"settings": config, "model": str(model), "face_at": None, "runtime": RUNTIME}
    return table.add("video", "words × person", request, {"audio": words, "reference": clip}, "result.mp4")


def test_jobs_are_worked_off_one_by_one_and_one_that_fails_holds_up_nobody(table, made_clip, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    first, bad, last = hear(table, made_clip), hear(table, tmp_path / "bad.wav"), hear(table, made_clip)
    wait(lambda: not last.active)
    assert [j.state for j in (first, bad, last)] == ["done", "failed", "done"]
    assert first.facts["codec"] == "aac" and [j.number - first.number for j in (first, bad, last)] == [0, 1, 2]
    with pytest.raises(InputError) as told:
        infer.open_sound(tmp_path / "bad.wav")
    assert bad.error == str(told.value).replace(f"{tmp_path}/", "")  # the command line's words, the user's file name


def test_a_video_is_infers_own_and_its_source_is_in_step(table, made_clip, words, model, tmp_path):
    from stages.media.video import VideoReader
    from stages.runtime import Runtime

    job = speak(table, made_clip, words, model, seed=3)
    wait(lambda: not job.active)
    assert job.state == "done", job.error
    infer.run(
        infer.Config(steps=1, max_turn=1.0, seed=3), infer.Inputs(words, made_clip, model), tmp_path / "own.mp4",
        Runtime(device="cpu", threads=1),
    )  # fmt: skip
    made, own, source, true = (
        np.stack(list(VideoReader(p))).astype(int)
        for p in (job.path("result.mp4"), tmp_path / "own.mp4", job.path("source.mp4"), made_clip)
    )
    assert np.array_equal(made, own) and job.facts["settings"]["seed"] == 3
    assert source.shape == made.shape and len(made) == 15 and np.abs(source - true[:15]).mean() < 3
    shown = show.result(job)
    assert job.bar == {} and "coverage" in shown
    assert f'--split: {round(100 * job.facts["people"][0]["x"])}%' in shown  # the line goes through the face


def test_stopping_ends_the_work_and_going_on_finishes_it(table, made_clip, words, model):
    job, waiting = speak(table, made_clip, words, model, steps=150, batch=1), hear(table, made_clip)
    wait(lambda: job.bar.get("title") == "infer" and job.bar["done"] >= 1)
    process = table.worker.start()
    table.stop(waiting.id)
    table.stop(job.id)
    wait(lambda: not job.active, 30)
    assert process.wait(30) is not None and (job.state, job.error) == ("stopped", STOPPED)
    assert waiting.state == "stopped" and not job.path("result.mp4").exists()
    assert not list(job.folder.glob("**/building-*"))
    job.request["settings"]["steps"] = 1
    table.again(job.id)
    wait(lambda: not job.active)
    assert job.state == "done" and job.path("result.mp4").exists(), job.error


def test_a_worker_that_is_killed_fails_its_job_and_the_next_gets_a_new_one(table, made_clip, words, model):
    job, after = speak(table, made_clip, words, model, steps=150, batch=1), hear(table, made_clip)
    wait(lambda: job.bar.get("title") == "infer")
    os.kill(table.worker.start().pid, signal.SIGKILL)
    wait(lambda: not after.active)
    assert job.state == "failed" and "memory" in job.error and after.state == "done"


def test_looks_of_several_tabs_at_once_get_each_its_own_answer(made_clip, words):
    worker = Worker()
    try:
        ask = [{"kind": "listen", "job": f"{i % 3}", "runtime": {}, "path": str((made_clip, words)[i % 2])} for i in range(8)]
        with ThreadPoolExecutor(8) as threads:
            ends = list(threads.map(lambda request: worker.ask(request, 120), ask))
        assert [end["facts"]["codec"] for end in ends] == ["aac", "pcm_s16le"] * 4
    finally:
        worker.kill()


def test_a_comparison_is_evaluates_own_or_says_what_it_lacks(table, made_clip, tmp_path):
    from stages import weights
    from stages.media.video import VideoReader, VideoWriter

    frames, short = list(VideoReader(made_clip))[:8], tmp_path / "short.mp4"
    with VideoWriter(short, fps=Fraction(25), size=(320, 320)) as out:
        for frame in frames:
            out.write(frame)
    request = {"names": ["mine", "other"], "runtime": RUNTIME}
    job = table.add("scores", "mine and other", request, {"a": short, "b": short, "truth": short})
    wait(lambda: not job.active)
    if any(row.file.name.startswith("lpips-alex") and row.where is None for row in weights.status()):
        assert job.state == "failed" and "weights" in job.error and "--fetch" in job.error
        return
    assert job.state == "done", job.error
    told = json.loads(job.path("a/scores.json").read_text())
    assert job.facts["methods"]["mine"] == told["methods"]["generated"] and "other" in job.facts["methods"]
    shown = show.result(job)
    assert "<th>mine</th><th>other</th>" in shown and "scores-a.json" in shown


def test_two_videos_keep_their_names_whether_made_here_or_dropped(table, made_clip, tmp_path):
    from difftalk_cli.ui.page import Page
    from difftalk_cli.ui.serve import Settings

    job, uploads = hear(table, made_clip), tmp_path / "uploads"
    wait(lambda: not job.active)
    job.kind = "video"
    for name in ("result.mp4", "source.mp4"):
        shutil.copy(made_clip, job.path(name))
    uploads.mkdir()
    shutil.copy(made_clip, uploads / "other.mp4")
    page = Page(Settings(runtime={"device": "none"}), table, Worker(), uploads)
    assert page.compare(job.id, None, None, str(uploads / "other.mp4"), None)[0] == ""
    queued = table.all()[-1]
    assert queued.request["names"] == [f"#{job.number}", "other.mp4"]
    assert [Path(queued.request[k]).name for k in ("a", "b", "truth")] == ["result.mp4", "other.mp4", "source.mp4"]
    page.compare(None, job.id, str(uploads / "other.mp4"), None, str(uploads / "other.mp4"))
    assert table.all()[-1].request["names"] == ["other.mp4", f"#{job.number}"]
    assert "missing: the true video" in page.compare(None, None, str(uploads / "other.mp4"), None, None)[0]
    wait(lambda: not table.all()[-1].active)


def test_a_tab_that_got_an_old_answer_last_is_told_again(table, made_clip, tmp_path):
    import gradio as gr

    from difftalk_cli.ui.page import Page
    from difftalk_cli.ui.serve import Settings

    page, job = Page(Settings(), table, Worker(), tmp_path), hear(table, made_clip)
    wait(lambda: not job.active)
    page.pickers, job.kind = [], "mark"
    job.facts = {"watermark": {"score": 9.0, "threshold": 4, "found": True}, "metadata": {"text": ""}, "synthetic": True}
    new = page.refresh(job.id, "{}")
    assert "Made by difftalk" in new[2] and page.refresh(job.id, new[-1])[2] == gr.skip()
    job.state = "running"
    old = page.refresh(job.id, new[-1])
    assert old[2] == "" and "running" in old[1]
    job.state = "done"
    assert "Made by difftalk" in page.refresh(job.id, old[-1])[2]
    for nonsense in ("", "[]", "{", None):
        assert page.refresh(job.id, nonsense)[1] == new[1]


def test_a_comparison_shows_evaluates_report_or_says_that_there_is_none(client, table, made_clip, tmp_path):
    job = hear(table, made_clip)
    wait(lambda: not job.active)
    told = {"mine": {"psnr": {"mean": 30.5}}, "<other>": {"psnr": {"mean": 28.25}, "ssim": {"mean": 0.5}}}
    pair = replace(job, kind="scores", request={"names": list(told)}, facts={"methods": told, "folders": ["a"]})
    without = show.result(pair)
    assert "30.5" in without and "28.25" in without and "no report page" in without and "iframe" not in without
    assert "&lt;other&gt;" in without and "<other>" not in without
    (job.folder / "a").mkdir()
    (job.folder / "a" / "report.html").write_text("<p>figures</p>")
    shown = show.result(pair)
    assert "no report page" not in shown and f'sandbox="allow-scripts" src="/jobs/{job.id}/report-a.html"' in shown
    report = client.get(f"/jobs/{job.id}/report-a.html")
    assert report.text == "<p>figures</p>" and "default-src 'none'" in report.headers["content-security-policy"]
    assert "report of mine" in show.result(replace(pair, facts={"methods": told, "folders": ["a", "b"]}))


def test_a_face_is_chosen_by_its_place(table, made_clip, words, model):
    job = speak(table, made_clip, words, model)
    table.stop(job.id)
    job = table.add("preview", "t", {**job.request, "face_at": [0.5, 0.4]}, {"audio": words, "reference": made_clip}, "preview.png")
    wait(lambda: not job.active)
    assert job.state == "done" and job.path("preview.png").exists(), job.error


def test_jobs_outlive_the_server_and_what_ran_can_be_gone_on_with(tmp_path, made_clip):
    table = Table(tmp_path, Worker())
    done = hear(table, made_clip)
    wait(lambda: not done.active)
    table.close()
    told = json.loads(done.path("job.json").read_text())
    done.path("job.json").write_text(json.dumps(told | {"state": "running"}))
    (tmp_path / "jobs" / "not a job").mkdir()
    again = Table(tmp_path, Worker())
    try:
        (job,) = again.all()
        assert (job.id, job.state, job.error) == (done.id, "stopped", STOPPED)
        again.again(job.id)
        wait(lambda: not job.active)
        assert job.state == "done"
        again.remove(job.id)
        assert not job.folder.exists() and not again.all()
    finally:
        again.close()


def test_too_many_jobs_and_uploads_that_are_gone_are_refused(table, folder, made_clip, tmp_path, monkeypatch):
    before = set((folder / "jobs").iterdir())
    with pytest.raises(InputError, match="drop the file again"):
        hear(table, tmp_path / "gone.wav")
    assert set((folder / "jobs").iterdir()) == before
    monkeypatch.setattr("difftalk_cli.ui.jobs.MOST_WAITING", 0)
    with pytest.raises(UsageError, match="wait already"):
        hear(table, made_clip)


# -- what the server gives away


@pytest.fixture(scope="module")
def client(table, folder, model):
    from starlette.testclient import TestClient

    from difftalk_cli.ui import serve

    eyes = Worker()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            patch.setenv(name, "")  # as they were, afterwards
        app = serve.build(serve.Settings(models=[model], max_mb=1, runtime=RUNTIME), table, eyes, folder / "uploads")
        with TestClient(app, base_url="http://127.0.0.1") as client:
            yield client
    eyes.kill()


def test_nothing_goes_through_gradios_queue(client):
    """It loses answers (see page.AT_ONCE); tests with a browser see that only when the moment is right."""
    told = client.get("/config").json()["dependencies"]
    assert len(told) > 10 and [d["id"] for d in told if d["queue"] is not False] == []


def test_only_a_jobs_own_files_are_given_away(client, table, folder, made_clip):
    job = hear(table, made_clip)
    wait(lambda: not job.active)
    (folder / "secret.txt").write_text("hush")
    job.path("result.json").write_text('{"a": 1}')
    assert client.get(f"/jobs/{job.id}/result.json").json() == {"a": 1}
    for place in (
        f"/jobs/{job.id}/job.json", f"/jobs/{job.id}/..%2Fjob.json", f"/jobs/{job.id}/inputs", "/jobs/..%2F../secret.txt",
        f"/jobs/{'0' * 12}/result.json", f"/gradio_api/file={folder}/secret.txt", f"/gradio_api/file={job.folder}/job.json",
        f"/gradio_api/file={Path(__file__)}", "/gradio_api/file=../../secret.txt",
    ):  # fmt: skip
        answer = client.get(place)
        assert answer.status_code in (403, 404) and "hush" not in answer.text, place


def test_files_of_the_machine_cannot_be_named_as_uploads(client, folder):
    from tests.made import SPEECH

    told = client.get("/config").json()
    listen = next(d["id"] for d in told["dependencies"] if d["api_name"] == "listen")

    def ask(path) -> str:
        data = [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]
        return client.post("/gradio_api/run/predict", json={"data": data, "fn_index": listen, "session_hash": "x"}).text

    (uploaded,) = client.post("/gradio_api/upload", files={"files": ("a.wav", SPEECH.read_bytes())}).json()
    assert "16000 Hz" in ask(uploaded)
    for path in (SPEECH, folder / "uploads" / ".." / "jobs", f"{folder}/uploads/../../x.wav"):
        assert "16000 Hz" not in ask(path) and "not uploaded by a user" in ask(path)


def test_handlers_refuse_files_that_are_no_uploads_by_themselves(table, made_clip, tmp_path):
    from difftalk_cli.ui.page import Page
    from difftalk_cli.ui.serve import Settings

    page, before = Page(Settings(), table, Worker(), tmp_path / "uploads"), table.all()
    assert "not a file that was uploaded" in page.listen(str(made_clip))
    told, _ = page.check(str(made_clip))
    assert "not a file that was uploaded" in told and table.all() == before
    with pytest.raises(UsageError):
        page.pass_on(str(made_clip))


def test_other_hosts_and_other_sites_are_refused_and_the_page_reaches_nobody(client):
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    file = {"files": ("a.wav", b"x")}
    assert client.post("/gradio_api/upload", files=file).status_code == 200
    assert client.post("/gradio_api/upload", files=file, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/gradio_api/upload", files={"files": ("b.wav", b"x" * 1_100_000)}).status_code == 413
    assert not client.get("/config").json().get("analytics_enabled")


@pytest.mark.parametrize("change", [{"port": 70000}, {"max_mb": 0}])
def test_settings_that_cannot_be_are_refused(change):
    from difftalk_cli.ui.serve import Settings

    with pytest.raises(UsageError):
        Settings(**change)


KILLED = """
import os, signal
from difftalk_cli.ui import serve
from difftalk_cli.ui.worker import Worker
with serve._workspace(None) as folder:
    (folder / "face.png").touch()
    worker = Worker()
    print(worker.start().pid, flush=True)
    worker.ask({"kind": "listen", "job": "a", "runtime": {}, "path": "none"}, 60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_server_takes_its_worker_along_and_what_it_left_is_removed_at_the_next_start(tmp_path, monkeypatch):
    from difftalk_cli.ui import serve

    told = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert told.returncode == -signal.SIGKILL, told.stderr
    wait(lambda: not serve.is_alive(int(told.stdout)), 60)
    (dead,) = tmp_path.glob(f"{serve.PREFIX}*")
    alive, other = (tmp_path / n for n in (f"{serve.PREFIX}{os.getpid()}-x", f"{serve.PREFIX}notes-x"))
    for folder in (alive, other):
        folder.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with serve._workspace(None) as mine:
        assert (dead / "face.png").exists() is False and not dead.exists() and alive.exists() and other.exists()
    assert not mine.exists()


# -- before the page opens


def test_a_page_that_could_make_nothing_does_not_open(tmp_path, model, monkeypatch):
    """A folder without a model, the first stage of one, no folder at all, and no model that ships: the command line's words and code."""
    from typer.testing import CliRunner

    from difftalk_cli.commands.ui import app
    from stages.dubbing import model as models

    def start(*options: str):
        told = CliRunner().invoke(app, options)
        assert told.exit_code == 3 and "page:" not in told.stderr, told.stderr
        return told.stderr

    monkeypatch.setattr("difftalk_cli.ui.serve.serve", lambda *_: pytest.fail("the page was opened"))
    (tmp_path / "empty").mkdir()
    assert "empty" in start("--model", str(tmp_path / "empty")) and "difftalk train" in start("--model", str(tmp_path / "empty"))
    assert "vae" in start("--model", str(model), "--model", str(model / "first-stage"))
    assert "gone" in start("--model", str(tmp_path / "gone"))
    monkeypatch.setattr(models, "BUNDLED", tmp_path / "not shipped")
    assert "--model" in start()


def test_the_page_opens_with_the_model_that_ships_or_one_of_the_users(model, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from difftalk_cli.commands.ui import app
    from stages.dubbing import model as models

    opened = []
    monkeypatch.setattr("difftalk_cli.ui.serve.serve", lambda settings, _: opened.append(settings.models))
    monkeypatch.setattr(models, "BUNDLED", model)
    assert CliRunner().invoke(app, []).exit_code == 0
    monkeypatch.setattr(models, "BUNDLED", tmp_path / "not shipped")
    assert CliRunner().invoke(app, ["--model", str(model)]).exit_code == 0
    assert opened == [[], [model]]


# -- pieces of the page


def test_form_fields_come_from_the_config_and_go_back_to_it():
    from difftalk_cli.ui.form import config_of, setting_components

    names = ("steps", "sampler", "watermark", "end", "lip_gain")
    fields = setting_components(infer.Config, names)
    assert list(fields) == [n for n in vars(infer.Config()) if n in names] and "paper" in fields["steps"].info
    assert config_of(infer.Config, {n: f.value for n, f in fields.items()}) == infer.Config()
    with pytest.raises(UsageError, match="seed: needs a number"):
        config_of(infer.Config, {"seed": None})
    with pytest.raises(UsageError, match="--steps 0"):
        config_of(infer.Config, {"steps": "0", "end": ""})
    assert config_of(infer.Config, {"steps": " 7 ", "strength": "0,5", "end": ""}) == infer.Config(steps=7, strength=0.5)
    with pytest.raises(UsageError, match="steps: 2.5 is no whole number; leave it empty for its default"):
        config_of(infer.Config, {"steps": "2.5"})


def test_names_and_messages_are_shown_as_text():
    job = Job("0" * 12, 1, "video", "<b>x</b>", Path("j"), {}, state="failed", error="<script>")
    assert "<script>" not in show.status(job) and "<b>x" not in show.status(job)
    assert clean_name("../../a b<c>.MP4") == "a b_c_.MP4" and clean_name("...") == "file" and len(clean_name("x" * 300 + ".mp4")) < 100


def test_an_upload_is_looked_at(made_clip, tmp_path):
    from difftalk_cli.ui.look import draw, finder, look_at_person, nearest
    from stages.media.feed import open_feed

    told = look_at_person(made_clip, 0, "lower-face", 0.06)
    (face,) = told["faces"]
    assert told["picture"].startswith("data:image/jpeg") and 0.2 < face["x"] < 0.8 and told["fps"] == 25
    frame = next(iter(open_feed(made_clip).once()))
    faces = finder().find(frame)
    plain, soft = (draw(frame, faces, 0, "lower-face", feather).astype(int) for feather in (0.0, 0.2))
    assert np.array_equal(plain[:20], frame[:20]) and (plain != frame).any(-1).sum() > 2000
    assert np.abs(plain - frame).sum() > np.abs(soft - frame).sum()  # a wide soft edge covers less
    assert nearest([{"x": 0.2, "y": 0.5}, {"x": 0.8, "y": 0.5}], 0.7, 0.4) == 1
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InputError, match="empty.mp4"):
        look_at_person(tmp_path / "empty.mp4", 0, "lower-face", 0.06)
