"""difftalk doctor"""

import importlib.metadata
import os
import platform
import shutil

import typer

import stages
from difftalk_cli.commands.weights import describe

app = typer.Typer(add_completion=False, rich_markup_mode=None)

PACKAGES = (
    "torch", "diffusers", "accelerate", "onnxruntime", "onnxruntime-gpu", "dlib-bin", "face-recognition-models", "face-alignment",
    "opencv-python", "numpy", "imageio-ffmpeg", "typer", "ray",
)  # fmt: skip


@app.command()
def doctor() -> None:
    """Versions, ffmpeg, devices, disk and weights, in lines to paste into a bug report."""
    from stages import weights
    from stages.media.ffmpeg import ffmpeg_binary, run

    print(f"difftalk {stages.__version__}, Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores")
    for name in PACKAGES:
        try:
            print(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} absent")
    text, _, _ = run(["-version"])
    print(f"ffmpeg: {ffmpeg_binary()}: {text.decode(errors='replace').splitlines()[0]}")
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"CUDA: {', '.join(names) or 'none'}; torch threads: {torch.get_num_threads()}")
    import onnxruntime

    print(f"ONNX Runtime providers: {', '.join(onnxruntime.get_available_providers())}")
    print(f"free disk here: {shutil.disk_usage('.').free / 1e9:.1f} GB")
    for row in weights.status():
        print(describe(row))
