"""Sound to what the model hears: rows of acoustic features at 50 Hz, and the 16-row window of every video frame."""

from stages.speech.encoder import ENCODERS, Encoder, open_encoder
from stages.speech.windows import frame_windows, neighbours, stored_neighbours, windows_at

__all__ = ["ENCODERS", "Encoder", "frame_windows", "neighbours", "open_encoder", "stored_neighbours", "windows_at"]
