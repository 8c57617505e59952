"""Lines as inline SVG, pictures as data addresses: what a page can hold without any other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

MARGIN = (46, 10, 12, 36)
"""Left, right, top, bottom of a plot, in its units."""
TICKS = 5
MOST_POINTS = 600
"""Points of a line: more than this are not seen."""


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    x: np.ndarray
    y: np.ndarray
    """(N,); gaps where not finite."""
    colour: str
    name: str
    truth: bool = False


def plot(
    lines: Sequence[Line], *, x_label: str, y_label: str, size: tuple[int, int] = (720, 230), zero: bool = False, mark: float | None = None
) -> str:
    """An SVG of the lines; `zero`: the y axis begins at 0; `mark`: an x that gets an upright line."""
    shown = [line for line in lines if np.isfinite(line.y).any()]
    if not shown:
        return '<p class="faint">nothing to draw</p>'
    (width, height), (left, right, top, bottom) = size, MARGIN
    every_x, every_y = np.concatenate([l.x for l in shown]), np.concatenate([l.y[np.isfinite(l.y)] for l in shown])
    x0, x1 = float(every_x.min()), float(every_x.max())
    y0, y1 = (0.0 if zero else float(every_y.min())), float(every_y.max())
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)
    pad = 0.06 * (y1 - y0)
    y0, y1 = (y0 if zero else y0 - pad), y1 + pad

    def px(x: np.ndarray | float) -> np.ndarray | float:
        return left + (x - x0) / (x1 - x0) * (width - left - right)

    def py(y: np.ndarray | float) -> np.ndarray | float:
        return height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom)

    kind, label = "plot small" if width < 500 else "plot", html.escape(y_label)
    parts = [f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">']
    for y in nice(y0, y1):
        parts.append(f'<path class="axis" d="M{left} {py(y):.1f}H{width - right}"/>')
        parts.append(f'<text x="{left - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in nice(x0, x1):
        parts.append(f'<text x="{px(x):.1f}" y="{height - bottom + 16}" text-anchor="middle">{x:g}</text>')
    if mark is not None:
        parts.append(f'<path class="axis" stroke-dasharray="3 3" d="M{px(mark):.1f} {top}V{height - bottom}"/>')
    parts.append(f'<text x="{(left + width - right) / 2:.0f}" y="{height - 4}" text-anchor="middle">{html.escape(x_label)}</text>')
    for line in shown:
        style = 'class="line truth"' if line.truth else f'class="line" style="stroke:{line.colour}"'
        drawn = path(np.asarray(px(line.x)), np.asarray(py(line.y)))
        parts.append(f'<path {style} d="{drawn}"><title>{html.escape(line.name)}</title></path>')
    return "".join([*parts, "</svg>"])


def path(x: np.ndarray, y: np.ndarray) -> str:
    """Of an SVG, through (N,) points, broken where y is not finite."""
    if len(x) > MOST_POINTS:
        keep = np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int)
        x, y = x[keep], y[keep]
    drawn, pen = [], False
    for a, b in zip(x, y, strict=True):
        if np.isfinite(b):
            drawn.append(f"{'L' if pen else 'M'}{a:.1f} {b:.1f}")
        pen = bool(np.isfinite(b))
    return "".join(drawn)


def nice(low: float, high: float, count: int = TICKS) -> list[float]:
    """Round numbers between two."""
    raw = (high - low) / count
    size = 10 ** np.floor(np.log10(raw))
    step = float(size * min((m for m in (1, 2, 2.5, 5, 10) if m * size >= raw), default=10))
    first = np.ceil(low / step - 1e-9)
    return [round(float(k * step), 10) + 0.0 for k in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def heat_picture(heat: np.ndarray, top: float, side: int = 148) -> str:
    """A heatmap (R, R) from 0 to `top` as the address of a PNG."""
    level = np.clip(heat / max(top, 1e-6) * 255, 0, 255).astype(np.uint8)
    level = cv2.resize(level, (2 * side, 2 * side), interpolation=cv2.INTER_AREA if len(level) > 2 * side else cv2.INTER_LINEAR)
    done, data = cv2.imencode(".png", cv2.applyColorMap(level, cv2.COLORMAP_INFERNO))
    assert done
    return address(data.tobytes(), "image/png")


def picture(path: Path) -> str:
    """A JPEG file as its own address."""
    return address(path.read_bytes(), "image/jpeg")


def address(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
