"""report.html: one file that needs nothing else, made from scores.json and the clips' folders."""
