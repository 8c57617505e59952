"""Third-party weights for tests: fetched once, or a skip that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import weights
from stages.errors import WeightsError


def fetched(name: str) -> Path:
    try:
        return weights.locate(name)
    except WeightsError as error:
        pytest.skip(f"no weights: {error}")
