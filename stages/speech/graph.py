"""An acoustic model in an ONNX file: opened once, checked against the DeepSpeech contract, run in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stages.errors import InputError, UsageError
from stages.runtime import Runtime
from stages.speech.mfcc import INPUT_WIDTH

Output = Literal["logits", "hidden"]
LETTERS = 29
"""Logits a row: space, a-z, apostrophe, CTC blank."""
CHUNK_ROWS = 6000
"""120 s of sound go through the network at once. Shorter sound is one piece, as in the original pipeline."""
MARGIN_ROWS = 500
"""10 s run along on each side of a piece and are thrown away, for graphs that cannot carry their state from piece to piece."""
STATE, LAST_STATE = ("initial_h", "initial_c"), ("last_h", "last_c")
"""Optional inputs, and outputs, of a graph that can."""
State = tuple[np.ndarray, np.ndarray]
"""An LSTM's h and c, each (2, 1, H): forward and backward."""

CONTRACT = (
    f"one float32 input of shape (1, T, {INPUT_WIDTH}) or (T, {INPUT_WIDTH}) with T free, optionally a second, int32 input "
    f"`input_lengths` of shape (1,), and raw letter logits as output: (T, 1, {LETTERS}), (1, T, {LETTERS}) or (T, {LETTERS}); "
    "with several outputs, the one named `logits` is taken; for --features hidden one named `hidden`, of any width, must be there"
)
"""What a graph must look like, for error messages and the manual."""

FOREIGN = {
    ".pbmm": "a memory-mapped TensorFlow graph (DeepSpeech 0.2 or later, which is another network)",
    ".tflite": "a TensorFlow Lite graph (DeepSpeech 0.2 or later, which is another network)",
    ".gz": "a packed archive; unpack it first",
    ".zip": "a packed archive; unpack it first",
    ".pt": "a PyTorch file",
    ".h5": "a Keras file",
}


class AcousticGraph:
    """(T, 494) f32 network input -> (T, F) f32: raw logits (F = 29) or the layer below, `hidden`. `threads` 0 takes all cores.

    `provider` names where it runs: CUDAExecutionProvider when onnxruntime has it and the device allows it, else
    CPUExecutionProvider. Raises InputError for a file that is not such a graph, saying what was expected and found.
    """

    def __init__(self, path: Path, runtime: Runtime, *, threads: int = 0, output: Output = "logits"):
        check_file(path)
        self.path = path
        self._graph = _open(path, runtime, threads)
        self.provider: str = self._graph.get_providers()[0]
        self._input, self._lengths = self._find_inputs()
        self._output = self._find_output(output)
        self.width = LETTERS if output == "logits" else 0
        # twice, with two lengths: a graph that was exported with a fixed T shows it here and not in the tenth clip
        for rows in (2, 21):
            self.width = self._run(np.zeros((rows, INPUT_WIDTH), np.float32))[0].shape[-1]

    @property
    def carries_state(self) -> bool:
        """Whether `run` can go on from the state that another call ended with."""
        inputs = {i.name for i in self._graph.get_overridable_initializers()}
        return inputs >= set(STATE) and {o.name for o in self._graph.get_outputs()} >= set(LAST_STATE)

    def run(self, x: np.ndarray, state: State | None = None) -> tuple[np.ndarray, State]:
        """(T, 494) f32 and the LSTM's state at both ends -> (T, F) f32 and the state at the other ends, each (2, 1, H) twice."""
        y = self._run(x, dict(zip(STATE, state, strict=True)) if state else {}, LAST_STATE)
        return self._finite(y[0]), (y[1], y[2])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The whole of x as one piece: (T, 494) f32 -> (T, F) f32. Raises InputError for values that are not finite."""
        return self._finite(self._run(x)[0])

    def _finite(self, y: np.ndarray) -> np.ndarray:
        if not np.isfinite(y).all():
            raise InputError(f"{self.path}: the network gives values that are not finite; the file is damaged or of half precision")
        return y

    def _find_inputs(self) -> tuple[Any, Any]:
        inputs = self._graph.get_inputs()
        features = [i for i in inputs if i.type == "tensor(float)" and len(i.shape) in (2, 3) and i.shape[-1] == INPUT_WIDTH]
        lengths = [i for i in inputs if i.name.split(":")[0] == "input_lengths" and i.type == "tensor(int32)"]
        if len(features) != 1 or len(features) + len(lengths) != len(inputs) or isinstance(features[0].shape[-2], int):
            raise self._refuse()
        if len(features[0].shape) == 3 and features[0].shape[0] not in (1, None) and isinstance(features[0].shape[0], int):
            raise self._refuse()
        return features[0], lengths[0] if lengths else None

    def _find_output(self, wanted: Output) -> str:
        outputs = self._graph.get_outputs()
        named = [o for o in outputs if o.name.split(":")[0] == wanted] or (outputs if wanted == "logits" else [])
        if len(named) != 1:
            raise self._refuse()
        return named[0].name

    def _run(self, x: np.ndarray, state: dict[str, np.ndarray] | None = None, more: tuple[str, ...] = ()) -> list[np.ndarray]:
        feed = (state or {}) | {self._input.name: x if len(self._input.shape) == 2 else x[None]}
        if self._lengths is not None:
            feed[self._lengths.name] = np.array([len(x)], np.int32)
        try:
            y, *rest = self._graph.run([self._output, *more], feed)
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise self._refuse(f"running it on {len(x)} rows fails: {_first_line(error)}") from error
        width = self.width or (y.shape[-1] if y.ndim else 0)
        if not width or y.shape not in ((len(x), 1, width), (1, len(x), width), (len(x), width)):
            raise self._refuse(f"{len(x)} rows give an output of shape {y.shape}")
        return [y.reshape(len(x), width).astype(np.float32), *rest]

    def _refuse(self, more: str = "") -> InputError:
        def shapes(values: Any) -> str:
            return ", ".join(f"{v.name} {v.type[7:-1]} ({', '.join(str(n or '?') for n in v.shape)})" for v in values) or "none"

        found = f"inputs {shapes(self._graph.get_inputs())}; outputs {shapes(self._graph.get_outputs())}"
        return InputError(
            f"{self.path}: not an acoustic model for DeepSpeech features. Expected {CONTRACT}. "
            f"Found {found}{'; ' + more if more else ''}"
        )


def in_pieces(
    graph: AcousticGraph,
    count: int,
    take: Callable[[int, int], np.ndarray],
    *,
    chunk: int = CHUNK_ROWS,
    margin: int = MARGIN_ROWS,
) -> np.ndarray:
    """Features of `count` rows, `chunk` at a time: (count, F) f32.

    `take(start, stop)` gives the network's input for those rows, (stop - start, 494) f32, so that nothing of the sound's
    length but the result is ever held. A graph that carries its LSTM's state gives what it would give for the whole; any
    other runs with `margin` rows of context on each side, which is as good as its memory is short.
    """
    pieces = [(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    if len(pieces) > 1 and graph.carries_state:
        return np.concatenate(list(_with_state(graph, pieces, take)))
    found = []
    for start, stop in pieces:
        lo, hi = max(start - margin, 0), min(stop + margin, count)
        found.append(graph(take(lo, hi))[start - lo : stop - lo])
    return np.concatenate(found)


def _with_state(graph: AcousticGraph, pieces: list[tuple[int, int]], take: Callable[[int, int], np.ndarray]) -> Iterator[np.ndarray]:
    """From the end to the start for the backward direction's state at every cut, then from the start with both."""
    behind: list[State | None] = [None] * len(pieces)  # the state that comes from the right into each piece
    for k in range(len(pieces) - 1, 0, -1):
        _, state = graph.run(take(*pieces[k]), behind[k])
        behind[k - 1] = state
    before: State | None = None
    for piece, after in zip(pieces, behind, strict=True):
        y, state = graph.run(take(*piece), _join(before, after))
        before = state
        yield y


