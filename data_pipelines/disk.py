"""What a power cut must not undo."""

from __future__ import annotations

import os
from pathlib import Path


def reach_the_disk(*paths: Path) -> None:
    """Wait until files, and the names in folders, are on the disk and not in a cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
