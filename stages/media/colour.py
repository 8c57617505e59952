"""Colour tags: reading them from ffmpeg's words, and the names to convert and to write by."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stages.media import ffmpeg

PRIMARIES = frozenset("bt709 bt470m bt470bg smpte170m smpte240m film bt2020 smpte428 smpte431 smpte432 jedec-p22".split())
TRANSFERS = frozenset(
    "bt709 bt470m bt470bg smpte170m smpte240m linear log100 log316 iec61966-2-4 bt1361e iec61966-2-1 bt2020-10 bt2020-12 "
    "smpte2084 smpte428 arib-std-b67".split()
)
MATRICES = {"bt709": "bt709", "fcc": "fcc", "smpte240m": "smpte240m", "bt2020nc": "bt2020", "bt2020c": "bt2020"}
"""Tag -> the name that the scaler has for it; bt470bg and smpte170m are its bt601."""
BT601 = ("bt470bg", "smpte170m")
ZIMG = {"": "470bg", "bt470bg": "470bg", "smpte170m": "170m", "bt709": "709", "bt2020nc": "2020_ncl"}
"""Tag -> zscale's name."""
SCALE_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int"
OPTION = {"bt470m": "gamma22", "bt470bg": "gamma28"}
"""Transfers that ffmpeg prints under one name and took under another for long."""


@dataclass(frozen=True)
class Colour:
    """Tags as ffmpeg prints them; empty where the file has none."""

    matrix: str = ""
    primaries: str = ""
    transfer: str = ""
    full_range: bool = False


def parse(tags: list[str], pixel_format: str) -> Colour:
    """From `tv, bt709, progressive` or `pc, bt470bg/unknown/bt709, top first`, split at the commas."""
    known = PRIMARIES | TRANSFERS | set(MATRICES) | {"gbr"}
    named = next((t.split("/") for t in tags if t.count("/") == 2 or t in known), ["", "", ""])
    matrix, primaries, transfer = ("" if c in ("unknown", "unspecified", "reserved") else c for c in (named * 3)[:3])
    return Colour(matrix, primaries, transfer, "pc" in tags or bool(re.match(r"yuvj\d", pixel_format)))


def scaler(matrix: str) -> str:
    """The scaler's name of a matrix tag. A file without one is read as BT.601, and written back the same way."""
    return MATRICES.get(matrix, "bt601")


def encode_as(like: Colour | None) -> Colour:
    """The tags for a YUV encode of frames that came from `like` (None: a still picture, or frames of our own)."""
    if like is None:
        return Colour("bt709", "bt709", "bt709")
    matrix = like.matrix
    if matrix == "gbr":  # an RGB source becomes ordinary YUV here
        return Colour("bt709", like.primaries, like.transfer)
    if matrix and matrix not in MATRICES and matrix not in BT601:
        matrix = ""  # ictcp, ycgco and the like: the scaler has none of them, and wrote BT.601
    return Colour(matrix, like.primaries, like.transfer, like.full_range)


def to_rgb(colour: Colour, pixel_format: str, size: tuple[int, int], *, woven: bool) -> str:
    """The filter that turns a source's frames into RGB of `size`; the other way round from `to_yuv`, without a shift."""
    if name := _exact(colour, woven):
        if pixel_format.startswith("yuv"):
            return f"zscale=w={size[0]}:h={size[1]}:matrixin={name}:rangein=full:matrix=gbr:range=full:filter=bicubic,format=gbrp"
    fields = ":interl=1" if woven else ""
    return f"scale={size[0]}:{size[1]}:in_color_matrix={scaler(colour.matrix)}{fields}:{SCALE_FLAGS}"


def to_yuv(colour: Colour, pixel_format: str, *, woven: bool) -> str:
    """The filter that turns RGB into YUV of these tags; `woven` frames hold two fields whose colours must not mix."""
    if name := _exact(colour, woven):
        return f"format=gbrp,zscale=matrixin=gbr:rangein=full:matrix={name}:range=full:filter=bicubic,format={pixel_format}"
    fields = ":interl=1" if woven else ""
    target = f"out_color_matrix={scaler(colour.matrix)}:out_range={'pc' if colour.full_range else 'tv'}"
    return f"scale={target}{fields}:{SCALE_FLAGS},format={pixel_format}"


def _exact(colour: Colour, woven: bool) -> str:
    """zscale's name of the matrix where it must be used: full range.

    Measured on 4.2 to 9.0: there and back (rgb24, yuv420p), the usual scaler is exact in limited range, but shifts red and
    blue by 0.8 levels in full range at every pass; zscale is exact in both. Not every ffmpeg has it.
    """
    return ZIMG.get(colour.matrix, "") if colour.full_range and not woven and ffmpeg.has_filter("zscale") else ""


def options(colour: Colour, *, rgb: bool = False) -> tuple[list[str], str]:
    """Encoder options and a filter that say the same: version 7 listens to the first, later ones to the second.

    `rgb`: an RGB encode, which has neither matrix nor range to tell.
    """
    chosen, marks = [], []
    for option, mark, value, known in (
        ("-colorspace", "colorspace", colour.matrix, {*MATRICES, *BT601}),
        ("-color_primaries", "color_primaries", colour.primaries, PRIMARIES),
        ("-color_trc", "color_trc", colour.transfer, TRANSFERS),
    ):
        if rgb and mark == "colorspace":
            continue
        if value in known:
            chosen += [option, OPTION.get(value, value) if option == "-color_trc" else value]
            marks.append(f"{mark}={value}")
        else:
            marks.append(f"{mark}=unknown")
    if not rgb:
        levels = "pc" if colour.full_range else "tv"
        chosen += ["-color_range", levels]
        marks.append(f"range={levels}")
    return chosen, "setparams=" + ":".join(marks)
