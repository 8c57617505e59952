from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto import types_pb2
from tensorboard.compat.proto.graph_pb2 import GraphDef

from stages.errors import InputError, WeightsError
from stages.runtime import Reporter, Runtime
from stages.speech import frozen_graph as module
from stages.speech.encoder import open_encoder
from stages.speech.frozen_graph import import_graph, read_frozen_graph
from stages.speech.graph import AcousticGraph
from stages.speech.mfcc import mfcc_rows, network_input, whitening
from tests.speech import frozen
from tests.speech.sounds import speech_like

CPU = Runtime(device="cpu")


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTALK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.mark.parametrize("scope, old_names", [("", False), ("", True), ("import/", False)])
@pytest.mark.parametrize("output", ["logits", "hidden"])
def test_the_imported_graph_computes_what_the_frozen_one_says(tmp_path, output, scope, old_names):
    variables = frozen.arrays()
    path = import_graph(frozen.write_graph(tmp_path / "output_graph.pb", variables, scope=scope, old_names=old_names), Notes())
    x = np.random.default_rng(1).normal(size=(83, 494)).astype(np.float32)
    hidden, logits = frozen.forward(variables, x)
    found = AcousticGraph(path, CPU, threads=1, output=output)(x)
    wanted = {"hidden": hidden, "logits": logits}[output]
    assert found.shape == wanted.shape and np.abs(wanted).max() > 0.5
    assert np.abs(found - wanted).max() < 1e-5
    assert np.abs(frozen.forward(frozen.arrays(seed=1), x)[1] - logits).max() > 0.1, "the comparison must be able to fail"


def test_the_encoder_takes_the_frozen_graph_as_it_is_and_names_it_by_its_own_content(tmp_path):
    from stages.artifacts import file_digest

    path = frozen.write_graph(tmp_path / "output graph's.pb", frozen.arrays())
    encoder = open_encoder("deepspeech", path, CPU, threads=1)
    x = speech_like(1.5, noise=0.01)
    rows = mfcc_rows(x)
    wanted = frozen.forward(frozen.arrays(), network_input(rows, whitening(rows)))[1]
    assert np.abs(encoder.encode(x) - wanted[:75]).max() < 1e-4
    assert [w.sha256 for w in encoder.weights] == [file_digest(path)]


def test_a_graph_is_imported_once_and_again_when_the_copy_is_damaged(tmp_path, cache):
    path, notes = frozen.write_graph(tmp_path / "output_graph.pb", frozen.arrays()), Notes()
    first = import_graph(path, notes)
    before = first.read_bytes()
    assert first.parent == cache and len(notes.lines) == 1 and "LSTM of 16" in notes.lines[0]
    assert import_graph(path, notes) == first and len(notes.lines) == 1
    first.write_bytes(before[:1000])
    assert import_graph(path, notes) == first and len(notes.lines) == 2 and first.read_bytes() == before
    other = import_graph(frozen.write_graph(tmp_path / "other.pb", frozen.arrays(seed=5)), notes)
    assert other != first


@pytest.mark.parametrize("node", ["previous_state_c", "lstm_fused_cell/kernel", "cudnn_lstm/opaque_kernel", "input_samples"])
def test_another_version_is_refused_by_what_it_has(tmp_path, node):
    path = frozen.write_graph(tmp_path / "output_graph.pb", frozen.arrays(), extra=(node,))
    with pytest.raises(InputError, match=r"output_graph.pb: this graph has .*DeepSpeech 0\.\d.*0\.1\.0's output_graph.pb works"):
        read_frozen_graph(path)


@pytest.mark.parametrize("name", ["h1", "b5", f"{frozen.BW}/kernel"])
def test_a_graph_without_one_of_the_constants_names_it(tmp_path, name):
    variables = {k: v for k, v in frozen.arrays().items() if k != name}
    with pytest.raises(InputError, match=f"no constant '{name}'"):
        read_frozen_graph(frozen.write_graph(tmp_path / "g.pb", variables))


