"""The training step of a network with channels last and fast filters, beside the plain float32 NCHW step.

    python -m benchmarks.training_step

Both train the same weights on the same batch, in turns in one process, so that whatever else the machine does falls on
both. The fast one computes in what `precision: auto` chooses: bfloat16 where the processor has instructions for it, else
float32. The plain network keeps every tensor in NCHW order and leaves all depthwise filters and their gradients to the
library. The outputs must agree to the digits of the type. Writes `benchmarks/results/training_step_<type>.json`.

What bounds the step (per sample of puyun_tiny, forward and backward): about 3 x 2 x parameters x latent cells of dense
arithmetic, a few GFLOP, which a core does in tens of milliseconds in bfloat16 and, on both sides alike, in a hundred or more
in float32; filters, 3 x 2 x taps x values, of which our kernels do 40 to 70 GFLOP/s and thread; the rest is element-wise
passes over memory (GELU, norms, sums), which both sides make.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.machine import describe_machine, store_result
from forecast.layers.large_kernel_attention import ChannelNorm
from forecast.puyun import PuYun, PuYunConfig
from forecast.requirements import Requirements
from forecast.rollout import computes_in_bfloat16

RESULTS = Path(__file__).parent / "results"
ROUNDS = 7


@dataclass(frozen=True)
class Case:
    """One network on one grid."""

    name: str
    rows: int
    columns: int
    batch: int
    settings: dict[str, Any]


def shipped(size: str) -> dict[str, Any]:
    """The settings of a size that ships."""
    return yaml.safe_load((Path(__file__).parents[1] / "configs/forecast/model" / f"{size}.yaml").read_text())


CASES = (
    Case("puyun_tiny", 73, 144, 4, shipped("puyun_tiny")),
    # Without patches, so that the latent grid has the 65 160 points on which the filters were measured one by one.
    Case("no patches, 1 degree", 181, 360, 1, {"width": 64, "depth": [2], "patch": 1, "mixer": "lka", "expansion": 4}),
)


def build(case: Case, fast: bool) -> PuYun:
    settings = case.settings | {"fast_filters": fast}
    rows, columns = case.rows, case.columns
    latitude, longitude = np.linspace(90, -90, rows), np.arange(columns) * 360 / columns
    channels = ("mean_sea_level_pressure", "vorticity_850")
    torch.manual_seed(0)
    model = PuYun(PuYunConfig(**settings), Requirements(channels, tuple(latitude), tuple(longitude)))
    with torch.no_grad():
        model.head.weight.normal_(std=0.05)
        for name, parameter in model.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(0.3)
    return model


def keep_nchw(model: PuYun) -> PuYun:
    """Give every convolution a contiguous NCHW input, as a network written without regard to memory layout has."""

    def contiguous(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0].contiguous(), *inputs[1:])

    def contiguous_output(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output.contiguous()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(contiguous)
        if isinstance(module, ChannelNorm):
            module.register_forward_hook(contiguous_output)
    return model


class Step:
    """One kind of training step with its own copy of the weights."""

    def __init__(self, model: PuYun, dtype: torch.dtype, batch: int) -> None:
        self.model = model.train()
        self.autocast = dtype == torch.bfloat16
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
        need = model.requirements
        torch.manual_seed(1)
        self.frames = torch.randn(batch, need.history, len(need.channels), *need.grid_shape)
        self.inputs = model.inputs_at(np.array(["2026-01-01T00"] * batch, dtype="datetime64[ns]"), np.zeros(batch))

    def forward(self) -> torch.Tensor:
        """The network's answer in float32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.model.normalised_tendency(self.frames, *self.inputs).float()

    def __call__(self) -> float:
        """Train one step; return the seconds that it took."""
        started = time.perf_counter()
        (self.forward() - self.frames[:, 0]).square().mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return time.perf_counter() - started


def compare(case: Case) -> dict[str, object]:
    """Time both steps in turns; return the ratio, each time and the difference of the outputs."""
    dtype = fast_dtype()
    fast = Step(build(case, fast=True), dtype, case.batch)
    plain = Step(keep_nchw(build(case, fast=False)), torch.float32, case.batch)
    plain.model.load_state_dict(copy.deepcopy(fast.model.state_dict()))
    with torch.no_grad():
        wanted, got = plain.forward(), fast.forward()
    fast(), plain()
    times = [(fast(), plain()) for _ in range(ROUNDS)]
    return {
        "network": case.name,
        "settings": case.settings,
        "grid": [case.rows, case.columns],
        "batch": case.batch,
        "threads": torch.get_num_threads(),
        "fast_seconds": [round(one, 4) for one, _ in times],
        "plain_seconds": [round(other, 4) for _, other in times],
        "ratio_of_medians": round(statistics.median(o for _, o in times) / statistics.median(f for f, _ in times), 2),
        "ratio_of_minima": round(min(o for _, o in times) / min(f for f, _ in times), 2),
        "relative_difference_of_outputs": float((got - wanted).norm() / wanted.norm()),
        "epsilon": torch.finfo(dtype).eps,
    }


def fast_dtype() -> torch.dtype:
    return torch.bfloat16 if computes_in_bfloat16("auto", torch.device("cpu")) else torch.float32


def main() -> None:
    name = str(fast_dtype()).removeprefix("torch.")
    result = {
        "what": f"training step: {name}, channels last, fast filters, against float32 NCHW with the library's filters",
        "machine": describe_machine(),
        "results": [compare(case) for case in CASES],
    }
    store_result(RESULTS / f"training_step_{name}.json", result)
    print(json.dumps(result["results"], indent=2))


if __name__ == "__main__":
    main()
