"""Frames in and out, as streams: memory does not grow with the length of a video."""

from __future__ import annotations

import errno
import math
import os
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import numpy as np

from stages.artifacts.files import explain_os_errors, make_folder
from stages.errors import InputError
from stages.media import colour, ffmpeg
from stages.media.colour import Colour
from stages.media.photo import PHOTO_SUFFIXES, is_photo, read_photo
from stages.media.probe import MediaInfo, VideoInfo, keep_clock, probe

__all__ = ["PHOTO_SUFFIXES", "VIDEO_SUFFIXES", "VideoReader", "VideoWriter", "is_photo", "read_photo"]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
"""What VideoWriter writes."""
MP4_AUDIO = {"aac", "mp3", "ac3", "eac3", "alac"}
"""Codecs that players accept inside mp4; others are encoded to AAC at their own rate and channels."""
COPY_AUDIO = {".mp4": MP4_AUDIO, ".m4v": MP4_AUDIO, ".mov": MP4_AUDIO | {"pcm_s16le", "pcm_s24le"}}
INDEXED = ("mov", "matroska")
"""Containers whose index finds a key frame by time. In others (mpg, ts, avi) a jump lands where it likes."""
RUN_UP = 0.5
"""Seconds decoded before the first frame or sample that is wanted, so that rounded times lose nothing."""


def seek(media: MediaInfo, seconds: float) -> list[str]:
    """Input options to start reading at `seconds`, a moment before what is wanted; none where that is not reliable."""
    return ["-ss", f"{seconds:.6f}"] if seconds > 0 and media.container.startswith(INDEXED) else []


def sound_options(audio: Path, out: Path) -> tuple[list[str], list[str]]:
    """Options that put the sound of `audio` (the second input) beside the pictures of the first, and those after `out`.

    Copied where the container takes its codec, else encoded to AAC at its own sample rate and channels; never resampled.
    """
    media = probe(audio)
    index, codec = (media.audio.index, media.audio.codec) if media.audio else (0, "")
    accepted = COPY_AUDIO.get(out.suffix.lower())
    copied = accepted is None or codec in accepted  # mkv takes anything
    early = ["-itsoffset", f"{-media.video.lead:.6f}"] if media.video and media.video.lead else []
    how = ["-c:a", "copy"] if copied else ["-c:a", "aac", "-b:a", "256k"]
    options = [*early, *ffmpeg.source(audio), "-map", "0:v:0", "-map", f"1:a:{index}", *how]
    return options, keep_clock("1:V:0") if media.video else []


class VideoReader:
    """Iterate a video's frames, (H, W, 3) u8 RGB, turned upright, at its constant rate.

    Frame i is what is shown at start_seconds + i/fps after the start of the file (of sound and picture together), so
    that frames and `read_audio` share one clock; times are rounded to the nearest 1/fps. A picture that starts late is
    preceded by its first frame. `start_seconds` is exact in every container; `frames` limits how many are read.
    After the loop `frames_read` and `warning` (a damaged tail) tell how it went. Frames are read-only arrays.
    Raises InputError when there is no video or not one frame can be decoded.
    """

    def __init__(self, path: Path, *, info: MediaInfo | None = None, start_seconds: float = 0.0, frames: int | None = None):
        self.path = Path(path)
        self.media = info or probe(self.path)
        if self.media.video is None:
            raise InputError(f"{self.path}: no video stream; give a file with pictures")
        self.info: VideoInfo = self.media.video
        self.start_seconds, self.frames = start_seconds, frames
        self.frames_read, self.warning = 0, ""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.info.height, self.info.width, 3

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self.info.width, self.info.height

    @property
    def fps(self) -> Fraction:
        return self.info.fps

    @property
    def seconds(self) -> float | None:
        return self.media.seconds

    @property
    def variable(self) -> bool:
        return self.info.variable

    def __iter__(self) -> Iterator[np.ndarray]:
        self.frames_read, self.warning = 0, ""
        size = int(np.prod(self.shape))
        with ffmpeg.pipe(self._command(), stdout=True) as (process, errors):
            while self.frames is None or self.frames_read < self.frames:
                data = process.stdout.read(size)
                if len(data) < size:
                    self._judge(process.wait(), ffmpeg.read_errors(errors))
                    return
                self.frames_read += 1
                yield np.frombuffer(data, np.uint8).reshape(self.shape)

    def _judge(self, code: int, text: str) -> None:
        """What the end of the frames means."""
        if self.frames_read == 0:
            past = f" at or after {self.start_seconds:.3f} s" if self.start_seconds else ""
            raise InputError(
                f"{self.path}: no frame{past} can be decoded: {ffmpeg.last_line(text, code)}", detail=ffmpeg.tail(text)
            )
        if code or text.strip():
            self.warning = ffmpeg.last_line(text, code)

    def _command(self) -> list[str]:
        info = self.info
        beside = keep_clock(f"0:a:{self.media.audio.index}") if self.media.audio else []
        # Tags decide the matrix; a file without tags is read as BT.601, and written back the same way.
        tags = Colour(info.matrix, info.primaries, info.transfer, info.full_range)
        convert = colour.to_rgb(tags, info.pixel_format, (info.width, info.height), woven=bool(info.interlaced))
        # On a grid of 1/fps from the start of the file, whether decoding starts there or at a key frame before `first`.
        first = math.floor(self.start_seconds * info.fps + Fraction(1, 2))
        jump = seek(self.media, float(max(0, first - math.ceil(RUN_UP * info.fps)) / info.fps))
        skip = first - math.floor(Fraction(jump[1] if jump else 0) * info.fps + Fraction(1, 2))
        end = "pass" if info.variable else "round"  # an uneven file may end with a frame shorter than 1/fps
        grid = f"setpts=PTS-{info.lead:.6f}/TB,fps={info.fps}:start_time=0:round=near:eof_action={end}"
        filters = f"{convert},{grid},trim=start_pts={skip},setpts=PTS-{skip}"
        limit = ["-frames:v", str(self.frames)] if self.frames is not None else []
        return [
            # One set of filters for a file whose picture changes its size on the way: a new one would lose its place.
            "-v", "error", *jump, "-reinit_filter", "0", *ffmpeg.source(self.path), "-map", "0:V:0", "-an", "-sn",
            "-vf", filters, "-r", str(info.fps), *limit, "-f", "rawvideo", "-pix_fmt", "rgb24", "-", *beside,
        ]  # fmt: skip


