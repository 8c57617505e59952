"""Mozilla DeepSpeech 0.1.0's frozen TensorFlow graph -> ONNX, without TensorFlow; made once and kept in the cache.

The graph is read with the protocol buffers that tensorboard ships. Its network is known (DeepSpeech.py of v0.1.0, BiRNN),
so only the constants are taken, by name: h1 b1 h2 b2 h3 b3 h5 b5 h6 b6 and the two basic_lstm_cell's kernel and bias.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts import DigestCache, file_digest
from stages.errors import ArtifactError, InputError, WeightsError
from stages.runtime import Reporter
from stages.speech.graph import LETTERS
from stages.speech.mfcc import INPUT_WIDTH
from stages.speech.network import CLIP, Network, write_onnx
from stages.weights import cache_folder

CODE = 2
"""Raised when the conversion gives other numbers: an older file in the cache is not used then."""
FORGET_BIAS = 1.0
"""TensorFlow's BasicLSTMCell adds it while running; here it goes into the bias."""
KNOWN = {"b90017e816572ddce84f5843f1fa21e6a377975e": "osmr's deepspeech-0_1_0-b90017e8.pb"}
"""sha1 of the published file whose sum is known, and its name, for the log. Others are taken by their form."""
LAYERS = (1, 2, 3, 5, 6)
CELLS = ("bidirectional_rnn/fw/basic_lstm_cell", "bidirectional_rnn/bw/basic_lstm_cell")
LATER = {
    "previous_state_c": "a uni-directional LSTM that keeps its state, as DeepSpeech 0.2 and later",
    "lstm_fused_cell": "a fused uni-directional LSTM, as DeepSpeech 0.2 to 0.4",
    "cudnn_lstm": "a cuDNN LSTM, as DeepSpeech 0.5 and later",
    "input_samples": "MFCC inside the graph, as DeepSpeech 0.5 and later",
}
"""Nodes that only other versions have."""
WORKS = (
    "DeepSpeech 0.1.0's output_graph.pb works (in deepspeech-0.1.0-models.tar.gz; the same network is osmr's "
    "deepspeech-0_1_0-b90017e8.pb), or an .onnx file"
)


def is_frozen_graph(path: Path) -> bool:
    """By name: what TensorFlow calls a graph."""
    return path.suffix.lower() == ".pb"


def import_graph(path: Path, reporter: Reporter, digest: str | None = None) -> Path:
    """The ONNX form of the frozen graph at `path`, from the cache or made now. `digest` is its sha256, where that is known.

    Raises InputError for a file that is not this network, WeightsError when the cache cannot be written.
    """
    target = cache_folder() / f"deepspeech-{(digest or file_digest(path))[:24]}-{CODE}.onnx"
    if _whole(target):
        return target
    network = read_frozen_graph(path)
    cell, dense = network.lstm[1].shape[-1], network.dense[0][0].shape[1]
    published = KNOWN.get(_sha1(path))
    origin = f"known by its sha1 as {published}" if published else "not a file known by its sum; its form is DeepSpeech 0.1.0's"
    reporter.log(f"importing {path} ({origin}): {dense} wide, LSTM of {cell} in each direction; kept in {target}")
    try:
        write_onnx(target, network)
        _mark(target)
    except (ArtifactError, OSError) as error:
        raise WeightsError(f"{error}; the imported model goes to another folder with DIFFTALK_CACHE=FOLDER") from error
    return target


