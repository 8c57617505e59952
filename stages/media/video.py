"""Frames in and out, as streams: memory does not grow with the length of a video."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from stages.artifacts.files import explain_os_errors, make_folder
from stages.errors import InputError
from stages.media import ffmpeg
from stages.media.probe import MediaInfo, VideoInfo, probe

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
SCALE_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int"
MP4_AUDIO = {"aac", "mp3", "ac3", "eac3", "alac"}
"""Codecs that players accept inside mp4; others are encoded to AAC at their own rate and channels."""
COPY_AUDIO = {".mp4": MP4_AUDIO, ".m4v": MP4_AUDIO, ".mov": MP4_AUDIO | {"pcm_s16le", "pcm_s24le"}, ".webm": {"opus", "vorbis"}}
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")


def is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES


def read_photo(path: Path) -> np.ndarray:
    """(H, W, 3) u8 RGB, turned as its EXIF says. Raises InputError when it cannot be read."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a picture that can be read ({error})") from error


class VideoReader:
    """Iterate a video's frames, (H, W, 3) u8 RGB, turned upright, at its constant rate.

    Frame i is what is shown at i/fps seconds after the start of the file (of sound and picture together), so that
    frames and `read_audio` share one clock. `start` skips that many frames exactly (by decoding), `frames` limits.
    After the loop `frames_read` and `warning` (a damaged tail) tell how it went.
    Raises InputError when there is no video or not one frame can be decoded.
    """

    def __init__(self, path: Path, *, info: MediaInfo | None = None, start_seconds: float = 0.0, frames: int | None = None):
        self.path = Path(path)
        self.media = info or probe(self.path)
        if self.media.video is None:
            raise InputError(f"{self.path}: no video stream")
        self.info: VideoInfo = self.media.video
        self.start_seconds, self.frames = start_seconds, frames
        self.frames_read, self.warning = 0, ""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.info.height, self.info.width, 3

    def __iter__(self) -> Iterator[np.ndarray]:
        self.frames_read, self.warning = 0, ""
        size = int(np.prod(self.shape))
        with ffmpeg.pipe(self._command(), stdout=True) as (process, errors):
            while self.frames is None or self.frames_read < self.frames:
                data = process.stdout.read(size)
                if len(data) < size:
                    process.wait()
                    text = ffmpeg.read_errors(errors)
                    if self.frames_read == 0:
                        raise InputError(
                            f"{self.path}: no frame can be decoded: {ffmpeg.last_line(text)}", detail=ffmpeg.tail(text)
                        )
                    if process.returncode or text.strip():
                        self.warning = ffmpeg.last_line(text)
                    return
                self.frames_read += 1
                yield np.frombuffer(data, np.uint8).reshape(self.shape)

    def _command(self) -> list[str]:
        # Tags decide the matrix; a file without tags is read as BT.601, and written back the same way.
        matrix = f"in_color_matrix={_sws_matrix(self.info.matrix)}:"
        # -ss before -i is exact here because frames are decoded, and fast because it starts at a key frame.
        seek = ["-ss", f"{self.start_seconds:.6f}"] if self.start_seconds else []
        return [
            "-v", "error", *seek, "-i", ffmpeg.arg(self.path), "-map", "0:V:0", "-an", "-sn",
            "-vf", f"scale={self.info.width}:{self.info.height}:{matrix}{SCALE_FLAGS}",
            "-fps_mode", "cfr", "-r", str(self.info.fps), "-f", "rawvideo", "-pix_fmt", "rgb24", "-",
        ]  # fmt: skip


def _sws_matrix(tag: str) -> str:
    known = {"bt709": "bt709", "bt2020nc": "bt2020", "bt2020c": "bt2020", "smpte240m": "smpte240m", "fcc": "fcc"}
    return known.get(tag, "bt601")


