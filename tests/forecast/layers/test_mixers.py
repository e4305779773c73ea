"""The family of mixers: one suite for all, then what is particular to each."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from forecast.layers.latent import Latent, SphericalStrip
from forecast.layers.mixers import MIXERS
from forecast.layers.mixers.dilated_reparam import BRANCHES, DilatedReparam
from forecast.layers.mixers.ffnified import FFNified
from forecast.layers.mixers.frequency_filter import FrequencyFilter, over_the_poles
from forecast.layers.mixers.inception import Inception
from forecast.layers.mixers.learnable_spacing import LearnableSpacing
from forecast.layers.mixers.long_convolution import LongConvolution
from forecast.layers.mixers.ls import LargeSmall
from forecast.layers.mixers.neighborhood_attention import NeighborhoodAttention
from forecast.layers.mixers.omni_strip import OmniStrip
from forecast.layers.spherical_padding import pad_sphere

WIDTH = 8
LATENT = Latent(33, 36, has_poles=True)

# Trainable numbers of a mixer of width C = 96 on the latent grid of the shipped sample, 37 x 72; `project_out` is C^2 + 2 C.
COUNTS = {
    "lka": 2 * (96 * 96 + 96) + 96 * (25 + 1 + 49 + 1) + 96 * 96 + 2 * 96,
    "gated_large_kernel": (2 * 96 * 96 + 2 * 96) + 96 * (25 + 1 + 49 + 1) + (96 * 96 + 96) + 96 * 96 + 2 * 96,
    "dilated_reparam": (96 * 96 + 96) + 96 * (169 + 1 + 25 + 49 + 9 + 9 + 9 + 5) + 96 * 96 + 2 * 96,
    "inception": 12 * (9 + 11 + 11 + 3) + 96 * 96 + 2 * 96,
    "ffnified": (96 * 96 + 96) + 2 * 96 * (49 + 1) + 96 * 96 + 2 * 96,
    "learnable_spacing": (96 * 96 + 96) + 96 * (26 + 2 * 26 + 2 * 26 + 1) + 96 * 96 + 2 * 96,
    "frequency_filter": (96 * 96 + 96) + (96 * 24 + 24) + (24 * 96 + 96) + 96 * 96 + 2 * 96,
    "long_convolution": (96 * 96 + 96) + 96 * (25 + 1) + 2 * 3 * 96 * 8 + 96 * 96 + 2 * 96,
    "ls": (96 * 96 + 96) + 96 * (49 + 1) + (96 * 12 * 9 + 12 * 9) + 96 * 96 + 2 * 96,
    "omni_strip": (96 * 96 + 96) + 96 * (31 + 31 + 1 + 3) + 96 * 96 + 2 * 96,
    "neighborhood_attention": (3 * 96 * 96 + 3 * 96) + 12 * 49 + 96 * 96 + 2 * 96,
}

# Cells to the north and south, to the west and east, that the middle point depends on; None for all there are.
REACH = {
    "lka": (11, 11),
    "gated_large_kernel": (11, 11),
    "dilated_reparam": (6, 6),
    "inception": (5, 5),
    "ffnified": (6, 6),
    "learnable_spacing": (8, 8),
    "frequency_filter": (None, None),
    "long_convolution": (2, None),
    "ls": (3, 3),
    "omni_strip": (15, 15),
    "neighborhood_attention": (3, 3),
}


def awake(name: str, latent: Latent = LATENT, width: int = WIDTH) -> nn.Module:
    torch.manual_seed(0)
    mixer = MIXERS[name](width, latent)
    with torch.no_grad():
        mixer.project_out.scale.fill_(1.0)
        if name == "neighborhood_attention":
            mixer.place.normal_()
    return mixer


@pytest.mark.parametrize("name", MIXERS)
def test_shape_is_kept_and_every_parameter_learns(name: str) -> None:
    mixer = awake(name)
    x = torch.randn(2, WIDTH, LATENT.rows, LATENT.columns, requires_grad=True)
    out = mixer(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    silent = [key for key, value in mixer.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []
    assert torch.isfinite(x.grad).all()
    assert x.grad.any()


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("rows", [33, 32])
def test_turning_the_globe_turns_the_result(name: str, rows: int) -> None:
    mixer = awake(name, Latent(rows, 36, has_poles=rows % 2 == 1))
    x = torch.randn(1, WIDTH, rows, 36)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x.roll(7, -1)), mixer(x).roll(7, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MIXERS)
def test_going_over_the_pole_makes_no_difference(name: str) -> None:
    """A globe turned upside down, by half a turn about an axis in the equator, with filters that are even both ways."""
    mixer = awake(name)
    _make_even(mixer, name)
    x = torch.randn(1, WIDTH, LATENT.rows, LATENT.columns)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x.flip(-2, -1)), mixer(x).flip(-2, -1), rtol=1e-4, atol=1e-4)


def _make_even(mixer: nn.Module, name: str) -> None:
    with torch.no_grad():
        for key, value in mixer.named_parameters():
            if value.ndim == 4 and value.shape[1] == 1 and value.shape[-1] * value.shape[-2] > 1:
                value.copy_(sum(value.flip(axes) for axes in ((), (2,), (3,), (2, 3))) / 4)
            elif key == "places":
                value.zero_()
            elif key == "pieces":
                value[1] = value[0]
            elif key == "place":
                square = value.view(-1, 7, 7)
                square.copy_(sum(square.flip(axes) for axes in ((), (1,), (2,), (1, 2))) / 4)
        if name == "ls":  # one weight for all neighbours
            mixer.weigh.weight.zero_()
            mixer.weigh.bias.copy_(mixer.weigh.bias.view(-1, 9)[:, :1].expand(-1, 9).flatten())


@pytest.mark.parametrize("name", MIXERS)
def test_reach(name: str) -> None:
    mixer, rows, columns = awake(name), LATENT.rows, LATENT.columns
    x = torch.randn(1, WIDTH, rows, columns, requires_grad=True)
    mixer(x)[0, :, rows // 2, columns // 2].sum().backward()
    seen = x.grad[0].abs().sum(dim=0) > 1e-12
    lines, circles = (np.flatnonzero(seen.any(dim=axis).numpy()) for axis in (1, 0))
    for found, reach, middle, size in zip(
        (lines, circles), REACH[name], (rows // 2, columns // 2), (rows, columns), strict=True
    ):
        wanted = range(size) if reach is None else range(middle - reach, middle + reach + 1)
        assert (found.min(), found.max()) == (wanted[0], wanted[-1])


@pytest.mark.parametrize("name", MIXERS)
def test_parameter_count(name: str) -> None:
    with torch.device("meta"):
        mixer = MIXERS[name](96, Latent(37, 72, has_poles=True))
    assert sum(value.numel() for value in mixer.parameters()) == COUNTS[name]


def test_every_mixer_is_counted_and_measured() -> None:
    assert COUNTS.keys() == REACH.keys() == MIXERS.keys()


@pytest.mark.parametrize("name", MIXERS)
def test_export_gives_the_same_numbers(name: str) -> None:
    mixer = awake(name).eval()
    x = torch.randn(1, WIDTH, LATENT.rows, LATENT.columns)
    with torch.no_grad():
        exported = torch.export.export(mixer, (x,)).module()
        torch.testing.assert_close(exported(x), mixer(x), rtol=1e-4, atol=1e-5)


def test_merged_filter_is_the_sum_of_its_branches() -> None:
    """Exact to the rounding of float64 sums, against dilated convolutions by the library."""
    mixer = DilatedReparam(WIDTH, LATENT).double()
    with torch.no_grad():
        mixer.gains.normal_()
    x = torch.randn(1, WIDTH, LATENT.rows, LATENT.columns, dtype=torch.float64)

    def library(weight: torch.Tensor, reach: int, dilation: int = 1) -> torch.Tensor:
        padded = pad_sphere(x, reach, reach, has_poles=True)
        return nn.functional.conv2d(padded, weight, dilation=dilation, groups=WIDTH)

    wanted = library(mixer.weight, 6)
    for weight, gain, (size, dilation) in zip(mixer.small, mixer.gains, BRANCHES, strict=True):
        wanted = wanted + gain.view(1, -1, 1, 1) * library(weight, dilation * (size // 2), dilation)
    torch.testing.assert_close(library(mixer.merged(), 6), wanted, rtol=1e-12, atol=1e-12)


def test_learned_places_move_the_weight_and_keep_its_sum() -> None:
    mixer = LearnableSpacing(1, LATENT)
    with torch.no_grad():
        mixer.weight.zero_()
        mixer.weight[0, 3] = 2.0
        mixer.places[:, 0, 3] = torch.tensor([-5.0, 4.0])
    kernel = mixer.filters()[0, 0]
    assert divmod(int(kernel.argmax()), 17) == (8 - 5, 8 + 4)
    assert float(kernel.detach().sum()) == pytest.approx(2.0, rel=1e-5)
    kernel.square().sum().backward()
    assert mixer.places.grad[:, 0, 4].abs().sum() == 0


def test_long_kernel_is_the_circular_convolution_it_says() -> None:
    """Against the sum, cell by cell; eastward and westward sides differ."""
    mixer = LongConvolution(2, Latent(5, 12, has_poles=True))
    kernel = mixer.kernel().detach()
    assert kernel.shape == (2, 12)
    assert (kernel != kernel.roll(1, -1).flip(-1)).any()
    x = torch.randn(2, 12)
    wanted = torch.stack([sum(kernel[:, away] * x[:, (place - away) % 12] for away in range(12)) for place in range(12)], dim=1)
    got = torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(kernel), n=12)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_squash_leaves_no_weight_below_its_threshold() -> None:
    mixer = LongConvolution(4, Latent(5, 64, has_poles=True))
    with torch.no_grad():
        mixer.pieces[:, 1:] *= 1e-4
    assert (mixer._side(mixer.pieces[0])[:, 8:] == 0).all()
    assert (mixer._side(mixer.pieces[0])[:, :8] != 0).any()


@pytest.mark.parametrize(("rows", "has_poles"), [(7, True), (6, False)])
def test_torus_continues_as_the_sphere_does(rows: int, has_poles: bool) -> None:
    x = torch.randn(1, 1, rows, 8)
    torus = over_the_poles(x, has_poles=has_poles)
    assert torus.shape[-2] == 2 * rows - 2 * has_poles
    padded = pad_sphere(x, 2, 0, has_poles=has_poles)
    for row in range(-2, rows + 2):
        torch.testing.assert_close(torus[..., row % torus.shape[-2], :], padded[..., row + 2, :])


def test_a_mask_of_one_doubles_the_values() -> None:
    mixer = FrequencyFilter(WIDTH, LATENT)
    with torch.no_grad():
        mixer.mask[2].weight.zero_()
        mixer.mask[2].bias.fill_(1.0)
    x = torch.randn(1, WIDTH, LATENT.rows, LATENT.columns)
    wanted = mixer.project_out(2 * nn.functional.gelu(mixer.project_in(x)))
    torch.testing.assert_close(mixer(x), wanted, rtol=1e-4, atol=1e-5)


def test_most_channels_pass_inception_unchanged() -> None:
    mixer = Inception(16, LATENT)
    assert mixer.shares == [10, 2, 2, 2]
    x = torch.randn(1, 16, LATENT.rows, LATENT.columns)
    mixer.project_out = nn.Identity()
    out = mixer(x)
    torch.testing.assert_close(out[:, :10], x[:, :10], rtol=0, atol=0)
    wanted = mixer.filters[1](x[:, 12:14])
    torch.testing.assert_close(out[:, 12:14], wanted)
    assert [layer.kernel_size for layer in mixer.filters] == [(3, 3), (1, 11), (11, 1)]


def test_keys_come_before_the_function_and_values_after() -> None:
    mixer = FFNified(WIDTH, LATENT)
    x = torch.randn(1, WIDTH, LATENT.rows, LATENT.columns)
    wanted = mixer.project_out(mixer.values(nn.functional.gelu(mixer.keys(mixer.project_in(x)))))
    torch.testing.assert_close(mixer(x), wanted)


def test_weights_of_the_place_add_up_its_neighbours() -> None:
    """With one weight of nine, the neighbour to the north-west alone, in the first row the one beyond the pole."""
    mixer = LargeSmall(WIDTH, LATENT)
    with torch.no_grad():
        mixer.weigh.weight.zero_()
        mixer.weigh.bias.zero_()
        mixer.weigh.bias.view(-1, 9)[:, 0] = 1.0
    x = torch.randn(1, WIDTH, LATENT.rows, LATENT.columns)
    values = mixer.project_in(x)
    wanted = torch.empty_like(values)
    for row, column in itertools.product(range(LATENT.rows), range(LATENT.columns)):
        over = row == 0
        wanted[..., row, column] = values[..., 1 if over else row - 1, (column - 1 + 18 * over) % 36]
    torch.testing.assert_close(mixer(x), mixer.project_out(wanted), rtol=1e-4, atol=1e-5)


def test_a_strong_bias_attends_to_one_neighbour() -> None:
    """The place in the middle of the last row of the window: three cells to the south."""
    mixer = NeighborhoodAttention(WIDTH, LATENT)
    with torch.no_grad():
        mixer.place.view(-1, 7, 7)[:, 6, 3] = 1e4
    x = torch.randn(1, WIDTH, LATENT.rows, LATENT.columns)
    values = mixer.project_in(x).chunk(3, dim=1)[2]
    got = mixer(x)[:, :, :-3]
    torch.testing.assert_close(got, mixer.project_out(values[:, :, 3:]), rtol=1e-4, atol=1e-5)


def test_strips_are_added_to_the_point() -> None:
    mixer = OmniStrip(WIDTH, LATENT)
    with torch.no_grad():
        for strip in mixer.strips:
            strip.weight.zero_()
            strip.bias.zero_()
    x = torch.randn(1, WIDTH, LATENT.rows, LATENT.columns)
    gelu = nn.functional.gelu
    torch.testing.assert_close(mixer(x), mixer.project_out(gelu(gelu(mixer.project_in(x)))))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Inception(7, LATENT), "mixer=inception needs a width of at least 8.*got 7"),
        (lambda: LargeSmall(12, LATENT), "mixer=ls needs a width divisible by 8.*got 12"),
        (lambda: NeighborhoodAttention(12, LATENT), "mixer=neighborhood_attention needs a width divisible by 8.*got 12"),
        (lambda: FrequencyFilter(8, Latent(7, 9, True)), "needs an even number of columns to cross the pole; got 9"),
        (lambda: SphericalStrip(1, 2, 3, has_poles=True), "height and width must be odd.*got 2 and 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
