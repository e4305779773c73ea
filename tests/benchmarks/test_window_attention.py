"""The peer of attention in windows: no seam, and nothing looks across poles or into padding. See also test_peers.py."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.skill.peers.window_attention import (
    Block,
    ShiftedWindows,
    WindowAttention,
    WindowAttentionConfig,
    join_windows,
    split_windows,
)
from forecast.requirements import Requirements
from tests.helpers.puyun import make_requirements, make_statistics

TIME = np.array(["2026-01-01T06", "2026-01-03T18"], dtype="datetime64[ns]")
CHANNELS = ("mean_sea_level_pressure", "u_component_of_wind_850", "temperature_850")
WINDOW = (5, 6)
ROWS, COLUMNS, WIDTH = 19, 36, 32  # of the latent grid of 37 x 72; 20 rows with the padding
HALF = (2, 3)


def make_network(requirements: Requirements | None = None, *, awake: bool = True, **settings: Any) -> WindowAttention:
    """A small network; `awake` gives the layers that start at zero some weight, so that every part matters."""
    torch.manual_seed(0)
    requirements = requirements or make_requirements(37, 72, CHANNELS)
    config = WindowAttentionConfig(**({"width": WIDTH, "blocks": 2, "expansion": 2} | settings))
    model = WindowAttention(config, requirements, make_statistics(requirements))
    if awake:
        rouse(model)
    return model.eval()


def rouse(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name or "head" in name:
                parameter.normal_(std=0.3)


def make_block(shift: tuple[int, int], rows: int = ROWS) -> Block:
    torch.manual_seed(0)
    block = Block(WindowAttentionConfig(width=WIDTH), rows, shift)
    rouse(block)
    return block.eval()


def inputs_for(model: WindowAttention) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    need = model.requirements
    noise = torch.randn(2, need.history, len(need.channels), *need.grid_shape)
    return model.mean_field + model.deviation * noise, *model.inputs_at(TIME, np.zeros(2))


def changed_points(block: Block, row: int, column: int) -> torch.Tensor:
    """Rows and columns of the block's output that depend on one point of its input."""
    field = torch.randn(1, 20, COLUMNS, WIDTH)
    other = field.clone()
    other[0, row, column] += torch.randn(WIDTH)
    clock = torch.randn(1, WIDTH)
    with torch.no_grad():
        return (block(other, clock) - block(field, clock)).abs().amax(-1)[0] > 1e-6


def shifts_of(model: WindowAttention) -> list[tuple[int, int]]:
    return [layer.shift for layer in model.modules() if isinstance(layer, ShiftedWindows)]


@pytest.mark.parametrize(("rows", "columns", "patch"), [(37, 72, 2), (36, 72, 2), (10, 12, 1)])
def test_forecast_has_the_shape_of_the_grid(rows: int, columns: int, patch: int) -> None:
    """With poles and padding, without poles, and where the windows fill the rows."""
    model = make_network(make_requirements(rows, columns, CHANNELS), patch=patch)
    out = model(*inputs_for(model))
    assert out.shape == (2, 3, rows, columns)
    assert torch.isfinite(out).all()


def test_shifted_window_reaches_around_the_globe() -> None:
    """Its columns are 33, 34, 35, 0, 1, 2; its rows 2 to 6."""
    changed = changed_points(make_block(HALF), row=4, column=0)
    assert changed.any(1).nonzero().flatten().tolist() == [2, 3, 4, 5, 6]
    assert changed.any(0).nonzero().flatten().tolist() == [0, 1, 2, 33, 34, 35]


@pytest.mark.parametrize(
    ("shift", "row", "reached"),
    [
        ((0, 0), 0, [0, 1, 2, 3, 4]),
        ((0, 0), 18, [15, 16, 17, 18]),
        (HALF, 0, [0, 1]),
        (HALF, 1, [0, 1]),
        (HALF, 18, [17, 18]),
    ],
)
def test_rows_of_a_pole_see_no_others_than_their_neighbours(shift: tuple[int, int], row: int, reached: list[int]) -> None:
    """The shift brings rows 17, 18, the padding, 0 and 1 into one window."""
    changed = changed_points(make_block(shift), row=row, column=7)
    assert changed.any(1).nonzero().flatten().tolist() == reached


