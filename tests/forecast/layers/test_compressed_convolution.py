"""Chains of one-way filters: the dense function exactly, counts exactly, variance kept, and every way out of PyTorch."""

import io
import itertools
import math
import re
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from forecast.layers.compressed_convolution import CompressedConv2d, CompressedConv3d, CompressedPointwise
from forecast.layers.cp_decomposition import compose, decompose
from forecast.layers.padding import DenseConv2d, Padding, axis_reach, pad_axes
from forecast.layers.spherical_padding import pad_sphere

# Form and, for each, sizes that differ along every axis. Kernels even and odd, strides, dilation, groups, all edges.
FORMS_2D = [
    ((3, 5), {"padding": "same"}),
    ((3, 5), {"padding": "same", "terms": 3, "padding_mode": "reflect"}),
    ((4, 3), {"padding": "same", "terms": 2, "padding_mode": "replicate", "bias": False}),
    ((3, 3), {"padding": (1, 2), "terms": 2, "stride": (2, 3)}),
    ((5, 3), {"padding": "same", "terms": 2, "dilation": (2, 3), "padding_mode": "circular"}),
    ((3, 5), {"padding": (1, 2), "terms": 2, "groups": 3}),
    ((7, 5), {"padding": "same", "terms": 2, "groups": 6, "out_channels": 6}),
    ((5, 7), {"padding": "same", "terms": 2, "padding_mode": "sphere", "has_poles": True}),
    ((5, 7), {"padding": "same", "terms": 2, "padding_mode": "sphere", "groups": 6, "out_channels": 12}),
    ((31, 31), {"padding": "same", "terms": 2, "padding_mode": "sphere", "has_poles": True}),
    ((3, 3), {"padding": "valid", "terms": 1}),
]
FORMS_3D = [
    ((3, 5, 4), {"padding": "same", "terms": 2}),
    ((3, 3, 5), {"padding": (1, 0, 2), "terms": 3, "stride": (1, 2, 3), "dilation": (2, 1, 1)}),
    ((2, 5, 3), {"padding": "same", "terms": 2, "padding_mode": "sphere", "has_poles": True}),
    ((3, 3, 3), {"padding": 1, "terms": 2, "groups": 6, "out_channels": 6, "padding_mode": "circular"}),
]
LAST_2D = [
    ((3, 5), {"padding": "same", "terms": 2, "mix": "last"}),
    ((4, 3), {"padding": "same", "terms": 3, "mix": "last", "groups": 3, "padding_mode": "replicate"}),
    ((3, 3), {"padding": (1, 2), "mix": "last", "stride": (2, 3), "dilation": (1, 2), "bias": False}),
    ((5, 7), {"padding": "same", "terms": 2, "out_channels": 4, "padding_mode": "sphere", "has_poles": True}),
]
LAST_3D = [((3, 5, 4), {"padding": "same", "terms": 2, "mix": "last", "groups": 3})]
FORMS = FORMS_2D + FORMS_3D + LAST_2D + LAST_3D
GRIDS = {2: (37, 42), 3: (7, 19, 22)}


def layer_of(kernel, form, dtype=torch.float64):
    form = dict(form)
    kind = CompressedConv2d if len(kernel) == 2 else CompressedConv3d
    torch.manual_seed(len(kernel))
    layer = kind(6, form.pop("out_channels", 9), kernel, **form).to(dtype)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def field_of(layer, dtype=torch.float64):
    return torch.randn(2, layer.in_channels, *GRIDS[layer.axes], dtype=dtype)


@pytest.mark.parametrize(("kernel", "form"), FORMS)
def test_dense_layer_computes_the_same_function(kernel, form):
    layer = layer_of(kernel, form)
    x = field_of(layer)
    with torch.no_grad():
        got, wanted = layer.to_dense()(x), layer(x)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kernel", "form"), FORMS_2D[:7] + LAST_2D[:3])
def test_dense_layer_is_the_librarys_convolution(kernel, form):
    """An independent check of edges, strides, dilation and groups: nn.Conv2d with the same arguments."""
    layer = layer_of(kernel, form)
    form = {key: value for key, value in form.items() if key not in ("terms", "mix", "out_channels")}
    theirs = nn.Conv2d(6, layer.out_channels, kernel, **form).double()
    theirs.load_state_dict(layer.to_dense().state_dict())
    x = field_of(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), theirs(x), rtol=0, atol=1e-12)


