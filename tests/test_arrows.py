"""The import arrows: difftalk_cli -> stages.<stage> -> shared packages -> errors, shapes, runtime; and who may print."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STAGES = {"preprocess", "extract_audio", "train_vae", "train", "infer", "interpolate", "evaluate", "train_speech", "detect", "export"}
SHARED = {"artifacts", "media", "faces", "speech", "models", "diffusion", "training", "metrics", "weights", "dubbing"}
BASE = {"errors", "shapes", "runtime"}
KEPT_APART = {"models": {"artifacts", "media"}, "diffusion": {"artifacts", "media"}, "artifacts": SHARED - {"artifacts"}}
"""Shared package -> shared packages that it must not know: networks and formulas take arrays, not files."""


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, package
    return found


def imports(tree: ast.AST, name: str, is_package: bool) -> Iterator[str]:
    """Every module that is imported anywhere in the file, inside functions too, by full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = name.split(".")[: -node.level + is_package or None]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """stages.models.vae.build -> models; empty for anything else, and for stages.__version__."""
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 and pieces[0] == "stages" and pieces[1] in STAGES | SHARED | BASE else ""


def wrong_arrows(name: str, source: str, is_package: bool = False) -> list[str]:
    """What this module imports and must not."""
    wrong = []
    here = part(name)
    for target in imports(ast.parse(source), name, is_package):
        there, top = part(target), target.split(".")[0]
        if top == "tests" or (top == "difftalk_cli" and name.split(".")[0] == "stages"):
            wrong.append(f"{name} imports {target}")
        elif here in STAGES and there in STAGES - {here}:
            wrong.append(f"{name} imports {target}: a stage knows no other stage")
        elif here in SHARED and there in STAGES:
            wrong.append(f"{name} imports {target}: a shared package knows no stage")
        elif here in BASE and there and there not in BASE:
            wrong.append(f"{name} imports {target}: it is below everything else")
        elif there in KEPT_APART.get(here, ()):
            wrong.append(f"{name} imports {target}: {here} knows no {there}")
    return wrong


def noise(name: str, source: str) -> list[str]:
    """Calls that print or end the process. os._exit is left out: a worker orphaned by kill -9 has nobody to tell."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "exit", "quit", "sys.exit", "sys.stdout.write", "sys.stderr.write"):
                wrong.append(f"{name}:{node.lineno} calls {called}")
    return wrong


def unfinished(name: str, source: str) -> list[str]:
    """Words of unfinished work, and paths that only one machine has."""
    wrong = [f"{name}: {word}" for word in ("TODO", "FIXME", "NotImplementedError") if re.search(rf"\b{word}\b", source)]
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.search(r"(?<![\w.])/(work|root|tmp|home)/", node.value)
        ):
            wrong.append(f"{name}:{node.lineno}: a path of one machine: {node.value!r}")
    return wrong


@pytest.mark.parametrize("package", ["stages", "difftalk_cli"])
def test_imports_follow_the_arrows(package: str) -> None:
    wrong = [
        line
        for path in modules(package)
        for line in wrong_arrows(module_name(path), path.read_text(encoding="utf-8"), path.name == "__init__.py")
    ]
    assert not wrong, "\n".join(wrong)


def test_stages_never_print_and_never_exit() -> None:
    wrong = [line for path in modules("stages") for line in noise(module_name(path), path.read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["stages", "difftalk_cli"])
def test_nothing_is_left_unfinished_or_bound_to_one_machine(package: str) -> None:
    wrong = [line for path in modules(package) for line in unfinished(module_name(path), path.read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(wrong)


def test_every_part_of_the_library_has_its_place() -> None:
    found = {
        p.stem if p.is_file() else p.name
        for p in (ROOT / "stages").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert found - {"__init__"} == STAGES | SHARED | BASE


def test_only_ffmpeg_py_starts_ffmpeg() -> None:
    allowed = {"stages.media.ffmpeg", "stages.weights", "stages.speech.training.voices"}  # pip; speech synthesisers
    wrong = [
        module_name(path)
        for path in modules("stages")
        if any(
            t.split(".")[0] == "subprocess"
            for t in imports(ast.parse(path.read_text(encoding="utf-8")), module_name(path), False)
        )
    ]
    assert set(wrong) <= allowed, wrong


def test_importing_every_stage_needs_no_torch() -> None:
    script = f"""
import importlib, sys
for name in {sorted(STAGES)}:
    importlib.import_module("stages." + name).Config()
heavy = {{"torch", "diffusers", "onnxruntime", "matplotlib", "dlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "source", "is_package"),
    [
        ("stages.infer", "from stages.train import Config", False),
        ("stages.infer", "from stages import train", False),
        ("stages.infer", "def f():\n    import stages.train.helpers", False),
        ("stages.infer", "from . import preprocess", False),
        ("stages.faces", "from ..preprocess import run", True),
        ("stages.models.vae", "from stages.media.video import VideoReader", False),
        ("stages.diffusion.sample", "from ..artifacts import Store", False),
        ("stages.artifacts.store", "from stages.models import vae", False),
        ("stages.media.video", "from stages import evaluate", False),
        ("stages.errors", "from stages.artifacts import Store", False),
        ("stages.metrics", "import difftalk_cli.main", True),
        ("difftalk_cli.main", "from tests.made import make_clip", False),
    ],
)
def test_the_check_sees_a_wrong_arrow(name: str, source: str, is_package: bool) -> None:
    assert wrong_arrows(name, source, is_package)


def test_the_check_lets_right_arrows_pass_and_hears_noise() -> None:
    source = "import torch\nimport stages\nfrom stages.models import vae\nfrom stages.errors import UsageError\nfrom . import weights"
    assert not wrong_arrows("stages.infer", source)
    assert noise("stages.infer", "def f():\n    print('x')\n    raise SystemExit")
    assert not noise("stages.infer", "console.print('x')")


@pytest.mark.parametrize(
    "source", ["x = 1  # TODO later", "raise NotImplementedError", "CACHE = '/tmp/cache'", "a = f'/root/{b}'"]
)
def test_the_check_sees_unfinished_work_and_bound_paths(source: str) -> None:
    assert unfinished("stages.infer", source)
    assert not unfinished("stages.infer", "path = root / 'tmp/part'  # to do: nothing")