class VideoWriter:
    """Write frames (H, W, 3) u8 RGB to a video with one encode; a context manager whose file is whole only on exit.

    The caller gives a temporary path (see artifacts.write_atomic): a block that fails leaves nothing to be used.
    `like` gives the colour tags and pixel shape of the source. `audio` is copied without re-encoding where the
    container takes its codec, else encoded to AAC at its own sample rate and channels; never resampled.
    `lossless` keeps every RGB value exactly (H.264 4:4:4 RGB); `key_frames` is then the distance between them. Odd sizes
    are kept, as 4:4:4.
    Raises InputError when ffmpeg refuses; ArtifactError when the disk does.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: Fraction,
        size: tuple[int, int],
        like: VideoInfo | None = None,
        audio: Path | None = None,
        lossless: bool = False,
        crf: int = 8,
        codec: str = "h264",
        preset: str = "medium",
        key_frames: int | None = None,
        metadata: dict[str, str] | None = None,
    ):
        self.path, self.fps, self.size, self.like = Path(path), fps, size, like
        self.audio, self.lossless = audio, lossless
        self.crf, self.codec, self.preset, self.metadata = crf, codec, preset, metadata or {}
        self.key_frames = key_frames
        self.frames_written = 0

    def __enter__(self) -> VideoWriter:
        make_folder(self.path.parent)
        self._pipe = ffmpeg.pipe(self._command(), stdin=True)
        self._process, self._errors = self._pipe.__enter__()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one frame: (H, W, 3) u8."""
        expected = (self.size[1], self.size[0], 3)
        assert frame.shape == expected and frame.dtype == np.uint8, (frame.shape, frame.dtype, expected)
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self._fail(self._process.wait())
        self.frames_written += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                if not self.frames_written:
                    raise InputError(f"{self.path}: no frame to write")
                try:
                    self._process.stdin.close()
                except BrokenPipeError:
                    pass  # the return code below says why
                if code := self._process.wait():
                    self._fail(code)
        finally:
            self._pipe.__exit__(kind, error, trace)

    def _fail(self, code: int) -> NoReturn:
        text = ffmpeg.read_errors(self._errors)
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            if os.strerror(number) in text or (number == errno.EFBIG and code == -signal.SIGXFSZ):
                with explain_os_errors(self.path):
                    raise OSError(number, os.strerror(number))
        raise InputError(f"ffmpeg cannot write {self.path}: {ffmpeg.last_line(text, code)}", detail=ffmpeg.tail(text))

    def _command(self) -> list[str]:
        width, height = self.size
        command = ["-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        command += ["-r", str(self.fps), "-i", "-"]
        beside: list[str] = []
        if self.audio:
            sound, beside = sound_options(self.audio, self.path)
            command += sound
        command += self._video_codec()
        for key, value in self.metadata.items():
            command += ["-metadata", f"{key}={value}"]
        if self.path.suffix.lower() in (".mp4", ".m4v", ".mov"):
            command += ["-movflags", "+faststart+use_metadata_tags"]
        return [*command, ffmpeg.arg(self.path), *beside]

    def _video_codec(self) -> list[str]:
        like = self.like
        source = Colour(like.matrix, like.primaries, like.transfer, like.full_range) if like else None
        shape = f",setsar={like.sample_aspect.replace(':', '/')}:max=10000" if like else ""
        if self.lossless:
            tags, mark = colour.options(source or Colour(), rgb=True)
            every = ["-g", str(self.key_frames)] if self.key_frames else []
            return ["-vf", mark + shape, "-c:v", "libx264rgb", "-qp", "0", "-preset", self.preset, "-pix_fmt", "rgb24", *every, *tags]
        target = colour.encode_as(source)
        tags, mark = colour.options(target)
        pixel = "yuv444p" if self.size[0] % 2 or self.size[1] % 2 else "yuv420p"
        convert = colour.to_yuv(target, pixel, woven=bool(like and like.interlaced))
        woven: list[str] = []
        if like and like.interlaced:
            field = "tff" if like.interlaced == "top" else "bff"
            mark += f",setfield={field}"
            woven = ["-flags", "+ildct+ilme", "-x264-params", f"{field}=1"]
        filters = f"{convert},{mark}{shape}"
        # hvc1: what Apple's players want to read; they show nothing of hev1
        encoder = ["libx265", "-tag:v", "hvc1", "-x265-params", "log-level=error"] if self.codec == "hevc" else ["libx264", *woven]
        return ["-vf", filters, "-c:v", *encoder, "-preset", self.preset, "-crf", str(self.crf), *tags]