@pytest.mark.parametrize("shift", [(0, 0), HALF])
def test_padding_has_no_influence(shift: tuple[int, int]) -> None:
    block = make_block(shift)
    field, clock = torch.randn(2, 20, COLUMNS, WIDTH), torch.randn(2, WIDTH)
    other = field.clone()
    other[:, ROWS:] = 100 * torch.randn(2, 1, COLUMNS, WIDTH)
    with torch.no_grad():
        wanted, got = block(field, clock), block(other, clock)
    torch.testing.assert_close(got[:, :ROWS], wanted[:, :ROWS])
    assert torch.isfinite(got).all()


def test_blocks_shift_every_second_window_by_half() -> None:
    assert shifts_of(make_network(blocks=4)) == [(0, 0), HALF, (0, 0), HALF]
    one_window_high = make_requirements(5, 24, CHANNELS)
    assert shifts_of(make_network(one_window_high, patch=1)) == [(0, 0), (0, 3)]


def test_windows_are_the_parts_of_a_field() -> None:
    field = torch.randn(2, 20, COLUMNS, 3)
    parts = split_windows(field, WINDOW)
    strip = 6 + 4  # of the second field, the fifth from the west
    torch.testing.assert_close(parts[strip, 1], field[1, 5:10, 24:30].flatten(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(join_windows(parts, WINDOW, COLUMNS), field, rtol=0, atol=0)


def test_attention_is_that_of_swin_v2() -> None:
    """Softmax of scale x cosine + 16 sigmoid(MLP(log-spaced offsets)), written out point by point."""
    torch.manual_seed(0)
    layer = ShiftedWindows(WIDTH, 5, WINDOW, (0, 0))
    x = torch.randn(1, 5, 6, WIDTH)
    with torch.no_grad():
        layer.log_scale.fill_(10.0)  # beyond the clamp: the scale is 100
        got = layer(x).reshape(30, WIDTH)
        points = x.reshape(30, WIDTH)
        query, value = layer.query_value(points).chunk(2, dim=1)
        key = layer.key(points)
        logits = torch.empty(30, 30)
        for one in range(30):
            for other in range(30):
                down, right = 8 * (one // 6 - other // 6) / 4, 8 * (one % 6 - other % 6) / 5
                offset = [math.copysign(math.log2(1 + abs(value)) / 3, value) for value in (down, right)]
                bias = 16 * torch.sigmoid(layer.position_bias.network(torch.tensor(offset)))
                logits[one, other] = 100 * torch.cosine_similarity(query[one], key[other], dim=0) + bias.item()
        wanted = layer.project_out(logits.softmax(dim=1) @ value)
    # Logits of 100 carry the rounding of float32, 1e-5, into the weights.
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_block_adds_nothing_at_first_but_the_clock() -> None:
    """Both branches end in a norm whose gain is 0: residual post-normalisation."""
    block = Block(WindowAttentionConfig(width=WIDTH), ROWS, HALF)
    field, clock = torch.randn(2, 20, COLUMNS, WIDTH), torch.randn(2, WIDTH)
    shift = block.clock(clock)[:, None, None, WIDTH:]
    torch.testing.assert_close(block(field, clock), field + shift, rtol=0, atol=0)


def test_columns_that_windows_do_not_divide_are_refused() -> None:
    wanted = r"window must have columns that divide the 36 of the latent grid \(72 columns in patches of 2\).*got 7. Change"
    with pytest.raises(ValueError, match=wanted):
        make_network(window=(5, 7))


def test_columns_that_patches_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="patch 5 must divide"):
        make_network(patch=5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 48}, "width must be divisible by 32, a head's channels; got 48"),
        ({"window": (5,)}, r"window must be its rows and its columns, at least 2 each; got \(5,\)"),
        ({"window": (5, 1)}, r"window must be its rows and its columns, at least 2 each; got \(5, 1\)"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowAttentionConfig(**settings)
