"""The one ffmpeg door: probing, streaming frames in and out, audio."""

from stages.media.audio import audio_seconds, read_audio, write_wav
from stages.media.ffmpeg import ffmpeg_binary
from stages.media.probe import AudioInfo, MediaInfo, VideoInfo, probe
from stages.media.video import VideoReader, VideoWriter, is_photo, read_photo

__all__ = [
    "AudioInfo", "MediaInfo", "VideoInfo", "VideoReader", "VideoWriter", "audio_seconds", "ffmpeg_binary", "is_photo",
    "probe", "read_audio", "read_photo", "write_wav",
]  # fmt: skip
