"""A checkpoint: a folder with `model.safetensors` and `checkpoint.json`. Loading it executes nothing that is in it.

The JSON holds what the weights do not say: which network, its settings, what it requires, its normalisation as plain
numbers, the span it was trained on, the hash of that data, the version of the code, and the hash of the weights.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from data_pipelines.dates import parse_date
from forecast.forecaster import Forecaster, ForecastError
from forecast.requirements import Requirements

WEIGHTS = "model.safetensors"
DESCRIPTION = "checkpoint.json"
FORMAT_VERSION = 1
LARGEST_HEADER = 100_000_000  # bytes of names and shapes; the limit of safetensors

# Networks that a checkpoint may name, and the module of each. A name that is not here is refused, never imported.
MODELS = {"PuYun": "forecast.puyun", "Simulator": "forecast.wave_simulator"}

Network = TypeVar("Network", bound=type)


class CheckpointError(ForecastError):
    """A checkpoint that is not there, not whole, or not for this code."""


def register_network(network: Network) -> Network:
    """Let checkpoints and trainings name a network of other code; a decorator.

    It holds in a process that has imported that code. A checkpoint imports nothing.

    Raises
    ------
    CheckpointError
        If a network of another module has that name.
    """
    name, module = network.__name__, network.__module__
    if MODELS.setdefault(name, module) != module:
        raise CheckpointError(f"the name {name} is taken by {MODELS[name]}; rename the network of {module}.")
    return network


def find_network(name: str) -> type[Any]:
    """The network of a name.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    if name not in MODELS:
        raise CheckpointError(
            f"network must be one of {sorted(MODELS)}; got {name!r}. Import the code that registers it first "
            "(forecast.checkpoint.register_network)."
        )
    network: type[Any] = getattr(importlib.import_module(MODELS[name]), name)
    return network


@dataclass(frozen=True)
class Description:
    """What `checkpoint.json` says.

    Parameters
    ----------
    format_version
        Layout of the folder; this code reads 1.
    model
        Name of the network, a key of `MODELS`.
    config
        The network's settings.
    requirements
        Fields of `Requirements`.
    statistics
        The network's normalisation, {statistic: {channel: number}}, in physical units. For reading; the network uses the
        values in its weights.
    training_span
        First and last time that weights or statistics have seen, "START/END" in ISO 8601; of waves "sample FIRST/sample LAST".
    data_hash
        SHA-256 of the training data (`data_pipelines.store.data_hash`).
    code_version
        Version of skysolve that wrote it.
    weights_sha256
        SHA-256 of `model.safetensors`.
    notes
        Anything else, for people.
    """

    format_version: int
    model: str
    config: dict[str, Any]
    requirements: dict[str, Any]
    statistics: dict[str, dict[str, float]]
    training_span: str
    data_hash: str
    code_version: str
    weights_sha256: str
    notes: dict[str, Any]


def save_checkpoint(
    folder: str | Path,
    model: Forecaster,
    *,
    training_span: tuple[str, str] | str,
    data_hash: str,
    extra: Mapping[str, Any] | None = None,
) -> Description:
    """Write a model into a folder, replacing a checkpoint that is there.

    Parameters
    ----------
    folder
        Made if it does not exist.
    model
        A network that `MODELS` names.
    training_span
        First and last time of the data that the weights have seen (all of it, pre-training on observations included), as a
        pair or as "START/END".
    data_hash
        Hash of that data.
    extra
        Kept as `notes`; plain values.

    Raises
    ------
    CheckpointError
        If the network is not one of `MODELS`, the span is none, or a weight is not finite.
    """
    name = type(model).__name__
    if name not in MODELS:
        raise CheckpointError(
            f"model must be one of {sorted(MODELS)}; got {name}. Let forecast.checkpoint.register_network know it."
        )
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    for key, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"weight {key} is not finite, so the model cannot forecast; nothing was written to {folder}.")
    data = save_tensors(weights)
    description = Description(
        format_version=FORMAT_VERSION,
        model=name,
        config=model.to_config(),
        requirements=asdict(model.requirements),
        statistics=_statistics(weights, model.requirements.channels),
        training_span=parse_span(training_span),
        data_hash=data_hash,
        code_version=code_version(),
        weights_sha256=hashlib.sha256(data).hexdigest(),
        notes=dict(extra or {}),
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(description), indent=2, allow_nan=False)
    # Lists of numbers, the axes of a grid above all, on one line each. A newline inside a string is escaped, so none matches.
    text = re.sub(r"\[\n[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), text)
    # Both under other names first: a full disk or a kill leaves the old checkpoint as it was.
    for file, content in ((WEIGHTS, data), (DESCRIPTION, text.encode())):
        (folder / f"{file}.partial").write_bytes(content)
    for file in (WEIGHTS, DESCRIPTION):
        os.replace(folder / f"{file}.partial", folder / file)
    return description


def load_checkpoint(folder: str | Path, device: torch.device | str = "cpu") -> Forecaster:
    """Build the model of a checkpoint and load its weights.

    Parameters
    ----------
    folder
        Holds `model.safetensors` and `checkpoint.json`.
    device
        Where the model shall be.

    Returns
    -------
    The model, in inference mode.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged or of another checkpoint, the JSON lacks a key or has a wrong one, the network is
        unknown, or weights are missing, left over or of another shape.
    """
    description = read_description(folder)
    weights = _read_weights(Path(folder) / WEIGHTS, description.weights_sha256)
    network = find_network(description.model)
    try:
        kind = getattr(network, "requirements_class", Requirements)
        requirements = kind(**{key: _as_tuple(value) for key, value in description.requirements.items()})
        model: Forecaster = network.from_config(description.config, requirements)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} does not fit this version of {description.model}: {error}") from error
    _check_weights(folder, weights, model.state_dict())
    model.load_state_dict(weights)
    return model.to(device).eval()


