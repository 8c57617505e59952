from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the acoustic graphs of these tests are made with onnx (pip install difftalk[test])")

from onnx import TensorProto, helper

from stages.errors import InputError, UsageError
from stages.runtime import Runtime
from stages.speech import graph as module
from stages.speech.encoder import ENCODERS, open_encoder
from stages.speech.graph import AcousticGraph, choose_providers, in_pieces, weight_files
from stages.speech.mel import log_mel
from stages.speech.mfcc import mfcc_rows, network_input, whitening
from tests.speech import graphs
from tests.speech.sounds import speech_like

CPU = Runtime(device="cpu")


def value(name: str, shape: tuple, kind: int = TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, list(shape))


@pytest.mark.parametrize("seconds, rows", [(1.0, 50), (0.05, 2), (1.009, 50), (1.011, 51), (3.333, 167)])
@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_encoder_gives_fifty_rows_a_second(name, seconds, rows, tmp_path):
    model = graphs.linear_graph(tmp_path / "a.onnx") if name == "deepspeech" else None
    encoder = open_encoder(name, model, CPU)
    x = encoder.encode(speech_like(seconds, noise=0.01))
    assert x.shape == (rows, encoder.features) and x.dtype == np.float32 and encoder.rows_hz == 50


def test_mel_encoder_is_log_mel_and_needs_no_weights():
    encoder = open_encoder("mel", None, CPU)
    x = speech_like(1.0)
    assert encoder.weights == () and np.array_equal(encoder.encode(x), log_mel(x))


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("layout", list(graphs.LAYOUTS))
def test_deepspeech_runs_the_graph_on_the_whitened_mfcc(layout, lengths, tmp_path):
    encoder = open_encoder("deepspeech", graphs.linear_graph(tmp_path / "a.onnx", layout, lengths=lengths), CPU)
    x = speech_like(1.0, noise=0.01)
    rows = mfcc_rows(x)
    expected = network_input(rows, whitening(rows)) @ graphs.weights()
    assert encoder.features == 29 and encoder.place == "CPUExecutionProvider"
    np.testing.assert_allclose(encoder.encode(x), expected, atol=1e-4)


def test_weights_tell_the_files_content(tmp_path):
    a, b, again = (graphs.linear_graph(tmp_path / f"{i}.onnx", seed=s) for i, s in enumerate((0, 1, 0)))
    [one], [two], [three] = (open_encoder("deepspeech", p, CPU).weights for p in (a, b, again))
    assert one.role == "acoustic model" and one.licence == "unknown: given by the user"
    assert one.sha256 == three.sha256 != two.sha256


def test_tensors_kept_beside_the_graph_count_as_weights(tmp_path):
    arrays = {"w": graphs.weights()}
    node = [helper.make_node("MatMul", ["x", "w"], ["logits"])]
    path = graphs.save(tmp_path / "a.onnx", node, [value("x", (None, 494))], [value("logits", (None, 29))], arrays, external=True)
    assert [p.name for p in weight_files(path)] == ["a.onnx", "a.onnx.data"]
    before = open_encoder("deepspeech", path, CPU).weights
    (tmp_path / "a.onnx.data").write_bytes((graphs.weights() * 2).tobytes())
    after = open_encoder("deepspeech", path, CPU).weights
    assert len(before) == len(after) == 2 and before[0] == after[0] and before[1] != after[1]


def test_long_sound_in_pieces_equals_the_whole(tmp_path):
    graph = AcousticGraph(graphs.recurrent_graph(tmp_path / "lstm.onnx"), CPU)
    x = np.random.default_rng(0).standard_normal((1000, 494)).astype(np.float32)
    whole = graph(x)
    pieces = in_pieces(graph, 1000, lambda a, b: x[a:b], chunk=130, margin=60)
    assert pieces.shape == (1000, 29) and np.abs(whole).max() > 1
    np.testing.assert_allclose(pieces, whole, atol=1e-3)
    bare = in_pieces(graph, 1000, lambda a, b: x[a:b], chunk=130, margin=0)
    assert np.abs(bare - whole).max() > 0.05  # without the margin it would be seen


