"""Chains of one-way filters in fewer calls: the same function, wherever merging is worth it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from forecast.layers.compressed_convolution import CompressedConv2d, CompressedConv3d, CompressedPointwise
from forecast.layers.compression import CompressionConfig
from forecast.layers.merged_convolution import MergedConv, merged
from forecast.layers.padding import DenseConv2d, DenseConv3d
from forecast.layers.scaled_pointwise import CompressedScaledPointwise, ScaledPointwise
from forecast.puyun import PuYun, PuYunConfig
from tests.forecast.layers.test_compressed_convolution import FORMS, field_of, layer_of
from tests.helpers.puyun import make_requirements


@pytest.mark.parametrize(("kernel", "form"), FORMS)
def test_a_merged_layer_computes_the_same_function(kernel, form):
    layer = layer_of(kernel, form)
    x = field_of(layer)
    other = merged(layer, most_arithmetic=1e9)
    assert type(other) in (MergedConv, DenseConv2d, DenseConv3d)
    with torch.no_grad():
        torch.testing.assert_close(other(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "form"), FORMS)
def test_two_way_filters_compute_the_same_function(kernel, form):
    """In every form that has them, worth it or not."""
    layer = layer_of(kernel, form)
    if layer.channel_filter is None or layer.groups > 1:
        with pytest.raises(ValueError, match="chains must mix channels, without groups"):
            MergedConv(layer)
        return
    x = field_of(layer)
    with torch.no_grad():
        torch.testing.assert_close(MergedConv(layer)(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (CompressedConv2d(16, 16, 7, terms=2, padding="same"), MergedConv),
        (CompressedConv3d(16, 16, (3, 3, 3), padding="same"), MergedConv),
        (CompressedConv2d(2, 16, 7, terms=2, padding="same"), DenseConv2d),  # as few multiplications, and one call
        (CompressedConv2d(64, 64, 31, terms=2, padding="same"), CompressedConv2d),  # eight times the arithmetic of one-way ones
        (CompressedConv2d(64, 64, 7, terms=2, padding="same", groups=2), CompressedConv2d),  # dense: seventeen times
        (CompressedConv2d(16, 16, 7, terms=2, padding="same", groups=16), DenseConv2d),
        (CompressedConv2d(16, 16, 31, terms=1, padding="same", groups=16), CompressedConv2d),
        (CompressedConv3d(4, 4, 3, terms=2, padding="same", groups=4), DenseConv3d),
        (CompressedPointwise(8, 8, 4), nn.Conv2d),
        (CompressedPointwise(64, 64, 4), CompressedPointwise),
        (CompressedScaledPointwise(8, 8, 4, 1.0), ScaledPointwise),
    ],
)
def test_the_form_is_the_one_with_the_least_work(layer, kind):
    assert type(merged(layer)) is kind


def test_a_compressed_weather_network_forecasts_the_same():
    """Its patches are more than a convolution, and stay."""
    torch.manual_seed(0)
    form = {"width": 16, "depth": (1, 1), "patch": 2, "expansion": 2, "compression": CompressionConfig(terms=2, rank=0.5)}
    model = PuYun(PuYunConfig(**form), make_requirements(33, 64)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    other = merged(model)
    left = dict(other.named_modules())
    replaced = [name for name, layer in model.named_modules() if name in left and type(layer) is not type(left[name])]
    assert len(replaced) > 7
    frames = torch.randn(2, 2, len(model.requirements.channels), 33, 64)
    inputs = model.inputs_at(np.array(["2021-03-01T06", "2021-03-02T12"], "datetime64[ns]"), np.zeros(2))
    with torch.no_grad():
        wanted = model(frames, *inputs)
        torch.testing.assert_close(other(frames, *inputs), wanted, rtol=1e-3, atol=1e-3 * float(wanted.std()))


def test_the_network_stays_as_it_was():
    network = nn.Sequential(CompressedConv2d(16, 16, 7, terms=2, padding="same"), nn.GELU(), CompressedPointwise(16, 4, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    other = merged(network)
    for value in other.state_dict().values():
        value.zero_()
    assert type(network[0]) is CompressedConv2d
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_fewer_calls_are_made():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Count.calls += func is torch.ops.aten.convolution.default
            return func(*args, **(kwargs or {}))

    layer, calls = CompressedConv2d(16, 16, 7, terms=2, padding="same"), []
    for form in (layer, merged(layer)):
        Count.calls = 0
        with torch.no_grad(), Count():
            form(torch.zeros(1, 16, 24, 24))
        calls.append(Count.calls)
    assert calls == [6, 2]
