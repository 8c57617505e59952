"""Small ONNX graphs with the inputs and outputs of DeepSpeech 0.1.0, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYOUTS = {
    "(T,494) -> (T,29)": ((None, 494), (None, 29)),
    "(1,T,494) -> (T,1,29)": ((1, None, 494), (None, 1, 29)),
    "(1,T,494) -> (1,T,29)": ((1, None, 494), (1, None, 29)),
    "(N,T,494) -> (T,N,29)": (("N", None, 494), (None, "N", 29)),
}
"""Every form that the contract allows: name -> (input shape, output shape)."""


def weights(seed: int = 0) -> np.ndarray:
    """The one matrix of `linear_graph`: (494, 29) f32."""
    return (np.random.default_rng(seed).standard_normal((494, 29)) / 22).astype(np.float32)


def linear_graph(path: Path, layout: str = "(1,T,494) -> (T,1,29)", *, lengths: bool = False, seed: int = 0) -> Path:
    """logits = x @ weights(seed), in one of LAYOUTS, with or without the `input_lengths` input."""
    x_shape, y_shape = LAYOUTS[layout]
    nodes = [helper.make_node("MatMul", ["input_node", "w"], ["flat"])]
    if y_shape[0] is None and len(y_shape) == 3:
        nodes.append(helper.make_node("Transpose", ["flat"], ["logits"], perm=[1, 0, 2]))
    else:
        nodes.append(helper.make_node("Identity", ["flat"], ["logits"]))
    inputs = [_value("input_node", x_shape)]
    if lengths:
        inputs.append(_value("input_lengths", (None,), TensorProto.INT32))
    return save(path, nodes, inputs, [_value("logits", y_shape)], {"w": weights(seed)})


def recurrent_graph(path: Path, hidden: int = 16, seed: int = 1) -> Path:
    """A bidirectional LSTM and a dense layer: (1, T, 494) -> (T, 1, 29), as the real network needs the whole sentence."""
    rng = np.random.default_rng(seed)
    tensors = {
        "w": rng.standard_normal((2, 4 * hidden, 494)) / 22,
        "r": rng.standard_normal((2, 4 * hidden, hidden)) / 4,
        "b": np.zeros((2, 8 * hidden)),
        "dense": rng.standard_normal((2 * hidden, 29)),
    }
    tensors["b"][:, 2 * hidden : 3 * hidden] = 1.0  # forget bias, as in DeepSpeech
    nodes = [
        helper.make_node("Transpose", ["input_node"], ["time_major"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["time_major", "w", "r", "b"], ["y"], hidden_size=hidden, direction="bidirectional"),
        helper.make_node("Transpose", ["y"], ["by_time"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["by_time", "shape"], ["both"]),
        helper.make_node("MatMul", ["both", "dense"], ["logits"]),
    ]
    arrays = {k: v.astype(np.float32) for k, v in tensors.items()} | {"shape": np.array([0, 1, 2 * hidden], np.int64)}
    return save(path, nodes, [_value("input_node", (1, None, 494))], [_value("logits", (None, 1, 29))], arrays)


def save(path: Path, nodes: list, inputs: list, outputs: list, arrays: dict[str, np.ndarray], *, external: bool = False) -> Path:
    """Write a checked graph; `external` keeps the tensors in a file beside it."""
    tensors = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "acoustic", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    if external:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    else:
        onnx.save_model(model, path)
    return path


def _value(name: str, shape: tuple, kind: int = TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, list(shape))
