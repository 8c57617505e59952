"""Which frames show the head alike: a reference in the target's pose leaves only the mouth to explain."""

from __future__ import annotations

import cv2
import numpy as np

from stages.shapes import LIP_INNER_BOTTOM, LIP_INNER_TOP

CANDIDATES = 48
"""Reference frames that a film may choose among."""
SWITCH = 0.03
"""What changing the reference costs, in crop half-sides of pose: it changes only where that is worth a visible step."""
UNLIKE = 0.5
"""What a mouth costs that is more or less open than usual, for each crop half-side of difference."""


def apart(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance in pose between condition points (..., 39, 2) and (..., 39, 2) in -1..1 of the crop: root mean square."""
    return np.sqrt(np.square(points - others).sum(-1).mean(-1))


def choose_references(points: np.ndarray, usable: np.ndarray, gap: int, opening: np.ndarray | None = None) -> np.ndarray:
    """A reference frame for each of T frames: alike in pose, at least `gap` frames away where there is such a one: (T,) i64.

    points (T, 39, 2), usable (T,) bool. The frame's own neighbourhood is left out, because its mouth is what must not be
    copied. The cheapest sequence of all (Viterbi): near in pose, and changed rarely, so that the mouth does not flicker; and
    with `opening` (T,), of mouths that are all about as open as the person's usually is, so that a change of reference is
    not taken for a word.
    """
    frames = np.flatnonzero(usable)
    assert len(frames), "no frame to refer to"
    chosen = _spread(points, frames, min(CANDIDATES, len(frames)))
    cost = apart(np.nan_to_num(points)[:, None], points[chosen][None])  # (T, K)
    if opening is not None:
        cost = cost + UNLIKE * np.abs(opening[chosen] - np.median(opening[frames]))
    near = np.abs(np.arange(len(points))[:, None] - chosen[None]) < gap
    cost = cost + np.where(near, 1.0, 0.0)  # dearer than any pose, but not forbidden: a short film has nothing else
    cost[~usable] = 0
    best, back = cost[0], np.zeros(cost.shape, np.int64)
    for t in range(1, len(cost)):
        stay, jump = best, best.min() + SWITCH
        back[t] = np.where(stay <= jump, np.arange(len(best)), best.argmin())
        best = np.minimum(stay, jump) + cost[t]
    path = np.empty(len(cost), np.int64)
    path[-1] = best.argmin()
    for t in range(len(cost) - 1, 0, -1):
        path[t - 1] = back[t, path[t]]
    return chosen[path]


def _spread(points: np.ndarray, frames: np.ndarray, count: int) -> np.ndarray:
    """`count` of the frames, half of them spread over time and half over poses (each the farthest from those before it)."""
    kept = list(dict.fromkeys(int(f) for f in frames[np.linspace(0, len(frames) - 1, (count + 1) // 2).round().astype(int)]))
    thinned = frames[np.linspace(0, len(frames) - 1, min(len(frames), 2000)).round().astype(int)]
    nearest = apart(points[thinned][:, None], points[kept][None]).min(1)
    while len(kept) < count and nearest.max() > 0:
        kept.append(int(thinned[nearest.argmax()]))
        nearest = np.minimum(nearest, apart(points[thinned], points[kept[-1]]))
    return np.array(sorted(set(kept)))


def lip_gap(align: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Distance of the inner lips (T,) in crop half-sides, from source -> template (T, 2, 3) and source landmarks (T, 68, 2)."""
    return 2 * np.hypot(align[:, 0, 0], align[:, 1, 0]) * np.linalg.norm(
        landmarks[:, LIP_INNER_TOP] - landmarks[:, LIP_INNER_BOTTOM], axis=-1
    )


GRID = 17
"""Nodes a side at which the warp is computed exactly; between them it is linear."""
STIFFNESS = 3e-2
"""How little the warp gives way to single landmarks, which jitter."""


def turn_to(picture: np.ndarray, own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Warp a crop (R, R, 3) u8 whose condition points are `own` (39, 2) so that they come to lie at `wanted` (39, 2): (R, R, 3) u8.

    A smoothing thin-plate spline (Wahba 1990): the head's turn moves cheeks and jaw, which no similarity follows. Mouth and
    chin have no points here, so they are carried along and keep their opening.
    """
    side = picture.shape[0]
    at = np.linspace(-1, 1, GRID)
    nodes = np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)
    count = len(wanted)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _bend(wanted, wanted) + STIFFNESS * np.eye(count)
    system[:count, count:] = np.c_[np.ones(count), wanted]
    system[count:, :count] = system[:count, count:].T
    # where to look: from a place in the new picture to the place in the old one
    solved = np.linalg.solve(system, np.r_[own - wanted, np.zeros((3, 2))])
    shift = _bend(nodes, wanted) @ solved[:count] + np.c_[np.ones(len(nodes)), nodes] @ solved[count:]
    places = ((nodes + shift + 1) * side / 2 - 0.5).astype(np.float32).reshape(GRID, GRID, 2)
    # pixel centres lie inside the nodes' square: read the grid where they are
    inner = (((np.arange(side) + 0.5) / side) * (GRID - 1)).astype(np.float32)
    field = cv2.remap(places, *np.meshgrid(inner, inner), cv2.INTER_LINEAR)
    return cv2.remap(np.asarray(picture), field[..., 0], field[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _bend(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """r^2 log r between points (N, 2) and (M, 2)."""
    square = np.square(a[:, None] - b[None]).sum(-1)
    return 0.5 * square * np.log(np.maximum(square, 1e-12))
