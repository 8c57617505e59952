"""How the figures came about, in words: what a reader needs to compare them with others."""

from __future__ import annotations

from typing import Any

from stages.metrics import pairs, statistics
from stages.metrics.mouth import MAX_LAG, OPEN_RATIO, SIDE
from stages.metrics.names import MODEL_ROWS, result_names
from stages.metrics.scorer import PSNR_CAP
from stages.metrics.scoring import FRAME_SECONDS, How


def settings(how: How, sync: str, standing: tuple[str, ...]) -> dict[str, Any]:
    """`sync` is what measures it, by name."""
    from stages.metrics import clip, quality

    alex, vgg = (f"one frame in {s:g} s" if s else "every frame" for s in (how.lpips_seconds, how.vgg_seconds))
    return {
        "metrics": list(result_names(how.chosen)),
        "rows": list(standing),
        "drawn_rows": f"{', '.join(MODEL_ROWS)}: the first {how.row_seconds:g} s of each clip",
        "resolution": how.resolution,
        "mouth_resolution": how.mouth_resolution,
        "landmarks": how.landmarks,
        "lpips_seconds": how.lpips_seconds,
        "vgg_seconds": how.vgg_seconds,
        "row_seconds": how.row_seconds,
        "regions": {
            "face": "canonical face crop, placed by the truth's eyes and nose",
            "mouth": f"square of {SIDE} eye distances around the truth's mouth points, turned with its eyes",
            "frame": f"whole picture, one in {FRAME_SECONDS:g} s",
        },
        "psnr": f"dB over all channels, mean over frames; each frame at most {PSNR_CAP:g}, which stands for equal ones",
        "ssim": f"Wang 2004: {quality.SSIM_WINDOW} px Gaussian window of sigma {quality.SSIM_SIGMA}, "
        f"K1 {quality.SSIM_K1}, K2 {quality.SSIM_K2}, range 255, RGB channels apart",
        "lpips_alex": f"LPIPS v0.1, AlexNet, {alex}",
        "lpips_vgg": f"LPIPS v0.1, VGG16, of the face crop, {vgg}",
        "mouth_landmark_distance": f"mean distance of the 20 mouth points ({how.landmarks}), in the true face's eye distances",
        "lip_opening_correlation": "Pearson's correlation over time of the inner lips' gap, generated with true",
        "lip_opening_lag": f"frames by which the generated lips come late (at most {MAX_LAG}), by the highest correlation",
        "open_mouth_share": f"share of frames whose inner lips are over {OPEN_RATIO} times as high as wide; of the silence row, what leaks",
        "identity_distance": f"distance of dlib's face descriptors, each the mean of {clip.IDENTITY_FRAMES} frames, so that not their "
        "expressions are compared; one person is below about 0.5",
        "jitter": "difference of adjacent frames inside the mask, in units of the truth's: 1 as the truth, 0 frozen",
        "flicker": "outside the face crop's mask: mean absolute difference of the two films' changes from frame to frame, grey levels",
        "sync": SYNC_WORDS.get(sync, sync),
        "sync_meter": sync,
        "sync_sound": "the generated film's own sound where it has any, else the truth's; for the standing rows the truth's",
        "alignment": {"time": pairs.TIME_RULE, "size": pairs.SIZE_RULE},
        "ci95": f"percentile bootstrap over clips, {statistics.RESAMPLES} resamples, seed {statistics.SEED}; none for a single clip",
    }


SYNC_WORDS = {
    "syncnet": "SyncNet's protocol and official weights; faces by difftalk's landmarks instead of S3FD. Offset in 25 fps frames, "
    "+k where the sound comes k frames before its mouth; distance and confidence are LSE-D and LSE-C",
    "difftalk-sync": "difftalk's own expert (shape of the lips and log-mel sound) with SyncNet's arithmetic at 25 fps. Offset +k where the "
    "sound comes k frames before its mouth; distance is the least, confidence the median distance minus it. Not SyncNet: never to be "
    "compared with published LSE",
}