@pytest.mark.parametrize("case", ["letters", "inputs", "cell", "rank"])
def test_layers_that_do_not_fit_are_listed(tmp_path, case):
    variables = frozen.arrays(letters=33 if case == "letters" else 29, inputs=300 if case == "inputs" else 494)
    if case == "cell":
        variables[f"{frozen.BW}/kernel"] = variables[f"{frozen.BW}/kernel"][:-1]
    if case == "rank":
        variables["h2"] = variables["h2"].reshape(-1)
    with pytest.raises(InputError, match="do not fit DeepSpeech 0.1.0"):
        read_frozen_graph(frozen.write_graph(tmp_path / "g.pb", variables))


@pytest.mark.parametrize("case", ["cut", "html", "zip", "empty graph"])
def test_a_file_that_is_no_graph_is_told(tmp_path, case):
    path = frozen.write_graph(tmp_path / "g.pb", frozen.arrays())
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "html": b"<!DOCTYPE html><html>404</html>",
            "zip": b"PK\x03\x04" + bytes(500),
            "empty graph": b"\x22\x00",
        }[case]
    )
    with pytest.raises(InputError, match="g.pb"):
        read_frozen_graph(path)


@pytest.mark.parametrize("name", ["output_graph.pbmm", "model.tflite", "deepspeech-0.1.0-models.tar.gz"])
def test_other_releases_files_are_told_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(InputError, match="output_graph.pb"):
        open_encoder("deepspeech", tmp_path / name, CPU)


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DIFFTALK_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="DIFFTALK_CACHE=FOLDER"):
        import_graph(frozen.write_graph(tmp_path / "g.pb", frozen.arrays()), Notes())


# -- how TensorFlow may keep a constant


def changed(path: Path, change: Callable[[GraphDef], None]) -> Path:
    """The graph in `path`, changed in place."""
    graph = GraphDef.FromString(path.read_bytes())
    change(graph)
    path.write_bytes(graph.SerializeToString())
    return path


def constant(graph: GraphDef, name: str):
    """The tensor of the constant `name`, which is added when it is not there."""
    found = [n for n in graph.node if n.name == name] or [graph.node.add(name=name, op="Const")]
    return found[0].attr["value"].tensor


@pytest.mark.parametrize("form", ["float_val", "one float_val for all", "half_val", "half content"])
def test_constants_are_read_in_every_form_that_tensorflow_writes(tmp_path, form):
    wanted = frozen.arrays()["b1"].astype(np.float16).astype(np.float32)
    if form == "one float_val for all":
        wanted = np.full_like(wanted, 0.25)

    def change(graph: GraphDef) -> None:
        tensor = constant(graph, "b1")
        tensor.tensor_content = wanted.astype("<f2").tobytes() if form == "half content" else b""
        tensor.dtype = types_pb2.DT_HALF if "half" in form else types_pb2.DT_FLOAT
        if form == "half_val":
            tensor.half_val.extend(wanted.astype("<f2").view("<u2").tolist())
        if "float_val" in form:
            tensor.float_val.extend(wanted[:1].tolist() if "one" in form else wanted.tolist())

    network = read_frozen_graph(changed(frozen.write_graph(tmp_path / "g.pb", frozen.arrays()), change))
    found = network.dense[0][1]
    assert found.dtype == np.float32 and np.array_equal(found, wanted)


@pytest.mark.parametrize("what", ["short", "string", "no type"])
def test_a_constant_that_holds_something_else_is_told_by_name(tmp_path, what):
    def change(graph: GraphDef) -> None:
        tensor = constant(graph, "b1")
        tensor.tensor_content = tensor.tensor_content[:-3] if what == "short" else b""
        if what == "string":
            tensor.dtype = types_pb2.DT_STRING
            tensor.string_val.append(b"abc")
        if what == "no type":
            tensor.dtype = 0

    path = changed(frozen.write_graph(tmp_path / "g.pb", frozen.arrays()), change)
    with pytest.raises(InputError, match="constant 'b1' cannot be read"):
        read_frozen_graph(path)


