"""From the trained torch model to the ONNX file that ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from stages.speech.network import Network, write_onnx
from stages.speech.training.network import AcousticModel


def export(model: nn.Module, path: Path, *, half: bool = True) -> None:
    """Write the part of `model` that inference needs, matrices in half precision unless told otherwise."""
    assert isinstance(model, AcousticModel)
    write_onnx(path, network_of(model), half=half)


def network_of(model: AcousticModel) -> Network:
    """The trained arrays in ONNX's order."""

    def array(x: Tensor) -> np.ndarray:
        return x.detach().cpu().float().numpy()

    def gates(x: Tensor) -> np.ndarray:
        i, f, c, o = np.split(array(x), 4)  # torch's order
        return np.concatenate([i, o, f, c])

    lstm = model.lstm
    both = [(f"{k}_l0", f"{k}_l0_reverse") for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    w, r, b_input, b_state = (np.stack([gates(getattr(lstm, name)) for name in names]) for names in both)
    dense = tuple((array(h.weight).T.copy(), array(h.bias)) for h in (model.h1, model.h2, model.h3, model.h5, model.h6))
    return Network(dense=dense, lstm=(w, r, np.concatenate([b_input, b_state], axis=1)))
