"""Reading a still picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.errors import InputError

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def is_photo(path: Path) -> bool:
    return Path(path).suffix.lower() in PHOTO_SUFFIXES


def read_photo(path: Path) -> np.ndarray:
    """(H, W, 3) u8 RGB, turned as its EXIF says; the first picture of an animation, transparent parts over white.

    Sixteen bits a channel become eight. Raises InputError when it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith(("I", "F")):
                return _deep_grey(np.asarray(upright))
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            return np.array(upright.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # Pillow's plugins raise SyntaxError, struct.error, EOFError, DecompressionBombError ...
        raise InputError(f"{path}: not a picture that can be read ({error})") from error


def _deep_grey(grey: np.ndarray) -> np.ndarray:
    """(H, W) grey of more than eight bits -> (H, W, 3) u8. Pillow itself would cut everything above 255 to white."""
    top = 255.0 if grey.max() <= 255 and grey.dtype != np.uint16 else 65535.0
    if grey.dtype.kind == "f" and grey.max() <= 1:
        top = 1.0
    scaled = np.clip(np.round(grey.astype(np.float64) * (255.0 / top)), 0, 255).astype(np.uint8)
    return np.repeat(scaled[..., None], 3, axis=2)
