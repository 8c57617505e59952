"""Colours met at the seam, detail kept where the skin is the same."""

import cv2
import numpy as np

from stages.faces.align import crop, paste
from stages.faces.blend import detail_share, match_colours, seam
from stages.faces.mask import feathered, mask

SIDE = 128
VIEW = (slice(56, 128), slice(8, 120))


def skin(seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(cv2.resize(rng.uniform(100, 180, (6, 6, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def test_the_seam_is_a_ring_around_the_mask_inside_the_view():
    ring = seam(mask(SIDE), VIEW)
    assert ring.any() and not (ring & (mask(SIDE) > 0)).any()
    assert not ring[:56].any() and not ring[:, :8].any()


def test_a_colour_cast_is_taken_out_and_the_mouth_is_left():
    source = skin()[None]
    made = source.copy()
    made[:, 80:92, 50:78] = (60, 20, 20)  # another mouth
    cast = np.clip(made.astype(int) + (9, -6, 4), 0, 255).astype(np.uint8)
    matched = match_colours(cast, source, seam(mask(SIDE), VIEW))
    inside = mask(SIDE) > 0
    assert np.abs(matched.astype(int) - made)[:, inside].mean() < 1.2
    assert np.abs(match_colours(made, source, seam(mask(SIDE), VIEW)).astype(int) - made)[:, inside].mean() < 0.5


def test_detail_is_the_sources_where_the_skin_is_the_same_and_nowhere_else():
    rng = np.random.default_rng(1)
    fine = cv2.resize(skin(), (512, 512), interpolation=cv2.INTER_CUBIC).astype(int) + rng.normal(0, 8, (512, 512, 1))
    frame = np.clip(fine, 0, 255).astype(np.uint8)
    align = np.array([[1 / 512, 0, 0.5 / 512], [0, 1 / 512, 0.5 / 512]], np.float32)
    coarse = crop(frame, align, SIDE)
    made = coarse.copy()
    made[80:100, 50:78] = (60, 20, 20)
    share = detail_share(made, coarse)
    assert share[110, 64] > 0.9 and share[90, 64] < 0.05
    alpha = feathered(SIDE)
    with_detail, without = (paste(frame, made, align, alpha, d).astype(float) for d in (share, None))
    skin_there, mouth_there = (slice(420, 460), slice(230, 290)), (slice(335, 385), slice(215, 295))
    grain = lambda x, at: (x - cv2.GaussianBlur(x, (0, 0), 3))[at].std()  # noqa: E731
    assert grain(with_detail, skin_there) > 0.8 * grain(frame.astype(float), skin_there) > 2 * grain(without, skin_there)
    assert grain(with_detail, mouth_there) < 0.3 * grain(frame.astype(float), mouth_there)


def test_a_frame_no_finer_than_the_crop_is_pasted_as_before():
    frame, align = skin(), np.array([[1 / SIDE, 0, 0.5 / SIDE], [0, 1 / SIDE, 0.5 / SIDE]], np.float32)
    made = skin(3)
    all_of_it = np.ones((SIDE, SIDE), np.float32)
    assert np.array_equal(paste(frame, made, align, feathered(SIDE)), paste(frame, made, align, feathered(SIDE), all_of_it))
