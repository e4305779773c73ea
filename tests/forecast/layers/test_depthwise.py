"""The fast routes give the numbers of the plain ones, and turn with the globe."""

import copy

import pytest
import torch
import torch.nn.functional as F

from forecast.layers.depthwise import SphericalDepthwiseConv2d, merge_phases, split_phases
from forecast.layers.spherical_padding import pad_sphere
from gpu import spherical_depthwise


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
    torch.testing.assert_close(layer(x), padded_filter(layer, x), rtol=0, atol=1e-12)


def padded_filter(layer: SphericalDepthwiseConv2d, x: torch.Tensor) -> torch.Tensor:
    """What the layer must give: the library's filter on the padded field."""
    padded = pad_sphere(x, layer.reach, layer.reach, has_poles=layer.has_poles)
    return F.conv2d(padded, layer.weight, layer.bias, dilation=layer.dilation, groups=layer.groups)


# Channels that fill the kernel's 16 lanes, or do not; columns that fill its runs of 8, or do not; bands of rows.
SHAPES = [(1, 16, 21, 24), (2, 21, 19, 22), (1, 3, 60, 50)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kernel", "dilation"), [(5, 1), (7, 3)])
@pytest.mark.parametrize("has_poles", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_own_kernels_equal_the_library_in_double(
    shape: tuple[int, ...], kernel: int, dilation: int, has_poles: bool, dtype: torch.dtype
) -> None:
    layer = SphericalDepthwiseConv2d(shape[1], kernel, dilation=dilation, has_poles=has_poles)
    x = torch.randn(shape).to(dtype).requires_grad_()
    upstream = torch.randn(shape).to(dtype)
    got = layer(x)
    gradients = torch.autograd.grad(got, (x, layer.weight, layer.bias), upstream)
    exact, wide = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    wanted = padded_filter(exact, wide)
    exact_gradients = torch.autograd.grad(wanted, (wide, exact.weight, exact.bias), upstream.double())
    # bfloat16 fields are rounded once, at the end; filters and sums are float32 throughout.
    of_fields = 1e-5 if dtype == torch.float32 else 8e-3
    assert got.dtype == gradients[0].dtype == dtype
    for one, other, limit in zip(
        (got, *gradients), (wanted, *exact_gradients), (of_fields, of_fields, 1e-5, 1e-5), strict=True
    ):
        assert float(((one.double() - other).norm() / other.norm()).detach()) < limit


@pytest.mark.parametrize("instructions", ["avx512", "avx2", "portable"])
def test_every_compiled_variant_agrees(instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order = ["portable", "avx2", "avx512"]
    if order.index(instructions) > order.index(spherical_depthwise.instructions()):
        pytest.skip(f"this processor has no {instructions}")
    layer = SphericalDepthwiseConv2d(20, 7, dilation=3, has_poles=True)
    x = torch.randn(2, 20, 21, 26)
    wanted = padded_filter(layer, x)
    monkeypatch.setattr(spherical_depthwise, "instructions", lambda: instructions)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


def test_autocast_gives_bfloat16() -> None:
    plain = SphericalDepthwiseConv2d(8, 7, dilation=3, has_poles=True, fast_filters=False)
    fast = SphericalDepthwiseConv2d(8, 7, dilation=3, has_poles=True)
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, 19, 24)
    with torch.autocast("cpu", torch.bfloat16):
        got = fast(x)
    assert got.dtype == torch.bfloat16
    # 49 products of O(1/7) numbers, inputs and output rounded to 8 bits.
    torch.testing.assert_close(got.float(), plain(x), rtol=2e-2, atol=3e-2)


def test_not_a_number_stays_one_and_stays_local() -> None:
    layer = SphericalDepthwiseConv2d(16, 5, has_poles=True)
    x = torch.zeros(1, 16, 21, 24, dtype=torch.bfloat16)
    x[0, 3, 10, 12] = torch.nan
    broken = layer(x).isnan()
    assert broken[0, 3, 8:13, 10:15].all()
    assert int(broken.sum()) == 25


@pytest.mark.parametrize("dilation", [1, 3])
def test_turning_the_globe_turns_the_answer(dilation: int) -> None:
    layer = SphericalDepthwiseConv2d(2, 5, dilation=dilation, has_poles=True)
    x = torch.randn(1, 2, 13, 18)
    torch.testing.assert_close(layer(x.roll(5, -1)), layer(x).roll(5, -1), rtol=1e-5, atol=1e-6)


def test_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd.*got 4"):
        SphericalDepthwiseConv2d(2, 4, has_poles=True)


def test_bfloat16_is_rounded_to_the_nearest_even_and_infinity_stays() -> None:
    weight = torch.zeros(16, 1, 5, 5)
    weight[:, 0, 2, 2] = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8] * 8)  # halfway between two neighbours
    x = torch.ones(1, 16, 6, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    got = spherical_depthwise.forward(x, weight, None, 1, True)
    assert torch.equal(got, (x.float() * weight[:, 0, 2, 2, None, None]).to(torch.bfloat16))
    bias = torch.full((16,), torch.inf)
    assert torch.isposinf(spherical_depthwise.forward(x, weight, bias, 1, True)).all()
