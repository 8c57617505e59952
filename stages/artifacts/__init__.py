"""The on-disk contract that every stage reads and writes: see store.py (writing) and read.py (reading)."""

from stages.artifacts.files import make_folder, new_array, refuse_bad_place, remove_tree, write_atomic, write_json
from stages.artifacts.fingerprint import DigestCache, Input, Weight, config_dict, digest_json, explain, file_digest
from stages.artifacts.lock import lock
from stages.artifacts.parallel import Call, run_calls, run_units
from stages.artifacts.read import Artifact, Clip, read_artifact
from stages.artifacts.store import Store
from stages.artifacts.unit import Draft, Unit, commit

__all__ = [
    "Artifact", "Call", "Clip", "DigestCache", "Draft", "Input", "Store", "Unit", "Weight", "commit", "config_dict",
    "digest_json", "explain", "file_digest", "lock", "make_folder", "new_array", "read_artifact", "refuse_bad_place",
    "remove_tree", "run_calls", "run_units", "write_atomic", "write_json",
]  # fmt: skip
