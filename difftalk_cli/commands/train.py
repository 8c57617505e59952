"""difftalk train WORK"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "stages.train"
RUNTIME = (
    "device", "workers", "ray", "shard", "merge", "force", "dry_run", "max_minutes", "accumulate", "gradient_checkpointing", "compile",
)  # fmt: skip


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    work: Annotated[Path, typer.Argument(help="A clips artifact (difftalk preprocess).", show_default=False)],
    features: Annotated[Path | None, typer.Option(help="A features artifact; by default WORK/features.")] = None,
    vae: Annotated[Path | None, typer.Option(help="A vae artifact; by default that of --init, else WORK/vae-<resolution>.")] = None,
    init: Annotated[Path | None, typer.Option(help="A denoiser artifact whose weights to start from: fine-tuning.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The denoiser artifact; by default WORK/denoiser-<resolution>.")] = None,
    latents_only: Annotated[bool, typer.Option(
        "--latents-only", help="Make the latent cache of these settings and stop: what --workers, --ray and --shard share out.")] = False,
) -> Report:  # fmt: skip
    return stage.run(config, stage.Inputs(work, features, vae, init), out, runtime, latents_only=latents_only)
