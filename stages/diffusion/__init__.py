"""The diffusion process: schedule, loss, samplers. Pure functions of tensors; no files, no networks of its own."""
