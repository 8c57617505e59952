"""difftalk infer --audio A --ref R -o OUT"""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.errors import UsageError
from stages.runtime import Report, Runtime

STAGE = "stages.infer"
RUNTIME = ("device", "dtype", "compile", "threads", "workers", "ray", "shard", "force", "dry_run")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    audio: Annotated[Path | None, typer.Option("--audio", "-a", help="What is said: any file with sound.", show_default=False)] = None,
    ref: Annotated[Path | None, typer.Option(
        "--ref", "-r", help="Who says it: a video, a photo, or a clip of a clips artifact (WORK/clips/ID).", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(
        "--out", "-o", help="The video (.mp4 .m4v .mov .mkv), or a folder for frames.", show_default=False)] = None,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="A denoiser artifact (difftalk train); else the bundled one.")] = None,
    batch: Annotated[str, typer.Option(
        help="Frames at a time (a number; changes speed, not frames), or a table of many jobs: tab-separated with a header, columns "
        "audio, ref, out and any setting, paths from the table's folder.")] = "8",
    preview: Annotated[bool, typer.Option("--preview", help="One frame only: source and result side by side, as OUT.png.")] = False,
) -> Report:  # fmt: skip
    table = None if batch.isdigit() else Path(batch)
    if table is None:
        config = replace(config, batch=int(batch))
    elif audio or ref or out or preview:
        raise UsageError("--batch TABLE: names audio, ref and out itself; leave --audio, --ref, --out and --preview away")
    if table:
        return stage.run_list(config, table, model, runtime)
    if runtime.elsewhere or runtime.shard:
        raise UsageError("--workers, --ray and --shard share out the jobs of a table: give --batch TABLE with them")
    missing = [name for name, value in (("--audio", audio), ("--ref", ref), ("--out", out)) if value is None]
    if missing:
        raise UsageError(f"missing {', '.join(missing)}; give --audio, --ref and --out, or --batch TABLE for many jobs")
    return stage.run(config, stage.Inputs(audio, ref, model), out, runtime, preview=preview)
