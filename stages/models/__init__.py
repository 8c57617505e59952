"""Networks only: no files, no media. First stage, condition encoders, denoiser, and their presets."""