def test_sphere_is_padded_once_and_for_all_axes():
    """Padding one axis at a time between the filters is padding the field before a dense filter."""
    layer = layer_of((5, 7), {"padding": "same", "terms": 2, "padding_mode": "sphere", "has_poles": True})
    x = field_of(layer)
    with torch.no_grad():
        wanted = F.conv2d(pad_sphere(x, 2, 3, has_poles=True), layer.dense_weight(), layer.bias)
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)


def test_sphere_turns_with_the_globe():
    layer = layer_of((5, 7), {"padding": "same", "terms": 2, "padding_mode": "sphere"})
    x = field_of(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(x.roll(5, -1)), layer(x).roll(5, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kernel", "form"), FORMS)
def test_counts_are_what_torch_counts(kernel, form):
    layer = layer_of(kernel, form, torch.float32)
    assert layer.parameter_count() == sum(parameter.numel() for parameter in layer.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(field_of(layer, torch.float32))
    assert layer.flop_count(*GRIDS[layer.axes], batch=2) == counter.get_total_flops()


def test_counts_by_hand():
    """64 -> 64 channels: 4480 weights at 3x3 and 8064 at 31x31, against 36 864 and 3 936 256 of dense kernels."""
    assert CompressedConv2d(64, 64, 3, bias=False).parameter_count() == 64 * (64 + 6) == 4480
    assert CompressedConv2d(64, 64, 31, bias=False).parameter_count() == 64 * (64 + 62) == 8064


def test_channels_are_mixed_where_there_are_fewer():
    """So that there are more filters along the axes: 6 and 6 here, 9 where channels are mixed first."""
    for out, mix, last, filtered in (
        (4, "auto", True, 6), (6, "auto", True, 6), (9, "auto", False, 9), (9, "last", True, 6), (4, "first", False, 4),
    ):  # fmt: skip
        layer = CompressedConv2d(6, out, (3, 5), mix=mix, bias=False)
        assert layer.mixes_last is last
        assert layer.parameter_count() == 6 * out + 8 * filtered
        assert f"mix={'last' if last else 'first'}" in repr(layer)


def test_kernels_of_channels_mixed_last_share_their_filters():
    """Written out by loops: W[o, c] = sum of channel[o, c] * height[c] outer width[c]."""
    layer = layer_of((3, 5), {"terms": 2, "mix": "last", "groups": 3})
    weight = layer.dense_weight()
    heights, widths = layer.axis_filters
    for output, channel in itertools.product(range(9), range(2)):
        real = 2 * (output // 3) + channel  # three outputs and two inputs a group
        wanted = sum(
            layer.channel_filter[term, output, channel] * torch.outer(heights[term, real], widths[term, real])
            for term in range(2)
        )
        torch.testing.assert_close(weight[output, channel], wanted.detach(), rtol=0, atol=1e-14)


def test_white_noise_keeps_its_variance_where_channels_are_mixed_last():
    """One term: every kernel has the square 1 exactly; a field of noise has it to what its points scatter."""
    torch.manual_seed(0)
    layer = CompressedConv2d(48, 32, (3, 5), padding_mode="circular", padding="same")
    square = layer.dense_weight().square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(square, torch.ones(32), rtol=1e-5, atol=0)
    with torch.no_grad():
        assert abs(float(layer(torch.randn(4, 48, 40, 40)).var()) - 1) < 0.05


@pytest.mark.parametrize("terms", [1, 2, 4])
def test_white_noise_keeps_its_variance_through_one_layer(terms):
    """Every output channel, to five standard deviations of what a sample of correlated points scatters.

    The sample variance of n Gaussian points whose correlation at distance d is r(d) has the relative variance
    2 sum(r^2) / n; r follows from the kernel (around the field, so exactly). The kernel's own square is 1 for one term. For R
    terms cross products add 2 / R times R (R - 1) / 2 products of cosines of random directions in 48, 3 and 5 dimensions,
    each of variance 1 / 720: six of their standard deviations, since products have heavier tails than Gauss.
    """
    torch.manual_seed(0)
    layer = CompressedConv2d(48, 64, (3, 5), terms=terms, padding_mode="circular", padding="same")
    with torch.no_grad():
        variance = layer(torch.randn(4, 48, 40, 40)).var(dim=(0, 2, 3)).double()
    kernels = layer.dense_weight().double()
    covariance = torch.fft.ifft2(torch.fft.fft2(kernels, s=(40, 40)).abs().square().sum(dim=1)).real
    square = covariance[:, 0, 0]
    torch.testing.assert_close(square, kernels.square().sum(dim=(1, 2, 3)), rtol=1e-9, atol=0)
    scatter = (2 * (covariance / square[:, None, None]).square().sum(dim=(1, 2)) / (4 * 40 * 40)).sqrt()
    assert ((variance / square - 1).abs() < 5 * scatter).all()
    cross = math.sqrt(2 * (terms - 1) / terms / 720)
    assert float((square - 1).abs().max()) < 6 * cross + 1e-5  # float32 filters
    assert abs(float(square.mean()) - 1) < 6 * cross / math.sqrt(64) + 1e-5


@pytest.mark.parametrize("mix", ["first", "last"])
@pytest.mark.parametrize("terms", [1, 3])
def test_activations_keep_their_mean_square_through_twenty_layers(terms, mix):
    """gain sqrt(2) before ReLU (He et al., 2015): neither dead nor exploding after 20 layers of finite width, in the median."""
    left = []
    for seed in range(7):
        torch.manual_seed(seed)
        x = torch.randn(2, 48, 16, 16)
        form = {"terms": terms, "padding": 1, "padding_mode": "circular", "gain": math.sqrt(2), "mix": mix}
        with torch.no_grad():
            for _ in range(20):
                x = F.relu(CompressedConv2d(48, 48, 3, **form)(x))
        left.append(float(x.square().mean()))
    assert 1 / 16 < np.median(left) < 16


def test_large_kernel_in_3d_keeps_variance():
    torch.manual_seed(2)
    layer = CompressedConv3d(16, 48, (3, 9, 9), terms=2, padding="same", padding_mode="circular")
    with torch.no_grad():
        assert abs(float(layer(torch.randn(2, 16, 12, 20, 20)).var()) - 1) < 0.15


@pytest.mark.parametrize("mix", ["first", "last"])
@pytest.mark.parametrize("kernel", [(3, 5), (2, 3, 4)])
def test_kernels_of_few_terms_are_found_again(kernel, mix):
    """Every one. Rounding to float32 moves a kernel by 6e-8 at most, and the exact one is as near: no optimum is worse."""
    form = {"terms": 2, "padding": 1, "stride": 2, "padding_mode": "reflect", "mix": mix, "groups": 1 + 2 * (mix == "last")}
    exact = layer_of(kernel, form, torch.float32)
    found = type(exact).from_dense(exact.to_dense(), terms=2, mix=mix)
    left = (found.dense_weight() - exact.dense_weight()).flatten(1).norm(dim=1) / exact.dense_weight().flatten(1).norm(dim=1)
    assert float(left.max()) < 1e-6
    assert found.approximation_error < 1e-6


def test_nearly_parallel_terms_are_found_again():
    """Terms a degree apart along every way, on which least squares alone crawl."""
    torch.manual_seed(9)
    vectors = []
    for size in (6, 3, 5):
        one = torch.randn(20, size, dtype=torch.float64)
        vectors.append(torch.stack([one, one + 0.02 * torch.randn_like(one)], dim=2))
    kernels = compose(vectors)
    found = compose([vector.permute(1, 2, 0) for vector in decompose(kernels, 2, sweeps=1)])
    left = (found - kernels).flatten(1).norm(dim=1) / kernels.flatten(1).norm(dim=1)
    assert float(left.max()) < 1e-8


def test_stated_error_is_the_error_and_falls_with_terms():
    torch.manual_seed(3)
    dense = nn.Conv2d(8, 6, 5, padding=2)
    errors = []
    for terms in (1, 2, 4, 8):
        layer = CompressedConv2d.from_dense(dense, terms, sweeps=15)
        left = layer.to_dense().weight - dense.weight
        assert layer.approximation_error == pytest.approx(float((left.norm() / dense.weight.norm()).detach()), rel=1e-4)
        errors.append(layer.approximation_error)
    assert all(after < before for before, after in itertools.pairwise(errors))
    assert errors[0] > 0.5 > errors[-1]  # white kernels compress badly, and the layer says so


def test_two_way_kernels_have_the_error_of_the_singular_values():
    """Depthwise 7x5 filters: what is left after 2 terms is what the discarded singular values hold, none at full rank."""
    torch.manual_seed(4)
    dense = nn.Conv2d(6, 6, (7, 5), groups=6, padding=(3, 2)).double()
    values = np.linalg.svd(dense.weight.detach().numpy()[:, 0], compute_uv=False)
    wanted = math.sqrt((values[:, 2:] ** 2).sum() / (values**2).sum())
    assert CompressedConv2d.from_dense(dense, 2).approximation_error == pytest.approx(wanted, rel=1e-10)
    assert CompressedConv2d.from_dense(dense, 5).approximation_error < 1e-14
    assert CompressedConv2d.from_dense(dense, 7).approximation_error < 1e-14  # more terms than the rank: the rest is zero


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (4, 3, 1, 1), (4, 1, 5, 1), (4, 3, 1, 2), (4, 1, 3, 5), (4, 2, 3, 4)])
def test_decomposition_takes_ways_of_size_one(shape):
    torch.manual_seed(5)
    kernels = torch.randn(shape, dtype=torch.float64)
    vectors = decompose(kernels, 12, sweeps=3)
    assert [tuple(vector.shape) for vector in vectors] == [(12, 4, size) for size in shape[1:]]
    torch.testing.assert_close(compose([vector.permute(1, 2, 0) for vector in vectors]), kernels, rtol=0, atol=1e-6)


def test_layer_of_zeros_stays_zero():
    dense = nn.Conv2d(3, 4, 3)
    nn.init.zeros_(dense.weight)
    layer = CompressedConv2d.from_dense(dense, 2)
    assert layer.approximation_error == 0.0
    assert not layer.dense_weight().any()


def test_pointwise_matrix_has_the_error_of_the_singular_values():
    torch.manual_seed(6)
    dense = nn.Conv2d(12, 10, 1).double()
    layer = CompressedPointwise.from_dense(dense, 4)
    values = np.linalg.svd(dense.weight.detach().numpy()[:, :, 0, 0], compute_uv=False)
    assert layer.approximation_error == pytest.approx(math.sqrt((values[4:] ** 2).sum() / (values**2).sum()), rel=1e-10)
    x = torch.randn(2, 12, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer.to_dense()(x), layer(x), rtol=0, atol=1e-12)
    assert CompressedPointwise.from_dense(dense, 10).approximation_error < 1e-14
    assert layer.parameter_count() == 4 * (12 + 10) + 10
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    assert layer.flop_count(5, 7, batch=2) == counter.get_total_flops()


def test_pointwise_keeps_the_variance_of_white_noise():
    torch.manual_seed(7)
    with torch.no_grad():
        assert abs(float(CompressedPointwise(96, 64, 16)(torch.randn(4, 96, 40, 40)).var()) - 1) < 0.15


def test_filters_learn_what_a_dense_layer_would():
    """Back-propagation through the chains reaches a kernel of rank one: the loss falls by a thousand."""
    torch.manual_seed(8)
    wanted, layer = CompressedConv2d(3, 4, 5, padding=2), CompressedConv2d(3, 4, 5, padding=2)
    optimiser = torch.optim.Adam(layer.parameters(), lr=2e-2)
    losses = []
    for _ in range(400):
        x = torch.randn(4, 3, 16, 16)
        loss = (layer(x) - wanted(x).detach()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]


def test_bfloat16_agrees_to_its_digits():
    layer = layer_of((5, 5), {"padding": "same", "terms": 2, "padding_mode": "sphere"}, torch.float32)
    x = field_of(layer, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    with torch.no_grad():
        whole = layer(x)
    assert half.dtype == torch.bfloat16
    assert 1e-5 < float((half.float() - whole).norm() / whole.norm()) < 2e-2


EXPORTED = [FORMS_2D[1], FORMS_2D[3], FORMS_2D[6], FORMS_2D[7], LAST_2D[1]]


COMPILED = """
import torch
from forecast.layers.compressed_convolution import CompressedConv2d
torch.manual_seed(0)
layer = CompressedConv2d(6, 9, (5, 3), terms=2, padding="same", padding_mode="sphere", has_poles=True)
x = torch.randn(2, 6, 19, 22)
with torch.no_grad():
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-5, atol=1e-5)
"""


def test_compiled_layer_agrees():
    """In one graph, and in a process of its own: the tests' checks of shapes cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("kernel", "form"), EXPORTED)
def test_exported_program_is_read_back(kernel, form):
    layer = layer_of(kernel, form, torch.float32).eval()
    x = field_of(layer, torch.float32)
    file = io.BytesIO()
    torch.export.save(torch.export.export(layer, (x,)), file)
    file.seek(0)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(file).module()(x), layer(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kernel", "form"), EXPORTED + FORMS_3D[:1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporter's own imports
def test_onnx_gives_the_same_numbers(kernel, form, tmp_path):
    layer = layer_of(kernel, form, torch.float32).eval()
    x = field_of(layer, torch.float32)
    path = tmp_path / "layer.onnx"
    torch.onnx.export(layer, (x,), path, input_names=["x"], verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = layer(x).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CompressedConv2d(4, 4, 3, terms=0), "terms must be at least 1; got 0"),
        (lambda: CompressedConv2d(4, 4, 3, groups=3), "groups must divide in_channels and out_channels; got 3"),
        (lambda: CompressedConv2d(4, 4, (3, 3, 3)), "kernel_size must be one number of at least 1, or 2 of them"),
        (lambda: CompressedConv2d(4, 4, 3, stride=0), "stride must be one number of at least 1"),
        (lambda: CompressedConv2d(4, 4, 3, padding=-1), "padding must be a number of at least 0"),
        (lambda: CompressedConv2d(4, 4, 3, padding="full"), "padding must be a number of at least 0"),
        (lambda: CompressedConv2d(4, 4, 3, stride=2, padding="same"), "padding='same' needs stride 1; got (2, 2)"),
        (lambda: CompressedConv2d(4, 4, 3, padding_mode="mirror"), "padding_mode must be one of"),
        (lambda: CompressedConv2d(4, 4, 3, mix="middle"), "mix must be one of ('auto', 'first', 'last')"),
        (lambda: CompressedConv2d(4, 4, 3).flop_count(5), "grid must name 2 sizes"),
        (lambda: CompressedConv2d.from_dense(nn.Conv3d(4, 4, 3), 1), "dense must be a convolution over 2 axes"),
        (lambda: CompressedConv2d.from_dense(nn.ConvTranspose2d(4, 4, 3), 1), "not transposed; got ConvTranspose2d"),
        (lambda: CompressedPointwise(4, 6, 5), "rank must lie in 1..4"),
        (lambda: CompressedPointwise.from_dense(nn.Conv2d(4, 4, 3), 2), "dense must be a 1x1 convolution without"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


@pytest.mark.parametrize("mode", ["circular", "reflect"])
def test_halo_larger_than_the_field_is_refused(mode):
    with pytest.raises(ValueError, match=f"padding 6 with mode {mode} does not fit an axis of 5 points"):
        CompressedConv2d(2, 2, 13, padding=6, padding_mode=mode)(torch.randn(1, 2, 5, 20))


def test_padding_of_all_axes_is_the_librarys():
    x = torch.randn(1, 2, 5, 7)
    got = pad_axes(x, ((1, 2), (3, 0)), Padding("reflect"))
    torch.testing.assert_close(got, F.pad(x, (3, 0, 1, 2), mode="reflect"), rtol=0, atol=0)
    assert axis_reach("same", (4, 3), (1, 1), (1, 2)) == ((1, 2), (2, 2))
    assert DenseConv2d(2, 2, 3, reach=((1, 1), (1, 1)), edges=Padding())(x).shape == (1, 2, 5, 7)
