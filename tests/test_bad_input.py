"""Every wrong input ends in one line that says what is wrong, where, and what to do next; never in a traceback.

A row of the table: name, command with {in} for the inputs' folder and {out} for an empty one, exit code, words of stderr.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.artifacts.lock import lock
from stages.faces import track
from stages.media.probe import probe
from tests.inputs import make_bad_inputs, make_odd_clips, make_plain_clip
from tests.made import SPEECH
from tests.small import make_model, make_training_data

Ran = tuple[int, str, str]
Difftalk = Callable[..., Ran]


@pytest.fixture(scope="module", autouse=True)
def one_finder() -> Iterator[None]:
    """The commands below look for faces with one finder: reading its 122 MB anew takes longer than they do."""
    kept = functools.cache(track.make_finder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(track, "make_finder", kept)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that the commands are given; its name is as awkward as a user's."""
    root = tmp_path_factory.mktemp("inputs") / "my 'clips' [bold]"
    root.mkdir()
    make_bad_inputs(root)
    make_odd_clips(root)
    make_plain_clip(root / "face.mp4")
    make_plain_clip(root / 'a [red]"quoted"[/] ü.mp4')
    shutil.copyfile(SPEECH, root / "speech.wav")
    make_training_data(root / "work", clips=2, frames=4)
    make_model(root / "model")
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, most of all on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def difftalk(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Difftalk:
    """Runs the program in this process: (exit code, stdout, stderr), those of child processes included."""
    from difftalk_cli.main import main

    def run(*args: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["difftalk", *args])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        code = ended.value.code
        assert isinstance(code, int)
        return code, *capfd.readouterr()

    return run


INFER = [
    "infer",
    "--audio",
    "{in}/speech.wav",
    "--ref",
    "{in}/face.mp4",
    "--model",
    "{in}/model",
    "--steps",
    "1",
    "-o",
    "{out}/out.mp4",
]


def infer(**changed: str) -> list[str]:
    """INFER with other values of its options."""
    args = list(INFER)
    for name, value in changed.items():
        option = "-o" if name == "out" else f"--{name}"
        if option not in args:
            args += [option, ""]
        args[args.index(option) + 1] = value
    return args


def preprocess(*sources: str, out: str = "{out}/work") -> list[str]:
    return ["preprocess", *(f"{{in}}/{s}" for s in sources), "--out", out]


ERRORS: list[tuple[str, list[str], int, list[str]]] = [
    # -- preprocess: nothing to read
    ("missing file", preprocess("nowhere.mp4"), 3, ["{in}/nowhere.mp4", "no such file"]),
    ("folder without videos", preprocess("no videos"), 3, ["{in}/no videos", "no videos there", ".mp4"]),
    # -- preprocess: one clip, and it cannot be used
    ("empty file", preprocess("empty.mp4"), 3, ["empty.mp4", "empty (0 bytes)"]),
    ("text as video", preprocess("text.mp4"), 3, ["text.mp4", "not a media file"]),
    ("truncated", preprocess("truncated.mp4"), 3, ["truncated.mp4", "ends before its index", "copied incompletely"]),
    ("no sound", preprocess("silent.mp4"), 3, ["silent.mp4", "no audio track", "--allow-silent"]),
    ("no picture", preprocess("sound only.mp4"), 3, ["sound only.mp4", "no video stream", "give a file with pictures"]),
    ("no face", preprocess("faceless.mp4"), 3, ["faceless.mp4", "no face found", "must be at least"]),
    ("three frames", preprocess("three frames.mp4"), 3, ["three frames.mp4", "3 frames", "--min-seconds"]),
    ("face that is not there", [*preprocess("face.mp4"), "--face", "7"], 3, ["--face 7", "only 1 face", "from 0"]),
    ("negative face", [*preprocess("face.mp4"), "--face", "-1"], 2, ["--face -1", "0 or more"]),
    # -- preprocess: options and output
    ("odd resolution", [*preprocess("face.mp4"), "--resolution", "100"], 2, ["--resolution 100", "multiple of 64"]),
    ("no workers", [*preprocess("face.mp4"), "--workers", "0"], 2, ["--workers 0", "at least 1"]),
    ("shard that is none", [*preprocess("face.mp4"), "--shard", "2"], 2, ["--shard 2", "0/8"]),
    ("shard too high", [*preprocess("face.mp4"), "--shard", "2/2"], 2, ["--shard 2/2", "0 <= I < N"]),
    ("merge and shard", [*preprocess("face.mp4"), "--shard", "0/2", "--merge"], 2, ["--merge makes nothing", "leave --shard away"]),
    ("merge before the shards", [*preprocess("face.mp4"), "--merge"], 3, ["1 of 1 are not made yet", "{out}/work", "leave --merge away"]),
    ("ray without a port", [*preprocess("face.mp4"), "--ray", "head"], 2, ["--ray head", "auto or HOST:PORT"]),
    ("shards of a training", ["train", "{in}/nowhere", "--shard", "0/2"], 2, ["--shard", "--latents-only"]),
    ("workers for one video", infer(workers="2"), 2, ["--workers", "give --batch TABLE"]),
    ("out below a file", preprocess("face.mp4", out="{in}/a file/work"), 3, ["{in}/a file/work", "is a file", "--out"]),
    ("out is a file", preprocess("face.mp4", out="{in}/a file"), 3, ["{in}/a file", "in the way", "--out"]),
    ("out is another artifact", preprocess("face.mp4", out="{in}/model"), 3, ["{in}/model", "denoiser artifact", "--out"]),
    # -- extract-audio, train-vae, train: what they build on is not there
    ("audio of no folder", ["extract-audio", "{in}/nowhere"], 3, ["{in}/nowhere", "difftalk preprocess"]),
    (
        "audio of no artifact",
        ["extract-audio", "{in}/no artifact"],
        3,
        ["{in}/no artifact", "artifact.json", "difftalk preprocess"],
    ),
    (
        "audio of a model",
        ["extract-audio", "{in}/model"],
        3,
        ["{in}/model", "is a denoiser artifact", "difftalk preprocess"],
    ),
    ("audio of a video", ["extract-audio", "{in}/face.mp4"], 3, ["{in}/face.mp4", "is a file", "difftalk preprocess"]),
    ("hidden features of mel", ["extract-audio", "{in}/work", "--encoder", "mel", "--features", "hidden"], 2, ["--encoder deepspeech"]),
    (
        "acoustic model that is none",
        ["extract-audio", "{in}/work", "--encoder", "deepspeech", "--model", "{in}/text.wav"],
        3,
        ["text.wav"],
    ),
    (
        "vae of an unfinished folder",
        ["train-vae", "{in}/no artifact"],
        3,
        ["{in}/no artifact", "has not ended", "difftalk preprocess"],
    ),
    (
        "vae at another size",
        ["train-vae", "{in}/work", "--resolution", "512"],
        2,
        ["--resolution 512", "64 px", "preprocess --resolution 512"],
    ),
    ("vae with no steps", ["train-vae", "{in}/work", "--steps", "-1"], 2, ["--steps -1", "at least 0"]),
    ("vae with an odd patch", ["train-vae", "{in}/work", "--patch", "50"], 2, ["--patch 50", "multiple of 32"]),
    (
        "train without features",
        ["train", "{in}/work", "--features", "{in}/work/none"],
        3,
        ["features artifact", "difftalk extract-audio"],
    ),
    ("train without a first stage", ["train", "{in}/work"], 3, ["vae artifact", "{in}/work/vae-64", "difftalk train-vae"]),
    ("train with no steps", ["train", "{in}/work", "--steps", "0"], 2, ["--steps 0", "at least 1"]),
    ("train with no batch", ["train", "{in}/work", "--batch", "0"], 2, ["--batch 0", "at least 1"]),
    # -- infer
    ("audio missing", infer(audio="{in}/nowhere.wav"), 3, ["{in}/nowhere.wav", "no such file"]),
    ("reference missing", infer(ref="{in}/nowhere.mp4"), 3, ["{in}/nowhere.mp4", "no such file"]),
    ("audio that is text", infer(audio="{in}/text.wav"), 3, ["{in}/text.wav", "not a media file"]),
    (
        "audio that is a silent video",
        infer(audio="{in}/silent.mp4"),
        3,
        ["{in}/silent.mp4", "no audio track", "give a file with sound"],
    ),
    ("audio of 5 ms", infer(audio="{in}/blip.wav"), 3, ["{in}/blip.wav", "5 ms", "less than one frame", "longer recording"]),
    ("audio without samples", infer(audio="{in}/no samples.wav"), 3, ["{in}/no samples.wav", "track is empty"]),
    ("reference empty", infer(ref="{in}/empty.mp4"), 3, ["{in}/empty.mp4", "empty (0 bytes)"]),
    ("reference truncated", infer(ref="{in}/truncated.mp4"), 3, ["{in}/truncated.mp4", "ends before its index"]),
    ("reference that is sound", infer(ref="{in}/speech.wav"), 3, ["{in}/speech.wav", "no video stream"]),
    (
        "reference without a face",
        infer(ref="{in}/faceless.mp4"),
        3,
        ["{in}/faceless.mp4", "no face found", "must be at least"],
    ),
    ("photo that is broken", infer(ref="{in}/broken.jpg"), 3, ["{in}/broken.jpg", "not a picture"]),
    ("reference is a folder", infer(ref="{in}/no videos"), 3, ["{in}/no videos", "a folder", "give one video, photo"]),
    ("infer a face that is not there", infer(face="7"), 3, ["face.mp4", "--face 7", "only 1 face"]),
    ("infer with no steps", infer(steps="0"), 2, ["--steps 0", "at least 1"]),
    ("device that is none", infer(device="toaster"), 2, ["--device toaster", "auto, cpu, cuda"]),
    ("device that is not there", infer(device="cuda:63"), 2, ["--device cuda:63", "--device auto or cpu"]),
    ("device of no kind that works", infer(device="meta"), 2, ["--device meta", "auto, cpu, cuda"]),
    ("quality out of range", infer(crf="60"), 2, ["--crf 60", "between 0 and 51"]),
    ("model missing", infer(model="{in}/nowhere"), 3, ["{in}/nowhere", "denoiser artifact", "difftalk train"]),
    ("model that is something else", infer(model="{in}/work"), 3, ["{in}/work", "is a clips artifact", "difftalk train"]),
    ("infer a negative face", infer(face="-1"), 2, ["--face -1", "at least 0"]),
    ("infer into a folder's name", infer(out="{in}/folder.mp4"), 3, ["{in}/folder.mp4", "a folder of this name", "-o"]),
    ("unknown suffix", infer(out="{out}/out.docx"), 2, ["{out}/out.docx", "cannot write .docx", ".mp4"]),
    ("infer below a file", infer(out="{in}/a file/out.mp4"), 3, ["{in}/a file/out.mp4", "is a file", "-o"]),
    ("infer onto its reference", infer(out="{in}/face.mp4"), 2, ["{in}/face.mp4", "overwrite an input", "-o"]),
    # -- interpolate
    (
        "interpolate nothing",
        ["interpolate", "{in}/nowhere.mp4", "-o", "{out}/o.mp4"],
        3,
        ["{in}/nowhere.mp4", "no such file"],
    ),
    (
        "interpolate a photo",
        ["interpolate", "{in}/broken.jpg", "-o", "{out}/o.mp4"],
        3,
        ["{in}/broken.jpg", "a photo", "give a video"],
    ),
    (
        "interpolate sound",
        ["interpolate", "{in}/speech.wav", "-o", "{out}/o.mp4"],
        3,
        ["{in}/speech.wav", "no video stream"],
    ),
    ("interpolate onto itself", ["interpolate", "{in}/face.mp4", "-o", "{in}/face.mp4"], 2, ["overwrite its input", "-o"]),
    (
        "interpolate to a strange suffix",
        ["interpolate", "{in}/face.mp4", "-o", "{out}/o.gif"],
        2,
        ["cannot write .gif", ".mp4"],
    ),
    (
        "interpolate downwards",
        ["interpolate", "{in}/face.mp4", "-o", "{out}/o.mp4", "--fps", "10"],
        2,
        ["--fps 10", "25 frames"],
    ),
    (
        "interpolate no artifact",
        ["interpolate", "{in}/no artifact", "-o", "{out}/o"],
        3,
        ["{in}/no artifact", "difftalk infer --audio"],
    ),
    # -- evaluate
    ("evaluate nothing", ["evaluate", "{in}/nowhere", "{in}/face.mp4"], 3, ["{in}/nowhere", "no such file"]),
    ("evaluate empty folders", ["evaluate", "{in}/no videos", "{in}/turned"], 3, ["{in}/no videos", "no videos there"]),
    (
        "evaluate a file against a folder",
        ["evaluate", "{in}/face.mp4", "{in}/turned"],
        2,
        ["{in}/turned", "two videos, or two folders"],
    ),
    (
        "evaluate without a pair",
        ["evaluate", "{in}/more videos", "{in}/turned", "--out", "{out}/scores"],
        3,
        ["other name: no ground truth", "rotated: no generated video", "failures.jsonl in {out}/scores"],
    ),
    (
        "unknown metric",
        ["evaluate", "{in}/face.mp4", "{in}/face.mp4", "--metrics", "beauty"],
        2,
        ["--metrics beauty", "psnr"],
    ),
    ("unknown row", ["evaluate", "{in}/face.mp4", "{in}/face.mp4", "--rows", "best"], 2, ["--rows best", "copy_baseline"]),
    ("method without a folder", ["evaluate", "{in}/face.mp4", "{in}/face.mp4", "--method", "mine"], 2, ["--method mine", "NAME=FOLDER"]),
    (
        "method of a row's name",
        ["evaluate", "{in}/face.mp4", "{in}/face.mp4", "--method", "silence={in}/face.mp4", "--rows", ""],
        2,
        ["--method silence", "another name"],
    ),
    (
        "no SyncNet at the path",
        ["evaluate", "{in}/face.mp4", "{in}/face.mp4", "--rows", "", "--syncnet", "{in}/nowhere", "--out", "{out}/o"],
        3,
        ["{in}/nowhere", "syncnet_v2.model"],
    ),
]


@pytest.mark.parametrize(("args", "code", "words"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_wrong_input_is_told(
    args: list[str], code: int, words: list[str], inputs: Path, tmp_path: Path, difftalk: Difftalk
) -> None:
    def real(text: str) -> str:
        return text.replace("{in}", str(inputs)).replace("{out}", str(tmp_path))

    before = {p: p.stat().st_mtime_ns for p in inputs.iterdir() if p.is_file()}
    found, out, err = difftalk(*map(real, args))
    assert found == code, err
    for word in words:
        assert real(word) in err
    assert "Traceback" not in err and "bug:" not in err
    if "failures.jsonl" not in err:
        assert out == ""
        assert err.splitlines()[-1].startswith("error: ") and err.count("error: ") == 1
    assert {p: p.stat().st_mtime_ns for p in inputs.iterdir() if p.is_file()} == before, "an input was touched"
    assert not list(tmp_path.glob("*.mp4")), "a failed run left a video"


def test_a_place_that_cannot_be_written_is_told_before_any_work(
    inputs: Path, tmp_path: Path, difftalk: Difftalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by os.access, as root may write anywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode, **_: Path(path) != tmp_path)
    code, out, err = difftalk(*(a.replace("{in}", str(inputs)).replace("{out}", str(tmp_path)) for a in INFER))
    assert (code, out) == (3, "")
    assert err == f"error: cannot write {tmp_path / 'out.mp4'}: permission denied; choose another output with -o or --out\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
@pytest.mark.parametrize("command", ["preprocess", "infer"])
def test_a_read_only_folder_is_told(command: str, inputs: Path, tmp_path: Path, difftalk: Difftalk) -> None:
    tmp_path.chmod(0o555)
    args = preprocess("face.mp4") if command == "preprocess" else INFER
    code, out, err = difftalk(*(a.replace("{in}", str(inputs)).replace("{out}", str(tmp_path)) for a in args))
    tmp_path.chmod(0o755)
    assert (code, out) == (3, "")
    assert f"cannot write {tmp_path}" in err and "permission denied" in err


def test_two_runs_at_once_on_one_folder(inputs: Path, tmp_path: Path, difftalk: Difftalk) -> None:
    work = shutil.copytree(inputs / "work", tmp_path / "work")
    commands = {
        work: ["preprocess", str(inputs / "face.mp4"), "--out", str(work)],
        work / "features": ["extract-audio", str(work), "--force"],
        work / "vae-64": ["train-vae", str(work)],
    }
    for folder, args in commands.items():
        with lock(folder):
            code, out, err = difftalk(*args)
        assert (code, out) == (3, ""), err
        assert f"error: {folder} is being written by process {os.getpid()}" in err and "wait for it to end" in err


def test_paths_with_spaces_quotes_and_markup_work(inputs: Path, tmp_path: Path, difftalk: Difftalk) -> None:
    source = inputs / 'a [red]"quoted"[/] ü.mp4'
    work = tmp_path / "the [i]work[/] 'folder'"
    code, out, err = difftalk("preprocess", str(source), "--out", str(work))
    assert (code, out) == (0, f"{work}\n"), err
    code, out, err = difftalk("extract-audio", str(work))
    assert (code, out) == (0, f"{work / 'features'}\n"), err
    code, out, err = difftalk(
        "evaluate", str(source), str(source), "--metrics", "psnr", "--rows", "", "--out", str(tmp_path / "[b]scores")
    )
    assert (code, out) == (0, f"{tmp_path / '[b]scores'}\n"), err


def test_odd_sizes_rates_and_rotations_work_beside_clips_that_do_not(
    inputs: Path, tmp_path: Path, difftalk: Difftalk
) -> None:
    names = ["odd.mp4", "ntsc.mp4", "turned/rotated.mp4", "empty.mp4"]
    code, out, err = difftalk("preprocess", *(str(inputs / n) for n in names), "--out", str(tmp_path / "work"), "--json")
    assert code == 4, err
    report = json.loads(out)
    assert report["done"] == 3 and len(report["failed"]) == 1
    assert [line for line in err.splitlines() if "warning" in line] == [
        f"warning: {inputs / 'empty.mp4'}: the file is empty (0 bytes)"
    ]
    facts = {
        p.parent.name.split("-")[0]: json.loads(p.read_text(encoding="utf-8"))["facts"]
        for p in tmp_path.glob("work/clips/*/clip.json")
    }
    assert facts["odd"]["size"] == [253, 251]
    assert facts["ntsc"]["fps"] == "30000/1001"
    assert {name: (f["frames"], f["frames_total"]) for name, f in facts.items()} == dict.fromkeys(facts, (15, 15))


@pytest.mark.parametrize(
    ("ref", "audio", "size", "frames"),
    [
        ("odd.mp4", "silence.wav", [253, 251], 12),
        ("turned/rotated.mp4", "silence.wav", [256, 256], 12),
        ("ntsc.mp4", "sound only.mp4", [256, 256], 15),
        ("three frames.mp4", "silence.wav", [256, 256], 12),
    ],
)
def test_infer_takes_any_face_and_any_sound(
    ref: str, audio: str, size: list[int], frames: int, inputs: Path, tmp_path: Path, difftalk: Difftalk, one_thread: None
) -> None:
    args = infer(ref=str(inputs / ref), audio=str(inputs / audio))
    code, out, err = difftalk(*(a.replace("{in}", str(inputs)).replace("{out}", str(tmp_path)) for a in args))
    assert (code, out) == (0, f"{tmp_path / 'out.mp4'}\n"), err
    facts = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (facts["size"], facts["frames"], facts["coverage"]) == (size, frames, 1.0)
    made = probe(tmp_path / "out.mp4")
    assert made.video and made.audio and [made.video.width, made.video.height] == size
