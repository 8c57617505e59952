"""A list for `difftalk train-speech --recordings`: Asterisk's prompts in five languages, and recordings of one's own.

    apt-get install asterisk-core-sounds-{en,es,fr,it,ru}-g722
    python -m tests.bench.prompts_list FOLDER_OF_RECORDINGS > recordings.tsv

The prompts (CC-BY-SA-3.0) are five people's real speech; the English ones come with their words. Every 20th is kept for
testing. Recordings of one's own are left to be transcribed.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

SOUNDS = Path("/usr/share/asterisk/sounds")
WORDS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
NOT_SPEECH = ("silence", "beep", "tone", "monkeys")


def words() -> dict[str, str]:
    """What each English prompt says, by its path without the ending."""
    found = {}
    with gzip.open(WORDS, "rt", errors="ignore") as f:
        for line in f:
            if ":" in line and not line.startswith(";"):
                name, text = line.split(":", 1)
                plain = " ".join(re.sub(r"\[.*?\]|<.*?>", "", text).split())
                found[name.strip()] = "" if re.search(r"[\d(\[]", plain) else plain
    return found


def lines(folders: list[Path]) -> list[str]:
    """The list's lines, in a fixed order."""
    found = [f"{path}\t{path.stem}\t?" for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    for language in ("en", "es", "fr", "it", "ru"):
        says = words() if language == "en" else {}
        root = next(SOUNDS.glob(f"{language}_*_*"))
        for i, path in enumerate(sorted(root.rglob("*.g722"))):
            if "silence" in path.parts or any(word in path.name for word in NOT_SPEECH[1:]):
                continue
            text = says.get(str(path.relative_to(root).with_suffix("")), "") or "-"
            found.append(f"{path}\tasterisk-{language}\t{text}" + ("\ttest" if i % 20 == 7 else ""))
    return found


if __name__ == "__main__":
    print("\n".join(lines([Path(a) for a in sys.argv[1:]])))
