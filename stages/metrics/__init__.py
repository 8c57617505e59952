"""How good a video is, as figures: each metric is one pure function or module over arrays, and none fetches anything."""