def test_a_constant_of_another_scope_is_never_taken_for_the_networks_own(tmp_path):
    def shadow(graph: GraphDef) -> None:
        wrong = constant(graph, "elsewhere/b1")
        wrong.CopyFrom(constant(graph, "b1"))
        wrong.tensor_content = bytes(len(wrong.tensor_content))
        nodes = list(graph.node)[::-1]  # the wrong one first
        del graph.node[:]
        graph.node.extend(nodes)

    network = read_frozen_graph(changed(frozen.write_graph(tmp_path / "g.pb", frozen.arrays()), shadow))
    assert np.array_equal(network.dense[0][1], frozen.arrays()["b1"])
    scoped = changed(frozen.write_graph(tmp_path / "s.pb", frozen.arrays(), scope="import/"), lambda g: constant(g, "other/b1"))
    with pytest.raises(InputError, match="which 'b1' is meant.*import/b1, other/b1"):
        read_frozen_graph(scoped)


@pytest.mark.parametrize("scope", ["", "import/"])
def test_relus_that_are_clipped_elsewhere_are_refused(tmp_path, scope):
    def clip_at(value: float) -> Callable[[GraphDef], None]:
        def change(graph: GraphDef) -> None:
            for name in ("Minimum/y", "Minimum_3/y"):
                constant(graph, scope + name).dtype = types_pb2.DT_FLOAT
                constant(graph, scope + name).float_val[:] = [value]
            inner = constant(graph, f"{scope}bidirectional_rnn/fw/fw/Minimum/y")  # a part of the loop, and no ReLU
            inner.dtype = types_pb2.DT_INT32
            inner.int_val[:] = [1]

        return change

    path = frozen.write_graph(tmp_path / "g.pb", frozen.arrays(), scope=scope)
    read_frozen_graph(changed(path, clip_at(20)))
    with pytest.raises(InputError, match="'.*Minimum/y', the clip of a ReLU, is 6.0; DeepSpeech 0.1.0's is 20"):
        read_frozen_graph(changed(path, clip_at(6)))


@pytest.mark.parametrize("name", ["input_node", "logits"])
def test_a_graph_that_begins_or_ends_elsewhere_is_refused(tmp_path, name):
    def rename(graph: GraphDef) -> None:
        next(n for n in graph.node if n.name == name).name = "something"

    with pytest.raises(InputError, match=f"no node '{name}'"):
        read_frozen_graph(changed(frozen.write_graph(tmp_path / "g.pb", frozen.arrays()), rename))


# -- the cache


def test_a_copy_damaged_without_a_change_of_size_is_made_again(tmp_path):
    path, notes = frozen.write_graph(tmp_path / "g.pb", frozen.arrays()), Notes()
    target = import_graph(path, notes)
    whole = target.read_bytes()
    target.write_bytes(whole[:5000] + bytes(1000) + whole[6000:])
    assert import_graph(path, notes) == target and target.read_bytes() == whole and len(notes.lines) == 2


def test_imports_at_the_same_time_do_not_disturb_each_other(tmp_path, cache):
    path = frozen.write_graph(tmp_path / "g.pb", frozen.arrays())
    code = (
        "import sys; from pathlib import Path; from stages.runtime import Reporter; from stages.speech.frozen_graph import import_graph\n"
        "import_graph(Path(sys.argv[1]), Reporter())"
    )
    root = Path(__file__).parents[2]
    runs = [subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    notes = Notes()
    AcousticGraph(import_graph(path, notes), CPU, threads=1)
    assert notes.lines == [] and not list(cache.glob("*.part*"))


def test_the_log_tells_a_published_file_from_one_of_that_form(tmp_path, monkeypatch):
    path, notes = frozen.write_graph(tmp_path / "g.pb", frozen.arrays()), Notes()
    target = import_graph(path, notes)
    assert "not a file known by its sum" in notes.lines[0]
    monkeypatch.setattr(module, "KNOWN", {hashlib.sha1(path.read_bytes()).hexdigest(): "the release's own"})
    target.unlink()
    import_graph(path, notes)
    assert "known by its sha1 as the release's own" in notes.lines[1]