@pytest.mark.parametrize("chunk", [1, 37, 400, 999, 1000])
@pytest.mark.parametrize("output", ["logits", "hidden"])
def test_a_graph_that_carries_its_state_gives_in_pieces_what_it_gives_for_the_whole(tmp_path, chunk, output):
    from stages.speech.frozen_graph import read_frozen_graph
    from stages.speech.network import write_onnx
    from tests.speech import frozen

    variables = frozen.arrays()
    for scope in (frozen.FW, frozen.BW):  # gates that hardly forget: a margin would have to be endless
        variables[f"{scope}/bias"][32:48] += 6
    write_onnx(tmp_path / "a.onnx", read_frozen_graph(frozen.write_graph(tmp_path / "a.pb", variables)))
    graph = AcousticGraph(tmp_path / "a.onnx", CPU, threads=1, output=output)
    x = np.random.default_rng(0).standard_normal((1000, 494)).astype(np.float32)
    whole = graph(x)
    if chunk == 1:
        x, whole = x[:50], graph(x[:50])
    found = in_pieces(graph, len(x), lambda a, b: x[a:b], chunk=chunk, margin=0)
    assert graph.carries_state and np.abs(found - whole).max() < 1e-4 * np.abs(whole).max()
    if chunk == 400:
        assert np.abs(in_pieces(Stateless(graph), 1000, lambda a, b: x[a:b], chunk=chunk, margin=10) - whole).max() > 1e-3


class Stateless:
    """A graph whose state nobody can reach."""

    carries_state = False

    def __init__(self, graph: AcousticGraph):
        self.graph = graph

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.graph(x)


def test_the_model_that_ships_gives_for_long_sound_what_it_gives_for_the_whole():
    from stages.speech.encoder import BUNDLED

    graph = AcousticGraph(BUNDLED, CPU, threads=1)
    rows = mfcc_rows(speech_like(24.0, noise=0.02))
    x = network_input(rows, whitening(rows))
    whole = graph(x)
    assert np.abs(in_pieces(graph, len(x), lambda a, b: x[a:b], chunk=310) - whole).max() < 1e-3


def test_long_sound_is_never_given_to_the_network_at_once(tmp_path, monkeypatch):
    seen = []
    run = AcousticGraph.__call__
    monkeypatch.setattr(AcousticGraph, "__call__", lambda self, x: seen.append(len(x)) or run(self, x))
    encoder = open_encoder("deepspeech", graphs.linear_graph(tmp_path / "a.onnx"), CPU)
    assert encoder.encode(np.tile(speech_like(10.0), 30)).shape == (15000, 29)
    assert len(seen) == 3 and max(seen) <= module.CHUNK_ROWS + 2 * module.MARGIN_ROWS


# -- graphs that are something else


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_encoder("deepspeech", path, CPU)
    assert str(path) in str(caught.value)
    return str(caught.value)


def identity(path: Path, x: tuple, y: tuple, *, kind: int = TensorProto.FLOAT, more: tuple = ()) -> Path:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return graphs.save(path, nodes, [value("x", x, kind), *more], [value("y", y, kind)], {})


@pytest.mark.parametrize(
    "x, y, kind, found",
    [
        ((None, 80), (None, 80), TensorProto.FLOAT, "x float (?, 80)"),
        ((1, 16, 494), (1, 16, 494), TensorProto.FLOAT, "x float (1, 16, 494)"),  # T fixed
        ((4, None, 494), (4, None, 494), TensorProto.FLOAT, "x float (4, ?, 494)"),  # batch fixed
        ((1, None, 19, 26), (1, None, 19, 26), TensorProto.FLOAT, "x float (1, ?, 19, 26)"),  # DeepSpeech 0.2 and later
        ((1, None, 494), (1, None, 494), TensorProto.FLOAT16, "x float16 (1, ?, 494)"),
        ((None, 494), (None, 494), TensorProto.FLOAT, "2 rows give an output of shape (2, 494)"),
    ],
)
def test_another_graph_is_refused_with_what_was_expected_and_found(x, y, kind, found, tmp_path):
    message = refused(identity(tmp_path / "other.onnx", x, y, kind=kind))
    assert found in message and "(1, T, 494)" in message and "(T, 1, 29)" in message


def test_a_graph_with_further_inputs_is_refused(tmp_path):
    state = value("previous_state_c", (1, 2048))
    assert "previous_state_c float (1, 2048)" in refused(identity(tmp_path / "a.onnx", (None, 494), (None, 494), more=(state,)))


def test_a_graph_that_hides_a_fixed_length_is_refused_before_any_clip(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["flat"]), helper.make_node("Add", ["flat", "bias"], ["logits"])]
    arrays = {"w": graphs.weights(), "bias": np.ones((16, 29), np.float32)}
    path = graphs.save(tmp_path / "a.onnx", nodes, [value("x", (None, 494))], [value("logits", (None, 29))], arrays)
    assert "running it on 2 rows fails" in refused(path)