def _sha1(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha1").hexdigest()


def _mark(target: Path) -> None:
    """The file's sha256 beside it: a copy that was damaged or cut is found, and made again."""
    target.with_suffix(".sha256").write_text(file_digest(target), encoding="utf-8")


def _whole(target: Path) -> bool:
    known = DigestCache(cache_folder() / ".digests.json")  # 490 MB are read again only when their times or size change
    try:
        whole = known.digest(target) == target.with_suffix(".sha256").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    with suppress(ArtifactError):  # a folder that cannot be written: the file is read again next time
        known.save()
    return whole


def read_frozen_graph(path: Path) -> Network:
    """The network's arrays. Raises InputError for anything but DeepSpeech 0.1.0's graph, saying what was found."""
    constants, names = _constants(path)
    for node, what in LATER.items():
        if any(node in name.split("/") for name in names):
            raise InputError(f"{path}: this graph has {node!r}: {what}, which is another network. {WORKS}")
    _check_ends(path, constants, names)
    dense = tuple((_take(constants, path, f"h{i}"), _take(constants, path, f"b{i}")) for i in LAYERS)
    cells = [(_take(constants, path, f"{c}/kernel", f"{c}/weights"), _take(constants, path, f"{c}/bias", f"{c}/biases")) for c in CELLS]
    _check_shapes(path, dense, cells)
    return Network(dense=dense, lstm=_onnx_lstm(cells, inputs=dense[2][0].shape[1]))


def _constants(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Constant tensors by node name (protos, not yet arrays), and the names of all nodes."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    graph = GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path}: not a whole TensorFlow graph ({error}). {WORKS}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or os.strerror(error.errno or 0)})") from error
    names = {node.name for node in graph.node}
    if not names:
        raise InputError(f"{path}: a TensorFlow graph without nodes. {WORKS}")
    return {node.name: node.attr["value"].tensor for node in graph.node if node.op == "Const"}, names


def _check_ends(path: Path, constants: dict[str, Any], names: set[str]) -> None:
    """What arrays do not show: where the network begins and ends, and how high its ReLUs go (a flag of the training)."""
    ends = {name.rpartition("/")[2] for name in names}
    for node in ("input_node", "logits"):
        if node not in ends:
            raise InputError(f"{path}: no node {node!r} in this graph: not a frozen DeepSpeech 0.1.0. {WORKS}")
    for name in constants:
        # tf.minimum(relu, relu_clip) is Minimum, Minimum_1 ... with the constant y; the LSTM's own loop has Minimum as well
        if re.search(r"(^|/)Minimum(_\d+)?/y$", name) and "bidirectional_rnn" not in name:
            clip = _array(constants, path, name)
            if clip.size != 1 or clip.item() != CLIP:
                raise InputError(
                    f"{path}: its constant {name!r}, the clip of a ReLU, is {clip.tolist()}; DeepSpeech 0.1.0's is {CLIP:g}. {WORKS}"
                )


def _take(constants: dict[str, Any], path: Path, *names: str) -> np.ndarray:
    """The float32 array of the first of `names` that is there, alone or below a scope. Raises InputError unless it is one."""
    for name in names:
        found = [name] if name in constants else [c for c in constants if c.endswith("/" + name)]
        if len(found) > 1:
            raise InputError(f"{path}: which {name!r} is meant? This graph has {', '.join(sorted(found)[:4])}. {WORKS}")
        if found:
            return _array(constants, path, found[0])
    raise InputError(
        f"{path}: no constant {names[0]!r} in this graph, which has {len(constants)} constants "
        f"({', '.join(sorted(constants)[:6]) or 'none'}...): not a frozen DeepSpeech 0.1.0. {WORKS}"
    )


def _array(constants: dict[str, Any], path: Path, name: str) -> np.ndarray:
    from tensorboard.util.tensor_util import make_ndarray

    try:
        return np.array(make_ndarray(constants[name]), dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its constant {name!r} cannot be read ({error}). {WORKS}") from error


def _check_shapes(path: Path, dense: tuple[tuple[np.ndarray, np.ndarray], ...], cells: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Raises InputError unless the layers fit onto each other as in BiRNN."""
    (h1, _), (h2, _), (h3, _), (h5, _), (h6, _) = dense
    two_dimensional = all(m.ndim == 2 for m, _ in [*dense, *cells])
    fits = two_dimensional and h1.shape[0] == INPUT_WIDTH and h6.shape[1] == LETTERS
    if fits:
        cell = h5.shape[0] // 2
        fits = h1.shape[1] == h2.shape[0] and h2.shape[1] == h3.shape[0] and h5.shape[1] == h6.shape[0] and h5.shape[0] == 2 * cell
        fits = fits and all(k.shape == (h3.shape[1] + cell, 4 * cell) and b.shape == (4 * cell,) for k, b in cells)
        fits = fits and all(b.shape == (m.shape[1],) for m, b in dense)
    if not fits:
        shapes = ", ".join(f"h{i} {m.shape}" for i, (m, _) in zip(LAYERS, dense, strict=True))
        raise InputError(
            f"{path}: the layers do not fit DeepSpeech 0.1.0, from {INPUT_WIDTH} inputs to {LETTERS} letters: "
            f"{shapes}, LSTM {' and '.join(str(k.shape) for k, _ in cells)}. {WORKS}"
        )


def _onnx_lstm(cells: list[tuple[np.ndarray, np.ndarray]], inputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """TensorFlow's kernel (in + H, 4H) with gates i, candidate, f, o -> ONNX's W, R and B with gates i, o, f, candidate."""
    w, r, b = [], [], []
    for kernel, bias in cells:
        i, c, f, o = np.split(kernel.T, 4)  # each (H, in + H)
        rows = np.concatenate([i, o, f, c])
        i, c, f, o = np.split(bias, 4)
        b.append(np.concatenate([i, o, f + np.float32(FORGET_BIAS), c, np.zeros(len(bias), np.float32)]))
        w.append(rows[:, :inputs])
        r.append(rows[:, inputs:])
    return np.stack(w), np.stack(r), np.stack(b)
