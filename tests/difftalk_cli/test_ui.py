"""difftalk ui without a browser: the queue and its worker, what the server gives away, pieces of the page."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from stages import infer
from stages.errors import InputError, UsageError
from tests.small import make_model

pytest.importorskip("gradio", reason="the page's extra is not installed")

from difftalk_cli.ui import show  # noqa: E402
from difftalk_cli.ui.jobs import STOPPED, Job, Table, clean_name  # noqa: E402
from difftalk_cli.ui.worker import Worker  # noqa: E402

RUNTIME = {"device": "cpu", "threads": 1, "offline": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("ui") / "model", still=True)


@pytest.fixture
def table(tmp_path):
    table = Table(tmp_path, Worker())
    yield table
    table.close()


def wait(check, seconds=120.0):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)


def hear(table: Table, path: Path) -> Job:
    return table.add("listen", path.name, {"runtime": RUNTIME}, {"path": path})  # type: ignore[arg-type]


def speak(table: Table, clip: Path, model: Path, **settings) -> Job:
    config = {k: v for k, v in vars(infer.Config(**{"steps": 1, "max_turn": 1.0, **settings})).items()}
    request = {"settings": config, "model": str(model), "face_at": None, "runtime": RUNTIME}
    return table.add("video", "words × person", request, {"audio": clip, "reference": clip}, "result.mp4")


def test_jobs_are_worked_off_one_by_one_and_one_that_fails_holds_up_nobody(table, made_clip, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    first, bad, last = hear(table, made_clip), hear(table, tmp_path / "bad.wav"), hear(table, made_clip)
    wait(lambda: not last.active)
    assert [j.state for j in (first, bad, last)] == ["done", "failed", "done"]
    assert first.facts["codec"] == "aac" and [j.number for j in table.all()] == [1, 2, 3]
    with pytest.raises(InputError) as told:
        infer.open_sound(tmp_path / "bad.wav")
    assert bad.error == str(told.value).replace(f"{tmp_path}/", "")  # the command line's words, the user's file name


def test_a_video_is_infers_own_and_its_source_is_in_step(table, made_clip, model, tmp_path):
    from stages.media.video import VideoReader
    from stages.runtime import Runtime

    job = speak(table, made_clip, model, seed=3)
    wait(lambda: not job.active)
    assert job.state == "done", job.error
    infer.run(
        infer.Config(steps=1, max_turn=1.0, seed=3), infer.Inputs(made_clip, made_clip, model), tmp_path / "own.mp4",
        Runtime(device="cpu", threads=1),
    )  # fmt: skip
    made, own, source, true = (
        np.stack(list(VideoReader(p))).astype(int)
        for p in (job.path("result.mp4"), tmp_path / "own.mp4", job.path("source.mp4"), made_clip)
    )
    assert np.array_equal(made, own) and job.facts["settings"]["seed"] == 3
    assert source.shape == made.shape and np.abs(source - true).mean() < 3
    assert job.bar == {} and "coverage" in show.result(job)


def test_stopping_ends_the_work_and_going_on_finishes_it(table, made_clip, model):
    job, waiting = speak(table, made_clip, model, steps=300), hear(table, made_clip)
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


def test_a_worker_that_is_killed_fails_its_job_and_the_next_gets_a_new_one(table, made_clip, model):
    job, after = speak(table, made_clip, model, steps=300), hear(table, made_clip)
    wait(lambda: job.bar.get("title") == "infer")
    os.kill(table.worker.start().pid, signal.SIGKILL)
    wait(lambda: not after.active)
    assert job.state == "failed" and "memory" in job.error and after.state == "done"


def test_a_comparison_is_evaluates_own_or_says_what_it_lacks(table, made_clip):
    from stages import weights

    request = {"names": ["mine", "other"], "runtime": RUNTIME}
    job = table.add("scores", "mine and other", request, {"a": made_clip, "b": made_clip, "truth": made_clip})
    wait(lambda: not job.active)
    if any(row.file.name.startswith("lpips-alex") and row.where is None for row in weights.status()):
        assert job.state == "failed" and "weights" in job.error
        return
    assert job.state == "done", job.error
    assert job.facts["a"] == json.loads(job.path("a/scores.json").read_text())
    shown = show.result(job)
    assert "mine" in shown and "other" in shown and "scores-b.json" in shown


def test_a_face_is_chosen_by_its_place(table, made_clip, model):
    job = speak(table, made_clip, model)
    table.stop(job.id)
    job = table.add(
        "preview", "t", {**job.request, "face_at": [0.5, 0.4]}, {"audio": made_clip, "reference": made_clip}, "preview.png"
    )
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


def test_too_many_jobs_and_uploads_that_are_gone_are_refused(table, made_clip, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="drop the file again"):
        hear(table, tmp_path / "gone.wav")
    assert not list((tmp_path / "jobs").iterdir())
    monkeypatch.setattr("difftalk_cli.ui.jobs.MOST_WAITING", 0)
    with pytest.raises(UsageError, match="wait already"):
        hear(table, made_clip)


# -- what the server gives away


@pytest.fixture
def client(table, model, tmp_path, monkeypatch):
    from starlette.testclient import TestClient

    from difftalk_cli.ui import serve

    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "")  # as they were, afterwards
    eyes = Worker()
    app = serve.build(serve.Settings(models=[model], max_mb=1, runtime=RUNTIME), table, eyes, tmp_path / "uploads")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client
    eyes.kill()


def test_only_a_jobs_own_files_are_given_away(client, table, made_clip, tmp_path):
    job = hear(table, made_clip)
    wait(lambda: not job.active)
    (tmp_path / "secret.txt").write_text("hush")
    job.path("result.json").write_text('{"a": 1}')
    assert client.get(f"/jobs/{job.id}/result.json").json() == {"a": 1}
    for place in (
        f"/jobs/{job.id}/job.json", f"/jobs/{job.id}/..%2Fjob.json", f"/jobs/{job.id}/inputs", "/jobs/..%2F../secret.txt",
        f"/jobs/{'0' * 12}/result.json", f"/gradio_api/file={tmp_path}/secret.txt", f"/gradio_api/file={job.folder}/job.json",
        f"/gradio_api/file={Path(__file__)}", "/gradio_api/file=../../secret.txt",
    ):  # fmt: skip
        answer = client.get(place)
        assert answer.status_code in (403, 404) and "hush" not in answer.text, place


def test_files_of_the_machine_cannot_be_named_as_uploads(client, tmp_path):
    from tests.made import SPEECH

    told = client.get("/config").json()
    listen = next(d["id"] for d in told["dependencies"] if d["api_name"] == "listen")

    def ask(path) -> str:
        data = [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]
        return client.post("/gradio_api/run/predict", json={"data": data, "fn_index": listen, "session_hash": "x"}).text

    (uploaded,) = client.post("/gradio_api/upload", files={"files": ("a.wav", SPEECH.read_bytes())}).json()
    assert "16000 Hz" in ask(uploaded)
    for path in (SPEECH, tmp_path / "uploads" / ".." / "jobs", f"{tmp_path}/uploads/../../x.wav"):
        assert "16000 Hz" not in ask(path) and "not uploaded by a user" in ask(path)


def test_handlers_refuse_files_that_are_no_uploads_by_themselves(table, made_clip, tmp_path):
    from difftalk_cli.ui.page import Page
    from difftalk_cli.ui.serve import Settings

    page = Page(Settings(), table, Worker(), tmp_path / "uploads")
    assert "not a file that was uploaded" in page.listen(str(made_clip))
    told, _ = page.check(str(made_clip))
    assert "not a file that was uploaded" in told and not table.all()
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


def test_what_a_killed_server_left_is_removed(tmp_path, monkeypatch):
    from difftalk_cli.ui import serve

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    dead, alive, other = (tmp_path / n for n in (f"{serve.PREFIX}999999999-x", f"{serve.PREFIX}{os.getpid()}-x", f"{serve.PREFIX}notes-x"))
    for folder in (dead, alive, other):
        folder.mkdir()
    serve._sweep()
    assert not dead.exists() and alive.exists() and other.exists()


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
        config_of(infer.Config, {"steps": 0, "end": None})


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
