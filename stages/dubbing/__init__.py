"""Dubbing: a reference and speech become frames. Reading, tracking, planning, drawing and writing; used by stages.infer."""
