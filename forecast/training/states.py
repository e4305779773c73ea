"""States of a training under way: everything that going on exactly needs, in safetensors and JSON.

    state/00000400/state.json                 step, ranks, settings, schedule: what people read, too
    state/00000400/learned-RANK.safetensors   weights, their average and moments: all of them, or this rank's pieces
    state/00000400/own-RANK.safetensors, .json   pool of forecasts, place in the data, generators of this rank

A state is written under another name and renamed when every rank has written its part, so that a folder with a number is
complete whenever the training was killed. Pieces say in the header of their file where they lie in the whole tensor; a rank
reads those parts that it needs, so that a state of any number of ranks loads on any other. Reading executes nothing: there
is no pickle (torch.distributed.checkpoint has one in its metadata), and names in the files lead to no path.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_pipelines.disk import reach_the_disk
from forecast.checkpoint import CheckpointError
from forecast.training.parallel import Place, is_piece

FORMAT_VERSION = 1
FOLDER = "state"
KEPT = 2  # should the disk damage the newest


@dataclass
class TrainingState:
    """What a rank saves and gets back.

    Parameters
    ----------
    step
        Optimiser steps done.
    learned
        Tensors by name that are the same on all ranks, or the rank's pieces (DTensor) of them.
    shared
        Plain values that are the same on all ranks.
    own
        This rank's: nested dicts, lists and tuples of tensors, arrays and plain values.
    """

    step: int
    learned: Mapping[str, Tensor]
    shared: dict[str, Any]
    own: Any


def save_state(out: Path, state: TrainingState, place: Place) -> Path:
    """Write a state, every rank its part, and remove all but the newest ones; returns its folder."""
    folder = out / FOLDER / f"{state.step:08d}"
    partial = folder.with_suffix(".partial")
    if place.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    place.wait()
    pieces = {name: value for name, value in state.learned.items() if place.is_first or is_piece(value)}
    _write_pieces(partial / f"learned-{place.rank}.safetensors", pieces)
    values, tensors = pack(state.own)
    save_file(tensors, partial / f"own-{place.rank}.safetensors")
    (partial / f"own-{place.rank}.json").write_text(json.dumps(values))
    for file in partial.glob(f"*-{place.rank}.*"):
        reach_the_disk(file)
    place.wait()
    if place.is_first:
        head = {"format_version": FORMAT_VERSION, "step": state.step, "ranks": place.ranks, "bands": place.bands}
        (partial / "state.json").write_text(json.dumps(head | {"shared": state.shared}, indent=1))
        reach_the_disk(partial / "state.json", partial)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(partial, folder)
        reach_the_disk(folder.parent)
        for old in states_in(out)[:-KEPT]:
            shutil.rmtree(old)
    place.wait()
    return folder


def states_in(out: Path) -> list[Path]:
    """Folders of the complete states of a training, oldest first."""
    return sorted(folder for folder in (out / FOLDER).glob("*") if folder.name.isdecimal())


def load_state(folder: Path, learned: Mapping[str, Tensor], place: Place) -> TrainingState:
    """Fill `learned` in place from a state, and return it with the rest; `own` is None if ranks or bands are others now.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged, or a tensor is missing, left over or of another shape.
    """
    head = _read_json(folder / "state.json")
    if head.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format_version {head.get('format_version')}; this version of skysolve reads {FORMAT_VERSION}."
        )
    try:
        stored = _Pieces([folder / f"learned-{rank}.safetensors" for rank in range(head["ranks"])])
        missing, unknown = sorted(set(learned) - set(stored.shapes)), sorted(set(stored.shapes) - set(learned))
        if missing or unknown:
            raise CheckpointError(
                f"{folder} does not fit the training: missing {missing[:3] or 'none'}, left over {unknown[:3] or 'none'}. "
                "Train with the settings of before, or in another folder."
            )
        for name, target in learned.items():
            stored.read_into(name, target)
        own = None
        if (head["ranks"], head["bands"]) == (place.ranks, place.bands):
            with safe_open(folder / f"own-{place.rank}.safetensors", "pt") as tensors:
                own = unpack(_read_json(folder / f"own-{place.rank}.json"), tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder} is damaged ({error}). Delete it to go on from the state before.") from error
    return TrainingState(head["step"], learned, head["shared"], own)


def _write_pieces(path: Path, values: Mapping[str, Tensor]) -> None:
    where = {name: {"of": list(value.shape), "at": _offset(value)} for name, value in values.items()}
    local = {name: _local(value).detach().contiguous() for name, value in values.items()}
    save_file(local, path, metadata={"pieces": json.dumps(where)})


def _local(value: Tensor) -> Tensor:
    return value.to_local() if is_piece(value) else value


def _offset(value: Tensor) -> list[int]:
    """Where this rank's piece begins in the whole tensor: FSDP2 cuts the first dimension into equal pieces, the last less."""
    offset = [0] * value.ndim
    if is_piece(value):
        if len(value.placements) != 1 or not value.placements[0].is_shard(0):
            raise ValueError(f"weights must be cut along their first dimension; got {value.placements}.")
        each = -(-value.shape[0] // value.device_mesh.size())
        offset[0] = min(value.device_mesh.get_local_rank() * each, value.shape[0])
    return offset


class _Pieces:
    """Tensors that lie in pieces in several files."""

    def __init__(self, paths: list[Path]) -> None:
        self.shapes: dict[str, list[int]] = {}
        self._found: dict[str, list[tuple[Path, list[int]]]] = {}
        for path in paths:
            with safe_open(path, "pt") as file:
                for name, piece in json.loads(file.metadata()["pieces"]).items():
                    self.shapes[name] = piece["of"]
                    self._found.setdefault(name, []).append((path, piece["at"]))

    @torch.no_grad()
    def read_into(self, name: str, target: Tensor) -> None:
        """Fill a tensor, or this rank's piece of it, with the parts that overlap."""
        if list(target.shape) != self.shapes[name]:
            raise CheckpointError(
                f"{name} must have shape {tuple(target.shape)}; the state has {tuple(self.shapes[name])}. Train with the "
                "settings of before, or in another folder."
            )
        local, begin = _local(target), _offset(target)
        filled = 0
        for path, at in self._found[name]:
            with safe_open(path, "pt") as file:
                stored = file.get_slice(name)
                overlap = [
                    (max(b, a), min(b + there, a + here))
                    for b, there, a, here in zip(begin, local.shape, at, stored.get_shape(), strict=True)
                ]
                if any(start >= stop for start, stop in overlap):
                    continue
                source = tuple(slice(start - a, stop - a) for (start, stop), a in zip(overlap, at, strict=True))
                goal = tuple(slice(start - b, stop - b) for (start, stop), b in zip(overlap, begin, strict=True))
                values = stored[source] if source else file.get_tensor(name)
                local[goal].copy_(values)
                filled += values.numel()
        if filled != local.numel():
            raise ValueError(f"{name} has {filled} of {local.numel()} numbers")


def pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Nested dicts, lists and tuples as JSON, with the tensors and arrays in them apart."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor | np.ndarray):
            name = str(len(tensors))
            tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach()
            tensors[name] = tensor.contiguous()
            return {"array" if isinstance(value, np.ndarray) else "tensor": name}
        if isinstance(value, dict):
            return {"dict": [[walk(key), walk(one)] for key, one in value.items()]}
        if isinstance(value, list | tuple):
            return {type(value).__name__: [walk(one) for one in value]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"a training state holds tensors, arrays and plain values; got {type(value).__name__}.")

    return walk(tree), tensors


def unpack(values: Any, tensors: Any) -> Any:
    """The inverse of `pack`; `tensors` is an open safetensors file."""
    if not isinstance(values, dict):
        return values
    ((kind, content),) = values.items()
    if kind == "dict":
        return {unpack(key, tensors): unpack(value, tensors) for key, value in content}
    if kind in ("list", "tuple"):
        items = [unpack(value, tensors) for value in content]
        return items if kind == "list" else tuple(items)
    if kind in ("tensor", "array"):
        tensor = tensors.get_tensor(content)
        return tensor if kind == "tensor" else tensor.numpy()
    raise ValueError(f"own values have a part of unknown kind {kind!r}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Delete its folder to go on from the state before.") from error
