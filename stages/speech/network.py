"""DeepSpeech 0.1.0's network as an ONNX file: for Mozilla's weights and for ours (facts/difftalk-official.md section 6).

494 -> three clipped-ReLU layers -> bidirectional LSTM -> clipped-ReLU layer (`hidden`) -> 29 raw logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.files import write_atomic
from stages.speech.graph import LAST_STATE, STATE

CLIP = 20.0
"""Upper end of the clipped ReLU."""
OPSET = 17
IR_VERSION = 8
"""What ONNX Runtime 1.13 and later can read."""
GATES = ("i", "o", "f", "c")
"""Order of an LSTM's gates in ONNX; c is the candidate."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network's arrays, all f32."""

    dense: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Layers 1, 2, 3, 5 and 6: (in, out) matrix and (out,) bias."""
    lstm: tuple[np.ndarray, np.ndarray, np.ndarray]
    """ONNX's W (2, 4H, in), R (2, 4H, H) and B (2, 8H): forward and backward, gates in the order of GATES."""

    def __post_init__(self) -> None:
        (w, r, b), hidden = self.lstm, self.lstm[1].shape[-1]
        assert len(self.dense) == 5
        assert w.shape[:2] == r.shape[:2] == (2, 4 * hidden) and b.shape == (2, 8 * hidden), (w.shape, r.shape, b.shape)
        widths = [self.dense[0][0].shape[0], *(m.shape[1] for m, _ in self.dense)]
        wanted = [widths[0], widths[1], widths[2], 2 * hidden, widths[4]]
        assert [m.shape[0] for m, _ in self.dense] == wanted, (widths, hidden)
        assert w.shape[2] == widths[3] and all(bias.shape == (m.shape[1],) for m, bias in self.dense)


def write_onnx(path: Path, network: Network, *, half: bool = False) -> None:
    """Write `network` in the contract of `graph.AcousticGraph`, with the outputs `logits` (T, 1, 29) and `hidden` (T, 1, n).

    Beyond the contract it takes the LSTM's state before the first row and after the last (`initial_h`, `initial_c`: (2, 1, H),
    zeros when not given) and gives the state at the other end of each direction (`last_h`, `last_c`), so that sound of any
    length goes through in pieces with the very result of the whole. `half` stores the matrices as float16 and computes in
    float32: half the size, the same speed. The file appears whole or not at all.
    """
    import onnx

    model = make_onnx(network, half=half)
    onnx.checker.check_model(model)
    with write_atomic(path) as part:
        part.write_bytes(model.SerializeToString())


def make_onnx(network: Network, *, half: bool = False) -> Any:
    """The onnx.ModelProto of `network`."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: np.ndarray) -> str:
        if half and value.dtype == np.float32 and value.ndim > 1:
            constants.append(numpy_helper.from_array(value.astype(np.float16), f"{name}_half"))
            nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        else:
            constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def dense(x: str, layer: int) -> str:
        matrix, bias = network.dense[{1: 0, 2: 1, 3: 2, 5: 3, 6: 4}[layer]]
        x = node("MatMul", [x, constant(f"h{layer}", matrix)], f"product_{layer}")
        return node("Add", [x, constant(f"b{layer}", bias)], f"layer_{layer}")

    def clipped(x: str) -> str:
        return node("Clip", [x, "floor", "ceiling"], f"{x}_clipped")

    constant("floor", np.array(0, np.float32))
    constant("ceiling", np.array(CLIP, np.float32))
    constant("axis_0", np.array([0], np.int64))
    constant("axis_1", np.array([1], np.int64))
    hidden_size = network.lstm[1].shape[-1]
    constant("joined", np.array([-1, 2 * hidden_size], np.int64))

    x = node("Squeeze", ["input_node", "axis_0"], "rows")  # (T, 494)
    for layer in (1, 2, 3):
        x = clipped(dense(x, layer))  # (T, n)
    x = node("Unsqueeze", [x, "axis_1"], "sequence")  # (T, 1, n)
    weights = [constant(f"lstm_{name}", value) for name, value in zip("WRB", network.lstm, strict=True)]
    for name in STATE:  # an input with an initializer of its name may be left out
        constants.append(numpy_helper.from_array(np.zeros((2, 1, hidden_size), np.float32), name))
    ends = ["directions", *LAST_STATE]  # (T, 2, 1, H); (2, 1, H) twice
    nodes.append(helper.make_node("LSTM", [x, *weights, "", *STATE], ends, hidden_size=hidden_size, direction="bidirectional"))
    x = node("Transpose", ["directions"], "by_row", perm=[0, 2, 1, 3])  # (T, 1, 2, H)
    x = node("Reshape", [x, "joined"], "both")  # (T, 2H)
    x = clipped(dense(x, 5))  # (T, n5)
    node("Unsqueeze", [x, "axis_1"], "hidden")  # (T, 1, n5)
    node("Unsqueeze", [dense(x, 6), "axis_1"], "logits")  # (T, 1, 29)

    inputs, letters, width = network.dense[0][0].shape[0], network.dense[4][0].shape[1], network.dense[3][0].shape[1]

    def tensor(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    state = [2, 1, hidden_size]
    graph = helper.make_graph(
        nodes, "deepspeech", [tensor("input_node", [1, "T", inputs]), *(tensor(name, state) for name in STATE)],
        [tensor("logits", ["T", 1, letters]), tensor("hidden", ["T", 1, width]), *(tensor(name, state) for name in LAST_STATE)],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="difftalk")
