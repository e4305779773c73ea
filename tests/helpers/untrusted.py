"""Files that try to execute something, or to reach what they should not."""

from __future__ import annotations

import os
import pickle
from pathlib import Path


class _Make:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


def pickle_that_makes(marker: Path) -> bytes:
    """A pickle; whoever unpickles it makes the folder `marker`."""
    return pickle.dumps(_Make(marker))
