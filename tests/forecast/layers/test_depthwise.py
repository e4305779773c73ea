"""The fast routes give the numbers of the plain ones, and turn with the globe."""

import pytest
import torch
import torch.nn.functional as F

from forecast.layers.depthwise import SphericalDepthwiseConv2d, depthwise, merge_phases, split_phases
from forecast.layers.spherical_padding import pad_sphere


def test_phases_are_every_third_row_and_column() -> None:
    field = torch.arange(36.0).view(1, 1, 6, 6)
    phases = split_phases(field, 3)
    assert phases.shape == (9, 1, 2, 2)
    for phase in range(9):
        torch.testing.assert_close(phases[phase, 0], field[0, 0, phase // 3 :: 3, phase % 3 :: 3])


def test_merge_undoes_split() -> None:
    field = torch.randn(2, 3, 9, 12)
    torch.testing.assert_close(merge_phases(split_phases(field, 3), 3), field, rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "columns"), [(19, 24), (20, 26), (21, 22)])
@pytest.mark.parametrize("has_poles", [True, False])
def test_split_dilated_filter_equals_the_dilated_one(rows: int, columns: int, has_poles: bool) -> None:
    """Rows and columns divisible by the dilation or not: the sums are the same in double precision."""
    layer = SphericalDepthwiseConv2d(4, 7, dilation=3, has_poles=has_poles).double()
    x = torch.randn(2, 4, rows, columns, dtype=torch.float64)
    wanted = F.conv2d(pad_sphere(x, 9, 9, has_poles=has_poles), layer.weight, layer.bias, dilation=3, groups=4)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)


def test_split_filter_agrees_in_bfloat16() -> None:
    plain = SphericalDepthwiseConv2d(8, 7, dilation=3, has_poles=True, fast_filters=False)
    fast = SphericalDepthwiseConv2d(8, 7, dilation=3, has_poles=True)
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, 19, 24)
    with torch.autocast("cpu", torch.bfloat16):
        got = fast(x)
    assert got.dtype == torch.bfloat16
    # 49 products of O(1/7) numbers, each rounded to 8 bits once more than in float32.
    torch.testing.assert_close(got.float(), plain(x), rtol=2e-2, atol=3e-2)


def test_own_gradients_equal_automatic_ones() -> None:
    x = torch.randn(2, 3, 11, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    wanted = torch.autograd.grad((F.conv2d(x, weight, bias, groups=3) * upstream).sum(), (x, weight, bias))
    got = torch.autograd.grad((depthwise(x, weight, bias) * upstream).sum(), (x, weight, bias))
    # Filter and bias gradients are taken in float32.
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_gradients_without_bias() -> None:
    x, weight = torch.randn(1, 2, 7, 8, requires_grad=True), torch.randn(2, 1, 3, 3, requires_grad=True)
    wanted = torch.autograd.grad(F.conv2d(x, weight, groups=2).square().sum(), weight)[0]
    torch.testing.assert_close(torch.autograd.grad(depthwise(x, weight, None).square().sum(), weight)[0], wanted)


@pytest.mark.parametrize("dilation", [1, 3])
def test_turning_the_globe_turns_the_answer(dilation: int) -> None:
    layer = SphericalDepthwiseConv2d(2, 5, dilation=dilation, has_poles=True)
    x = torch.randn(1, 2, 13, 18)
    torch.testing.assert_close(layer(x.roll(5, -1)), layer(x).roll(5, -1), rtol=1e-5, atol=1e-6)


def test_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd.*got 4"):
        SphericalDepthwiseConv2d(2, 4, has_poles=True)
