"""States of every random generator that a training may draw from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def generator_states(own: np.random.Generator) -> dict[str, Any]:
    """The trainer's own generator, and the global ones of Python, NumPy and torch on the CPU and on this process's GPU."""
    states: dict[str, Any] = {
        "own": own.bit_generator.state,
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - libraries may draw from it
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generator_states(own: np.random.Generator, states: dict[str, Any]) -> None:
    """Go on from what `generator_states` gave; a GPU's state is left out where there is none now."""
    own.bit_generator.state = states["own"]
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
