"""Reading an artifact: complete and of the right kind, or an error that names the command which makes it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import ArtifactError

SCHEMA = 1

MAKERS = {
    "acoustic": "difftalk train-speech {parent} --out {root}",
    "clips": "difftalk preprocess VIDEOS --out {root}",
    "features": "difftalk extract-audio {parent}",
    "vae": "difftalk train-vae {parent}",
    "latents": "difftalk train {parent}",
    "denoiser": "difftalk train {parent}",
    "frames": "difftalk infer --audio SPEECH --ref PERSON -o {root}",
    "scores": "difftalk evaluate GENERATED TRUTH --out {root}",
}
"""Kind -> the command that makes it."""

ELSEWHERE = {"root": "DIR", "parent": "WORK"}
"""Names for that command where the given path is taken by something else."""

UNITS = {"features": ".", "latents": "."}
"""Where the units lie below the root, where that is not `clips/`: features/<id>/audio.npy."""


@dataclass(frozen=True)
class Clip:
    """One committed unit of an artifact."""

    id: str
    path: Path
    facts: dict[str, Any]
    digest: str
    key: dict[str, Any]

    def array(self, name: str) -> np.ndarray:
        """The array file `name`, memory-mapped read-only."""
        try:
            return np.load(self.path / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(
                f"clip {self.id}: {self.path / name} cannot be read ({error}); rerun the command that made it"
            ) from error


@dataclass(frozen=True)
class Artifact:
    """A complete artifact directory."""

    root: Path
    manifest: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    @property
    def digest(self) -> str:
        """Of the content; what downstream fingerprints use."""
        return self.manifest["digest"]

    @cached_property
    def clips(self) -> dict[str, Clip]:
        """Committed clips by id, sorted. Raises ArtifactError when one that the manifest lists is gone."""
        folder = units_folder(self.root, self.manifest["kind"])
        return {id: read_clip(folder / id) for id in sorted(self.manifest["clips"]["ok"])}


def units_folder(root: Path, kind: str) -> Path:
    return root / UNITS.get(kind, "clips")


def read_clip(path: Path) -> Clip:
    """Raises ArtifactError when the clip is absent or not committed."""
    try:
        record = json.loads((path / "clip.json").read_text(encoding="utf-8"))
        return Clip(record["id"], path, record["facts"], record["digest"], record["key"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"clip {path.name}: {path} is not committed ({error}); rerun the command that makes it") from error


def read_artifact(root: Path, kind: str) -> Artifact:
    """Open the artifact at `root`. Raises ArtifactError when it is absent, incomplete, newer, or of another kind."""
    root = Path(root)
    how = MAKERS[kind].format(root=shlex.quote(str(root)), parent=shlex.quote(str(root.parent)))
    anew = MAKERS[kind].format(**ELSEWHERE)
    if root.is_file():
        raise ArtifactError(f"{root} is a file, not the folder of a {kind} artifact; `{anew}` makes one")
    if not root.is_dir():
        raise ArtifactError(f"no {kind} artifact at {root}: make it with `{how}`")
    try:
        manifest = json.loads((root / "artifact.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{root} has no artifact.json: it is not a {kind} artifact, or the run that makes it has not ended; run `{how}`"
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{root / 'artifact.json'} cannot be read ({error}); run `{how}` again") from error
    if not isinstance(manifest, dict) or not {"kind", "schema", "config", "clips", "digest"} <= manifest.keys():
        raise ArtifactError(f"{root / 'artifact.json'} is not an artifact's manifest; run `{how}` again")
    if manifest["kind"] != kind:
        raise ArtifactError(f"{root} is a {manifest['kind']} artifact, not {kind}; {kind} is made by `{anew}`")
    if manifest["schema"] != SCHEMA:
        raise ArtifactError(f"{root} has schema {manifest['schema']}, this version reads {SCHEMA}; run `{how}` again with it")
    return Artifact(root, manifest)