def _join(forward: State | None, backward: State | None) -> State | None:
    """Direction 0 of one state, direction 1 of another; zeros for None."""
    if forward is None or backward is None:
        known = forward or backward
        if known is None:
            return None
        zeros = tuple(np.zeros_like(x) for x in known)
        forward, backward = forward or zeros, backward or zeros  # type: ignore[assignment]
    return tuple(np.concatenate([f[:1], b[1:]]) for f, b in zip(forward, backward, strict=True))  # type: ignore[return-value]


def check_file(path: Path) -> None:
    """Raises InputError for a file that is absent, empty, or known to be of another kind."""
    if not path.exists():
        raise InputError(f"{path}: no such file; --model takes an acoustic model, output_graph.pb or an .onnx file")
    kind = "a folder" if path.is_dir() else FOREIGN.get(path.suffix.lower())
    if kind:
        raise InputError(
            f"{path}: this is {kind}. Give DeepSpeech 0.1.0's frozen graph, output_graph.pb, or an ONNX file with {CONTRACT}"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")


def weight_files(path: Path) -> list[Path]:
    """The ONNX file and the files beside it that it keeps its tensors in (torch's exporter does): all that shapes a result.

    An external tensor names its file in a protobuf pair {key: "location", value: NAME}, found here without parsing.
    """
    import mmap

    with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        ends = [m.end() for m in re.finditer(rb"\x0a\x08location\x12", data)]
        names = {data[e + 1 : e + 1 + data[e]] for e in ends if e < len(data)}
    beside = [path.parent / name.decode("utf-8", "replace") for name in sorted(names)]
    return [path, *(p for p in beside if p.is_file())]


def choose_providers(available: list[str], device: str) -> list[Any]:
    """onnxruntime's providers in order of preference, for a --device value.

    Raises UsageError when CUDA is asked for by name and this onnxruntime has none.
    """
    cpu = "CPUExecutionProvider"
    if device.startswith("cuda") and "CUDAExecutionProvider" not in available:
        raise UsageError(f"--device {device}: this onnxruntime has no CUDA provider; install onnxruntime-gpu, or use --device auto")
    if "CUDAExecutionProvider" not in available or not device.startswith(("auto", "cuda")):
        return [cpu]
    index = device.partition(":")[2] or "0"
    return [("CUDAExecutionProvider", {"device_id": index}), cpu]


def _open(path: Path, runtime: Runtime, threads: int) -> Any:
    import onnxruntime  # 0.2 s that only this encoder needs

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised below; the library must not write to the terminal
    options.intra_op_num_threads = threads
    providers = choose_providers(onnxruntime.get_available_providers(), runtime.device)
    try:
        graph = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        raise InputError(f"{path}: onnxruntime cannot open it as an ONNX graph: {_first_line(error)}", detail=str(error)) from error
    if len(providers) > 1 and graph.get_providers()[0] == "CPUExecutionProvider":
        if runtime.device != "auto":
            raise UsageError(f"--device {runtime.device}: onnxruntime cannot start its CUDA provider here; use --device auto or cpu")
        runtime.reporter.warn("onnxruntime cannot start its CUDA provider (driver, CUDA or cuDNN libraries); using the CPU")
    return graph


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
