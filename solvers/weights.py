"""Weights of preconditioners on disk: a folder with `weights.safetensors` and `weights.json`. Loading executes nothing.

The JSON says which kind and settings, how the weights came about, and their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

WEIGHTS, DESCRIPTION = "weights.safetensors", "weights.json"
SHIPPED = Path(__file__).parent / "shipped"
LARGEST = 64_000_000  # bytes; the published networks have 0.6 MB
KEYS = {"kind", "settings", "training", "sha256"}


class WeightsError(ValueError):
    """Weights that are not there, not whole, or of another kind."""


def save_weights(
    folder: str | Path, kind: str, settings: dict[str, Any], weights: dict[str, np.ndarray], training: dict[str, Any]
) -> None:
    """Write weights, replacing what is there.

    Parameters
    ----------
    folder
        Made if it does not exist.
    kind
        Of the preconditioner.
    settings
        What builds the same network again; plain values.
    weights
        Finite arrays by name.
    training
        How they came about; plain values.

    Raises
    ------
    WeightsError
        If a weight is not finite.
    """
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise WeightsError(f"weight {name} is not finite: the training diverged; nothing was written to {folder}.")
    data = save({name: np.ascontiguousarray(value) for name, value in weights.items()})
    description = {"kind": kind, "settings": settings, "training": training, "sha256": hashlib.sha256(data).hexdigest()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((WEIGHTS, data), (DESCRIPTION, json.dumps(description, indent=2, allow_nan=False).encode())):
        (folder / f"{name}.partial").write_bytes(content)
    for name in (WEIGHTS, DESCRIPTION):
        os.replace(folder / f"{name}.partial", folder / name)


def load_weights(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    """Read settings, weights, and how these came about.

    Raises
    ------
    WeightsError
        If a file is missing, too large, damaged, changed, or of another kind.
    """
    folder = Path(folder)
    try:
        if (folder / WEIGHTS).stat().st_size > LARGEST:
            raise WeightsError(f"{folder / WEIGHTS} has over {LARGEST} bytes: these are no weights of a preconditioner.")
        text, data = (folder / DESCRIPTION).read_text(), (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{folder} cannot be read ({error.strerror}): it must hold {WEIGHTS} and {DESCRIPTION}, as python -m solvers.train "
            "writes them."
        ) from error
    try:
        description, weights = json.loads(text), load(data)
    except (ValueError, SafetensorError) as error:
        raise WeightsError(f"weights in {folder} are damaged ({error}). Copy them again.") from error
    if not isinstance(description, dict) or set(description) != KEYS:
        raise WeightsError(f"{folder / DESCRIPTION} must be an object of the keys {sorted(KEYS)}. Train the weights again.")
    if description["kind"] != kind:
        raise WeightsError(f"weights in {folder} are of kind {description['kind']!r}; wanted {kind!r}.")
    if hashlib.sha256(data).hexdigest() != description["sha256"]:
        raise WeightsError(
            f"weights in {folder} are not those that {DESCRIPTION} describes (SHA-256 differs). Copy both again."
        )
    return description["settings"], weights, description["training"]
