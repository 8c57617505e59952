"""Small frozen graphs with DeepSpeech 0.1.0's node names and layout, and a plain NumPy forward of the same arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tensorboard.compat.proto import types_pb2
from tensorboard.compat.proto.graph_pb2 import GraphDef

FW, BW = "bidirectional_rnn/fw/basic_lstm_cell", "bidirectional_rnn/bw/basic_lstm_cell"


def arrays(dense: int = 24, cell: int = 16, seed: int = 0, inputs: int = 494, letters: int = 29) -> dict[str, np.ndarray]:
    """The variables of a small network, in TensorFlow's layout. Layer 3 is twice the cell wide, as Mozilla's."""
    rng = np.random.default_rng(seed)

    def f(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    found = {"h1": f(inputs, dense), "h2": f(dense, dense), "h3": f(dense, 2 * cell), "h5": f(2 * cell, dense), "h6": f(dense, letters)}
    found |= {f"b{k[1]}": f(found[k].shape[1]) for k in list(found)}
    found["b2"] += 15  # so that the clip at 20 is met
    for scope in (FW, BW):
        found |= {f"{scope}/kernel": f(2 * cell + cell, 4 * cell), f"{scope}/bias": f(4 * cell)}
    return found


def forward(v: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 494) -> hidden (T, n5), logits (T, 29), in float64 and as DeepSpeech.py's BiRNN says, one step at a time."""
    v = {k: a.astype(np.float64) for k, a in v.items()}
    for i in (1, 2, 3):
        x = np.minimum(np.maximum(x @ v[f"h{i}"] + v[f"b{i}"], 0), 20)
    outputs = []
    for scope, order in ((FW, range(len(x))), (BW, range(len(x) - 1, -1, -1))):
        n = v[f"{scope}/bias"].shape[0] // 4
        c, h, out = np.zeros(n), np.zeros(n), np.zeros((len(x), n))
        for t in order:
            i, j, f, o = np.split(np.concatenate([x[t], h]) @ v[f"{scope}/kernel"] + v[f"{scope}/bias"], 4)
            c = c * _sigmoid(f + 1.0) + _sigmoid(i) * np.tanh(j)
            h = np.tanh(c) * _sigmoid(o)
            out[t] = h
        outputs.append(out)
    hidden = np.minimum(np.maximum(np.concatenate(outputs, 1) @ v["h5"] + v["b5"], 0), 20)
    return hidden, hidden @ v["h6"] + v["b6"]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def write_graph(
    path: Path, variables: dict[str, np.ndarray], *, scope: str = "", old_names: bool = False, extra: tuple[str, ...] = ()
) -> Path:
    """A frozen graph: placeholders, every variable as Const with its /read, the layers' nodes, `logits` and `output_node`."""
    graph = GraphDef()

    def node(name: str, op: str, *inputs: str):
        n = graph.node.add(name=scope + name, op=op)
        n.input.extend(scope + i for i in inputs)
        return n

    node("input_node", "Placeholder").attr["dtype"].type = types_pb2.DT_FLOAT
    node("input_lengths", "Placeholder").attr["dtype"].type = types_pb2.DT_INT32
    x = node("Transpose", "Transpose", "input_node").name.removeprefix(scope)
    for name, value in variables.items():
        if old_names:
            name = name.replace("kernel", "weights").replace("bias", "biases")
        n = node(name, "Const")
        n.attr["dtype"].type = types_pb2.DT_FLOAT
        tensor = n.attr["value"].tensor
        tensor.dtype = types_pb2.DT_FLOAT
        for size in value.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = np.ascontiguousarray(value, "<f4").tobytes()
        node(f"{name}/read", "Identity", name)
    for i in (1, 2, 3, 5, 6):
        node(f"MatMul_{i}", "MatMul", x, f"h{i}/read")
        node(f"Add_{i}", "Add", f"MatMul_{i}", f"b{i}/read")
        x = f"Add_{i}"
        if i != 6:
            node(f"Relu_{i}", "Relu", x)
            x = node(f"Minimum_{i}", "Minimum", f"Relu_{i}").name.removeprefix(scope)
        if i == 3:
            for cell in ("fw", "bw"):
                node(f"bidirectional_rnn/{cell}/{cell}/while/Enter", "Enter", x)
            x = "bidirectional_rnn/fw/fw/while/Enter"
    node("logits", "Reshape", x)
    node("CTCBeamSearchDecoder", "CTCBeamSearchDecoder", "logits", "input_lengths")
    node("output_node", "Pack", "CTCBeamSearchDecoder")
    for name in extra:
        node(name, "Placeholder")
    path.write_bytes(graph.SerializeToString())
    return path