class VideoWriter:
    """Write frames (H, W, 3) u8 RGB to a video with one encode; a context manager whose file is whole only on exit.

    The caller gives a temporary path (see artifacts.write_atomic): a block that fails leaves nothing to be used.
    `like` gives the colour tags and pixel shape of the source. `audio` is copied without re-encoding where the
    container takes its codec, else encoded to AAC at its own sample rate and channels; never resampled.
    `lossless` keeps every RGB value exactly (H.264 4:4:4 RGB); `key_frames` is then the distance between them. Odd sizes are kept, as 4:4:4.
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
        audio_codec: str = "",
        lossless: bool = False,
        crf: int = 16,
        preset: str = "medium",
        key_frames: int | None = None,
        metadata: dict[str, str] | None = None,
    ):
        self.path, self.fps, self.size, self.like = Path(path), fps, size, like
        self.audio, self.audio_codec, self.lossless = audio, audio_codec, lossless
        self.crf, self.preset, self.metadata = crf, preset, metadata or {}
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
            self._process.wait()
            self._fail()
        self.frames_written += 1

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                try:
                    self._process.stdin.close()
                except BrokenPipeError:
                    pass  # the return code below says why
                if self._process.wait():
                    self._fail()
        finally:
            self._pipe.__exit__(kind, error, trace)

    def _fail(self) -> None:
        text = ffmpeg.read_errors(self._errors)
        if "No space left" in text:
            with explain_os_errors(self.path):
                raise OSError(28, "No space left on device")
        raise InputError(f"ffmpeg cannot write {self.path}: {ffmpeg.last_line(text)}", detail=ffmpeg.tail(text))

    def _command(self) -> list[str]:
        width, height = self.size
        command = ["-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        command += ["-r", str(self.fps), "-i", "-"]
        if self.audio:
            command += ["-i", ffmpeg.arg(self.audio), "-map", "0:v:0", "-map", "1:a:0", *self._audio_codec()]
        command += self._video_codec()
        for key, value in self.metadata.items():
            command += ["-metadata", f"{key}={value}"]
        if self.path.suffix.lower() in (".mp4", ".m4v", ".mov"):
            command += ["-movflags", "+faststart+use_metadata_tags"]
        return [*command, ffmpeg.arg(self.path)]

    def _audio_codec(self) -> list[str]:
        accepted = COPY_AUDIO.get(self.path.suffix.lower())
        if accepted is None or self.audio_codec in accepted:  # mkv takes anything
            return ["-c:a", "copy"]
        return ["-c:a", "aac", "-b:a", "256k"]

    def _video_codec(self) -> list[str]:
        shape = ["-aspect", _display_aspect(self.size, self.like)] if self.like and self.like.sample_aspect != "1:1" else []
        if self.lossless:
            every = ["-g", str(self.key_frames)] if self.key_frames else []
            return [*shape, "-c:v", "libx264rgb", "-qp", "0", "-preset", self.preset, "-pix_fmt", "rgb24", *every]
        rgb = bool(self.like and self.like.matrix == "gbr")  # a lossless source: no tag for what becomes YUV here
        matrix = self.like.matrix if self.like and not rgb else "bt709"
        full = bool(self.like and self.like.full_range and not rgb)
        pixel = "yuv444p" if self.size[0] % 2 or self.size[1] % 2 else "yuv420p"
        convert = f"scale=out_color_matrix={_sws_matrix(matrix)}:out_range={'pc' if full else 'tv'}:{SCALE_FLAGS},format={pixel}"
        tags = []
        for option, value in (
            ("-colorspace", matrix),
            ("-color_primaries", self.like.primaries if self.like else "bt709"),
            ("-color_trc", self.like.transfer if self.like else "bt709"),
        ):
            tags += [option, value] if value else []
        tags += ["-color_range", "pc" if full else "tv"]
        return [*shape, "-vf", convert, "-c:v", "libx264", "-preset", self.preset, "-crf", str(self.crf), *tags]


def _display_aspect(size: tuple[int, int], like: VideoInfo | None) -> str:
    w, h = (int(n) for n in like.sample_aspect.split(":")) if like else (1, 1)
    shape = Fraction(size[0] * w, size[1] * h)
    return f"{shape.numerator}:{shape.denominator}"