def test_of_several_outputs_the_one_named_logits_is_taken(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["hidden"]), helper.make_node("MatMul", ["x", "w"], ["logits"])]
    outputs = [value("hidden", (None, 494)), value("logits", (None, 29))]
    path = graphs.save(tmp_path / "a.onnx", nodes, [value("x", (None, 494))], outputs, {"w": graphs.weights()})
    assert open_encoder("deepspeech", path, CPU).encode(speech_like(1.0)).shape == (50, 29)


def test_the_hidden_layer_is_given_when_asked_for_and_its_absence_told(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "v"], ["hidden"]), helper.make_node("MatMul", ["x", "w"], ["logits"])]
    arrays = {"w": graphs.weights(), "v": graphs.weights()[:, :7]}
    outputs = [value("hidden", (None, 7)), value("logits", (None, 29))]
    path = graphs.save(tmp_path / "a.onnx", nodes, [value("x", (None, 494))], outputs, arrays)
    both = {name: open_encoder("deepspeech", path, CPU, output=name) for name in ("logits", "hidden")}
    assert both["hidden"].features == 7
    x = speech_like(1.0)
    np.testing.assert_allclose(both["hidden"].encode(x), both["logits"].encode(x)[:, :7], atol=1e-5)
    with pytest.raises(InputError, match="--features hidden"):
        open_encoder("deepspeech", graphs.linear_graph(tmp_path / "b.onnx"), CPU, output="hidden")


def test_an_offset_that_is_no_rounding_is_removed_and_a_small_one_left_as_it_is(tmp_path):
    encoder = open_encoder("deepspeech", graphs.linear_graph(tmp_path / "a.onnx"), CPU)
    x = speech_like(1.0, rms=0.05)
    wanted = encoder.encode(x)
    np.testing.assert_allclose(encoder.encode(x + np.int16(9000)), wanted, atol=0.05)
    assert not np.array_equal(encoder.encode(x + np.int16(100)), wanted)


def test_values_that_are_not_finite_are_an_input_error(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["flat"]), helper.make_node("Log", ["flat"], ["logits"])]
    path = graphs.save(tmp_path / "a.onnx", nodes, [value("x", (None, 494))], [value("logits", (None, 29))], {"w": graphs.weights()})
    with pytest.raises(InputError, match="not finite"):
        open_encoder("deepspeech", path, CPU).encode(speech_like(1.0))


@pytest.mark.parametrize("name, kind", [("m.pbmm", "0.2 or later"), ("m.tflite", "Lite"), ("m.zip", "unpack it"), ("m.pt", "PyTorch")])
def test_other_kinds_of_model_are_refused_with_what_works(name, kind, tmp_path):
    (tmp_path / name).write_bytes(b"\x0a\x10")
    message = refused(tmp_path / name)
    assert kind in message and "output_graph.pb" in message and "(1, T, 494)" in message


@pytest.mark.parametrize("content, says", [(b"", "empty"), (b"not a graph at all", "cannot open"), (None, "no such file")])
def test_files_that_are_no_graph_are_input_errors(content, says, tmp_path):
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    assert says in refused(path)


def test_a_folder_is_refused(tmp_path):
    assert "a folder" in refused(tmp_path)


def test_encoder_options_that_do_not_fit_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="mel or deepspeech"):
        open_encoder("wav2vec", None, CPU)
    with pytest.raises(UsageError, match="takes no model"):
        open_encoder("mel", tmp_path / "a.onnx", CPU)


# -- where it runs

BOTH = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def test_cuda_is_used_when_onnxruntime_has_it_and_the_device_allows_it():
    assert choose_providers(BOTH, "auto") == [("CUDAExecutionProvider", {"device_id": "0"}), "CPUExecutionProvider"]
    assert choose_providers(BOTH, "cuda:1")[0] == ("CUDAExecutionProvider", {"device_id": "1"})
    assert choose_providers(BOTH, "cpu") == choose_providers(BOTH, "mps") == ["CPUExecutionProvider"]
    assert choose_providers(["CPUExecutionProvider"], "auto") == ["CPUExecutionProvider"]


def test_cuda_asked_for_by_name_and_absent_is_a_usage_error():
    with pytest.raises(UsageError, match="onnxruntime-gpu"):
        choose_providers(["CPUExecutionProvider"], "cuda")
