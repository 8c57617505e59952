"""Is the seam visible? The true mouth goes through the first stage and is pasted back as a generated one would be.

    python -m tests.bench.seam --model MODEL VIDEO [VIDEO ...] [--frames 5] [--sheet seam.png]

Prints, for each video, the mean gradient of grey levels over the feather's band, as a ratio to the source's own there; how far
pixels inside are off; and how many pixels outside changed, which must be none. The sheet shows source and result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from stages.dubbing.model import load_model
from stages.dubbing.reference import open_reference
from stages.dubbing.watermark import SIDE, Marker
from stages.faces import FaceConfig, crop, feathered, paste, pasted, scale_of, shade
from stages.faces.blend import detail_share, match_colours, seam
from stages.runtime import Runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--plain", action="store_true", help="neither colours matched nor detail kept nor marked")
    o = parser.parse_args()
    renderer, _, _ = load_model(o.model, Runtime())
    alpha = pasted(renderer.resolution, renderer.kind)
    ring, rows = seam(renderer.mask.cpu().numpy(), renderer.view), []
    print(f"{'video':40} {'gradient':>9} {'off by':>7} {'outside':>8}")
    for path in o.videos:
        reference = open_reference(path, FaceConfig(), Runtime())
        wanted = {int(k) for k in np.flatnonzero(reference.usable)[:: max(1, reference.count // o.frames)][: o.frames]}
        marker, ratios, errors, changed = Marker(renderer.kind, renderer.resolution), [], [], 0
        for k, frame in enumerate(reference.feed.once()):
            if k not in wanted:
                continue
            align = reference.track.align[k]
            source = crop(frame, align, renderer.resolution)
            x = renderer.pictures(source[None])
            made = renderer.decode(renderer.encode_masked(x), renderer.crop(renderer.encode(x)))
            detail = None
            if not o.plain:
                made = match_colours(made, source[None], ring)
                detail = detail_share(made[0], source)
            out = paste(frame, made[0], align, alpha, detail)
            if not o.plain:
                mixed = source + alpha[..., None] * (made[0].astype(np.float32) - source)
                shade(out, marker(mixed, scale_of(align) * SIDE, float(k / reference.feed.fps)), align)
            white = np.full_like(made[0], 255)
            reach = paste(np.zeros_like(frame), white, align, alpha)[..., 0] / 255.0
            band = (reach > 0.05) & (reach < 0.95)
            outside = paste(np.zeros_like(frame), white, align, feathered(renderer.resolution, renderer.kind))[..., 0] == 0
            ratios.append(gradient(out)[band].mean() / gradient(frame)[band].mean())
            errors.append(np.abs(out.astype(int) - frame)[reach > 0.95].mean())
            changed += int((out != frame)[outside].sum())
            ys, xs = np.nonzero(reach)
            part = slice(max(0, ys.min() - 20), ys.max() + 20), slice(max(0, xs.min() - 20), xs.max() + 20)
            rows.append(np.concatenate([cv2.resize(f[part], (300, 220)) for f in (frame, out)], axis=0))
        print(f"{path.name[:40]:40} {np.mean(ratios):9.3f} {np.mean(errors):7.2f} {changed:8}", flush=True)
    if o.sheet:
        wide = [np.concatenate(rows[i : i + 6], axis=1) for i in range(0, len(rows) - len(rows) % 6, 6)]
        Image.fromarray(np.concatenate(wide, axis=0)).save(o.sheet)


def gradient(frame: np.ndarray) -> np.ndarray:
    """Length of the gradient of luma: (H, W)."""
    luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.hypot(cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1))


if __name__ == "__main__":
    main()