def read_description(folder: str | Path) -> Description:
    """Read and check `checkpoint.json` alone.

    Raises
    ------
    CheckpointError
        As for `load_checkpoint`.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint in {folder}: {DESCRIPTION} is missing. Give a folder that save_checkpoint wrote."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error}). Copy the checkpoint again.") from error
    known = {field.name: field.type for field in fields(Description)}
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        found = values.get("format_version") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"{path} has format_version {found}; this version of skysolve reads {FORMAT_VERSION}.")
    missing, unknown = sorted(set(known) - set(values)), sorted(set(values) - set(known))
    if missing or unknown:
        raise CheckpointError(
            f"{path} must hold the keys {sorted(known)}; missing: {missing or 'none'}, unknown: {unknown or 'none'}. Save the "
            "model again with this version."
        )
    if not isinstance(values["model"], str) or values["model"] not in MODELS:
        raise CheckpointError(
            f"{path} names the network {values['model']!r}; known here are {sorted(MODELS)}. If it is your own, import what "
            "registers it first (forecast.checkpoint.register_network)."
        )
    for key, kind in known.items():
        if str(kind).startswith("dict") and not isinstance(values[key], dict):
            raise CheckpointError(f"{path}: {key} must be an object; got {type(values[key]).__name__}.")
    parse_span(values["training_span"])
    return Description(**values)


def parse_span(span: tuple[str, str] | str) -> str:
    """Write a span of times as "START/END", or one of samples as "sample FIRST/sample LAST".

    Raises
    ------
    CheckpointError
        If it is not two dates, or two samples, in order.
    """
    samples = re.fullmatch(r"sample (\d+)/sample (\d+)", span) if isinstance(span, str) else None
    if samples and int(samples[1]) <= int(samples[2]):
        return samples[0]
    try:
        parts = span.split("/") if isinstance(span, str) else [str(part) for part in span]
        start, end = (parse_date(part, "training_span").astype("datetime64[h]") for part in parts)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"training_span must be 'START/END' in ISO 8601; got {span!r}.") from error
    if not start <= end:
        raise CheckpointError(f"training_span must end after it starts; got {span!r}.")
    return f"{start}/{end}"


def code_version() -> str:
    """Version of the installed distribution, or "unknown" where the code runs uninstalled."""
    try:
        return version("skysolve")
    except PackageNotFoundError:
        return "unknown"


def _read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        _check_header(path)
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"weights {path} cannot be read ({error.strerror}). Copy the checkpoint again.") from error
    try:
        weights = load_tensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"weights {path} are damaged ({error}). Copy the checkpoint again.") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(
            f"weights {path} are not those that {DESCRIPTION} describes (SHA-256 differs): they were changed, or come from "
            "another checkpoint. Copy both files again."
        )
    return weights


def _check_header(path: Path) -> None:
    """Refuse what cannot be safetensors before it is in memory: the first 8 bytes of one say how long its header is."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    size = path.stat().st_size
    if not 2 <= length <= min(LARGEST_HEADER, size - 8):
        raise CheckpointError(
            f"weights {path} are damaged (of {size} bytes the header claims {length}: no safetensors file, a pickle perhaps; "
            "nothing more of it was read). Copy the checkpoint again."
        )


def _check_weights(folder: str | Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
    if missing or unknown:
        raise CheckpointError(
            f"weights in {folder} do not fit the network: missing {missing[:5] or 'none'}, unknown {unknown[:5] or 'none'}. "
            "They belong to another network or another version; train or save it again."
        )
    for key, value in wanted.items():
        if weights[key].shape != value.shape:
            raise CheckpointError(
                f"weight {key} in {folder} must have shape {tuple(value.shape)}; it has {tuple(weights[key].shape)}. config or "
                f"requirements in {DESCRIPTION} belong to other weights."
            )


def _statistics(weights: Mapping[str, Tensor], channels: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """One number per channel: every buffer of the shape (channel, 1, 1)."""
    shape = (len(channels), 1, 1)
    found = {key: value.flatten().tolist() for key, value in weights.items() if tuple(value.shape) == shape and "." not in key}
    return {key: dict(zip(channels, values, strict=True)) for key, values in found.items() if all(map(math.isfinite, values))}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
