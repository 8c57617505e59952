"""Which frames show the head alike: a reference in the target's pose leaves only the mouth to explain."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from stages.faces.lips import WEIGHTS, reshape
from stages.shapes import CONDITION_POINTS, NOSE_BASE

CANDIDATES = 96
"""Reference frames that a film may choose among."""
SWITCH = 0.02
"""What changing the reference costs, in crop half-sides of pose: it changes only where that is worth a visible step."""
UNLIKE = 0.5
"""What a mouth costs that is more or less open than usual, for each crop half-side of difference."""


def apart(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance in pose between condition points (..., 39, 2) and (..., 39, 2) in -1..1 of the crop: root mean square."""
    return np.sqrt(np.square(points - others).sum(-1).mean(-1))


def lips_apart(shapes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance between lips (..., 4) and (..., 4), in crop half-sides."""
    return (np.abs(shapes - others) * WEIGHTS).sum(-1)


def choose_references(
    points: np.ndarray,
    usable: np.ndarray,
    gap: int,
    shapes: np.ndarray,
    order: np.ndarray | None = None,
    wanted: np.ndarray | None = None,
) -> np.ndarray:
    """A reference frame for each of N frames: alike in pose, at least `gap` frames away where there is such a one: (N,) i64.

    Of T source frames points (T, 39, 2), usable (T,) bool and lips' shapes (T, 4); order (N,) says which source frame each
    frame shows, by default all in turn. The frame's own neighbourhood is left out, because its mouth is what must not be
    copied. The cheapest sequence of all (Viterbi): near in pose, changed rarely, so that the mouth does not flicker, and with
    lips like the `wanted` (N, 4); where none are wanted, of mouths that are all about as open as the person's usually is, so
    that a change of reference is not taken for a word.
    """
    frames = np.flatnonzero(usable)
    assert len(frames), "no frame to refer to"
    order = np.arange(len(points)) if order is None else order
    chosen = _spread(points, shapes, frames, min(CANDIDATES, len(frames)))
    parts = np.array_split(np.nan_to_num(points), len(points) // 256 + 1)  # a long film's would fill the memory
    pose = np.concatenate([apart(part[:, None], points[chosen][None]) for part in parts])  # (T, K)
    if wanted is None:
        pose = pose + UNLIKE * np.abs(shapes[chosen, 0] - np.median(shapes[frames, 0]))
    # dearer than any pose, but not forbidden: a short film has nothing else
    pose = pose + (np.abs(np.arange(len(points))[:, None] - chosen[None]) < gap)
    pose[~usable] = 0
    best, back = np.zeros(len(chosen)), np.zeros((len(order), len(chosen)), np.int16)
    for n, source in enumerate(order):
        stay, jump = best, best.min() + SWITCH
        back[n] = np.where(stay <= jump, np.arange(len(best)), best.argmin())
        best = np.minimum(stay, jump) + pose[source]
        if wanted is not None and usable[source]:
            best = best + lips_apart(wanted[n], shapes[chosen])
    path = np.empty(len(order), np.int64)
    path[-1] = best.argmin()
    for n in range(len(order) - 1, 0, -1):
        path[n - 1] = back[n, path[n]]
    return chosen[path]


def _spread(points: np.ndarray, shapes: np.ndarray, frames: np.ndarray, count: int) -> np.ndarray:
    """`count` of the frames, half of them spread over time and half over poses and lips (each the farthest from those before it)."""
    kept = list(dict.fromkeys(int(f) for f in frames[np.linspace(0, len(frames) - 1, (count + 1) // 2).round().astype(int)]))
    thinned = frames[np.linspace(0, len(frames) - 1, min(len(frames), 2000)).round().astype(int)]

    def far(frame: int) -> np.ndarray:
        return apart(points[thinned], points[frame]) + lips_apart(shapes[thinned], shapes[frame])

    nearest = np.min([far(f) for f in kept], axis=0)
    while len(kept) < count and nearest.max() > 0:
        kept.append(int(thinned[nearest.argmax()]))
        nearest = np.minimum(nearest, far(kept[-1]))
    return np.array(sorted(set(kept)))


GRID = 33
"""Nodes a side at which the warp is computed exactly; between them it is linear."""
STIFFNESS, LIP_STIFFNESS = 1e-1, 3e-3
"""How little the warp gives way to single landmarks, which jitter; and to lips, which lie close together and move apart."""
NOSE = [int(np.flatnonzero(CONDITION_POINTS == p)[0]) for p in range(NOSE_BASE.start, NOSE_BASE.stop)]


def turn_to(
    picture: np.ndarray, own: np.ndarray, wanted: np.ndarray, mouth: np.ndarray | None = None, shape: np.ndarray | None = None
) -> np.ndarray:
    """Warp a crop (R, R, 3) whose condition points are `own` (39, 2) so that they come to lie at `wanted` (39, 2), by `turning`."""
    return turned(picture, turning(picture.shape[0], own, wanted, mouth, shape))


def turned(picture: np.ndarray, field: np.ndarray) -> np.ndarray:
    """A picture (R, R, 3), u8 or f32, looked up at the pixels `field` (R, R, 2)."""
    return cv2.remap(np.asarray(picture), field[..., 0], field[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def turning(
    side: int, own: np.ndarray, wanted: np.ndarray, mouth: np.ndarray | None = None, shape: np.ndarray | None = None
) -> np.ndarray:
    """Where each pixel of the warped picture looks: (R, R, 2) f32 pixels, R = `side`.

    A smoothing thin-plate spline (Wahba 1990): the head's turn moves cheeks and jaw, which no similarity follows. Mouth and
    chin have no points here, so they are carried along and keep their opening; unless the picture's `mouth` (25, 2) is given
    and the lips' `shape` (4,) that it is to take.
    """
    if mouth is not None and shape is not None:
        moved = moved_mouth(own, wanted, mouth, shape)
        own, wanted = np.concatenate([own, mouth]), np.concatenate([wanted, moved])
    stiffness = np.full(len(own), STIFFNESS)
    stiffness[len(CONDITION_POINTS) :] = LIP_STIFFNESS
    at = np.linspace(-1, 1, GRID)
    nodes = np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)
    # where to look: from a place in the new picture to the place in the old one
    places = ((_spline(wanted, own, stiffness)(nodes) + 1) * side / 2 - 0.5).astype(np.float32).reshape(GRID, GRID, 2)
    # pixel centres lie inside the nodes' square: read the grid where they are
    inner = (((np.arange(side) + 0.5) / side) * (GRID - 1)).astype(np.float32)
    return cv2.remap(places, *np.meshgrid(inner, inner), cv2.INTER_LINEAR)


def moved_mouth(own: np.ndarray, wanted: np.ndarray, mouth: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Where mouth and chin (25, 2) of a picture with condition points `own` (39, 2) lie when it is turned to `wanted` and its lips
    take `shape` (4,): (25, 2)."""
    return reshape(_spline(own, wanted, STIFFNESS)(mouth), wanted[NOSE].mean(0), shape)


def _spline(points: np.ndarray, targets: np.ndarray, stiffness: np.ndarray | float) -> Callable[[np.ndarray], np.ndarray]:
    """The plane's smoothest map that takes points (N, 2) about to targets (N, 2)."""
    count = len(points)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _bend(points, points) + stiffness * np.eye(count)
    system[:count, count:] = np.c_[np.ones(count), points]
    system[count:, :count] = system[:count, count:].T
    solved = np.linalg.solve(system, np.r_[targets - points, np.zeros((3, 2))])
    return lambda x: x + _bend(x, points) @ solved[:count] + np.c_[np.ones(len(x)), x] @ solved[count:]


def _bend(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """r^2 log r between points (N, 2) and (M, 2)."""
    square = np.square(a[:, None] - b[None]).sum(-1)
    return 0.5 * square * np.log(np.maximum(square, 1e-12))
