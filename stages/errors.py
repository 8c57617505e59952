"""Project exceptions. Each says what is wrong, where, and what to do next; the command line maps them to exit codes."""


class DiffTalkError(Exception):
    """Base of everything that a user can mend. `exit_code` is what the command line returns for it."""

    exit_code = 1


class UsageError(DiffTalkError):
    """An option or a combination of options that cannot work."""

    exit_code = 2


class InputError(DiffTalkError):
    """A file that is absent, empty, damaged, or holds nothing that the command can use.

    `detail` carries the last lines of an external program (ffmpeg), kept for failures.jsonl.
    """

    exit_code = 3

    def __init__(self, message: str, *, detail: str = ""):
        super().__init__(message)
        self.detail = detail


class ArtifactError(DiffTalkError):
    """An artifact directory that is missing, incomplete, damaged, of another kind, or being written by somebody else."""

    exit_code = 3


class BusyError(ArtifactError):
    """Somebody else is writing there just now."""


class DiskError(ArtifactError):
    """The output cannot be written: a full or read-only disk, no permission. No clip's fault: it ends the run."""


class WeightsError(DiffTalkError):
    """Weights that are absent or do not match their pinned sha256."""

    exit_code = 3
