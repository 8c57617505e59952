"""The project's letters and the numbers that several files share.

Axes: B batch, T frames, H W crop pixels, h w latent pixels, C latent channels, P landmark points, S audio rows in a
window, F audio features, N context tokens, D context width.
"""

import numpy as np

SAMPLE_RATE = 16_000
"""Hz of the audio that features are computed from (DeepSpeech contract). The output's own audio is never resampled."""

FEATURE_RATE = 50
"""Hz of acoustic feature rows; 25 fps video has exactly two rows a frame."""

WINDOW_ROWS = 16
"""S: rows in one frame's audio window, 320 ms (paper 3.2; AD-NeRF)."""

AUDIO_NEIGHBOURS = 8
"""Windows that the temporal attention filter sees: frames k-4 .. k+3 at 25 fps (the release; AD-NeRF)."""

NUM_LANDMARKS = 68
"""P: iBUG-68 points."""

JAW = slice(0, 17)
EYE_RIGHT = slice(36, 42)
"""The subject's right eye: the left one in the picture."""
EYE_LEFT = slice(42, 48)
NOSE_BASE = slice(31, 36)
MOUTH = slice(48, 68)
LIP_INNER_TOP, LIP_INNER_BOTTOM = 62, 66
LIP_INNER_CORNERS = (60, 64)
MOUTH_CORNERS = (48, 54)

CONDITION_POINTS = np.r_[0:4, 13:48]
"""The 39 points that may condition the model: no mouth and no chin, so that nothing tells how far the mouth is open
(the release, ldm/data: rows 0-3 and 13-47)."""
