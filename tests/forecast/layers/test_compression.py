"""Compressed kernels in place of every dense convolution of a network, by its configuration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from forecast.layers.compressed_convolution import CompressedConv2d, CompressedPointwise
from forecast.layers.compression import CompressionConfig, approximate, closed, pointwise, spatial
from forecast.layers.depthwise import PlaneDepthwiseConv2d
from forecast.layers.mixers import MIXERS
from forecast.layers.patches import patch_embedding, patch_unembedding
from forecast.layers.scaled_pointwise import CompressedScaledPointwise, ScaledPointwise
from forecast.puyun import PuYun, PuYunConfig
from tests.helpers.puyun import make_requirements

TIME = np.array(["2021-03-01T06", "2021-03-02T12"], dtype="datetime64[ns]")
FULL = CompressionConfig(terms=1, rank=1.0)
SMALL = CompressionConfig(terms=1, rank=0.25)
FORMS = {name: {"mixer": name} for name in MIXERS}


def network(compression: CompressionConfig | None = None, **form) -> PuYun:
    torch.manual_seed(0)
    config = PuYunConfig(width=8, depth=(1, 1), patch=2, expansion=2, compression=compression or CompressionConfig(), **form)
    model = PuYun(config, make_requirements(33, 64)).eval()
    if compression is None:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


def run(model: PuYun) -> torch.Tensor:
    need = model.requirements
    frames = torch.randn(2, need.history, len(need.channels), *need.grid_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(frames, *model.inputs_at(TIME, torch.zeros(2).numpy()))


@pytest.mark.parametrize("form", FORMS)
def test_every_dense_convolution_of_the_weather_network_is_replaced(form: str) -> None:
    model = network(SMALL, **FORMS[form])
    inside = {id(part) for module in model.modules() if isinstance(module, CompressedPointwise) for part in module.children()}
    left = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels > module.groups and id(module) not in inside
    ]
    assert left == []
    dense = [one for one in network(**FORMS[form]).modules() if isinstance(one, nn.Conv2d) and one.in_channels > one.groups]
    replaced = [module for module in model.modules() if isinstance(module, CompressedConv2d | CompressedPointwise)]
    assert len(replaced) == len(dense) > 7
    ours, theirs = (sum(value.numel() for one in modules for value in one.parameters()) for modules in (replaced, dense))
    assert ours < 0.7 * theirs


@pytest.mark.parametrize("form", FORMS)
def test_a_compressed_network_of_full_rank_is_the_dense_one(form: str) -> None:
    """Nothing is lost at full rank, so every weight, bias, scale and statistic has found its place."""
    dense = network(**FORMS[form])
    with torch.no_grad():  # one chain is all of such a window, and alternating least squares find it
        dense.embedding.weight.copy_(CompressedConv2d(dense.embedding.in_channels, 8, 3).dense_weight())
    dense.mean_field.normal_()
    dense.tendency.fill_(2.0)
    compressed, errors = dense.compressed(FULL)
    assert compressed.config.compression == FULL
    assert max(errors.values()) < 1e-6
    assert len(errors) > 7
    torch.testing.assert_close(run(compressed.eval()), run(dense), rtol=1e-3, atol=1e-3)


def test_an_approximated_network_says_what_it_left() -> None:
    dense = network()
    compressed, errors = dense.compressed(SMALL)
    assert 0.1 < errors["embedding"] < 1
    name = "stages.0.0.dense.0"
    weight = dense.get_submodule(name).weight.detach()[:, :, 0, 0]
    values = torch.linalg.svdvals(weight.double())
    assert errors[name] == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-4)
    torch.testing.assert_close(compressed.stages[0][0].norm_dense.weight, dense.stages[0][0].norm_dense.weight)


def test_a_checkpoint_of_a_network_without_the_setting_still_loads() -> None:
    values = network().to_config()
    del values["compression"]
    assert not PuYun.from_config(values, make_requirements(21, 40)).config.compression.is_on
    again = PuYun.from_config(network(SMALL).to_config(), make_requirements(21, 40))
    assert again.config.compression == SMALL


def test_compressed_networks_learn_through_every_weight() -> None:
    model = network(SMALL)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    need = model.requirements
    frames = torch.randn(2, need.history, len(need.channels), *need.grid_shape)
    model(frames, *model.inputs_at(TIME, torch.zeros(2).numpy())).square().sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().max() > 0] == []


def test_dense_and_compressed_begin_with_the_same_variance() -> None:
    """White input keeps its variance, times the square of the gain, in the interior (2 % of sampling over 1e5 values)."""
    torch.manual_seed(0)
    x = torch.randn(2, 32, 48, 48)
    for compression in (CompressionConfig(), CompressionConfig(terms=2)):
        layers = [spatial(32, 32, 5, compression, gain=2.0) for _ in range(8)]
        inner = torch.stack([layer(x)[..., 4:-4, 4:-4].detach().var() for layer in layers])
        assert float(inner.mean()) == pytest.approx(4.0, rel=0.05)


def test_a_closed_convolution_returns_zeros_and_can_learn() -> None:
    x = torch.randn(1, 4, 6, 6)
    for layer in (spatial(4, 3, 3), spatial(4, 3, 3, SMALL), pointwise(4, 3), pointwise(4, 3, SMALL)):
        assert closed(layer) is layer
        assert not layer(x).any()
        layer(x).sum().backward()
        assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in layer.parameters())


def test_a_scaled_layer_keeps_its_scale() -> None:
    torch.manual_seed(0)
    dense, x = ScaledPointwise(6, 4, scale=0.5), torch.randn(1, 6, 3, 5)
    with torch.no_grad():
        dense.scale.normal_()
    compressed = CompressedScaledPointwise(6, 4, rank=4, scale=0.5)
    assert float(compressed.scale.detach().max()) == 0.5
    compressed.approximate(dense)
    with torch.no_grad():
        compressed.scale.copy_(dense.scale)
    torch.testing.assert_close(compressed(x), dense(x))
    torch.testing.assert_close(compressed.to_dense()(x), dense(x))


def test_windows_and_heads_are_compressed_where_that_is_asked_for() -> None:
    assert isinstance(patch_embedding(3, 8, 2, has_poles=True, compression=SMALL), CompressedConv2d)
    assert not isinstance(patch_embedding(3, 8, 1, has_poles=True, compression=SMALL), CompressedConv2d)  # a matrix
    assert not isinstance(patch_embedding(3, 8, 2, has_poles=True), CompressedConv2d)
    assert isinstance(patch_unembedding(8, 3, 2, has_poles=True, compression=SMALL), CompressedPointwise)


@pytest.mark.parametrize(("kernel_size", "dilation"), [(5, 1), (7, 3)])
@pytest.mark.parametrize("columns", [12, 13])
def test_filters_on_a_plane_see_zeros_beyond_its_edges(kernel_size: int, dilation: int, columns: int) -> None:
    torch.manual_seed(0)
    layer = PlaneDepthwiseConv2d(3, kernel_size, dilation=dilation)
    x = torch.randn(2, 3, 11, columns, requires_grad=True)
    wanted = nn.functional.conv2d(x, layer.weight, layer.bias, padding=layer.reach, dilation=dilation, groups=3)
    got = layer(x)
    torch.testing.assert_close(got, wanted)
    shape = torch.randn_like(got)
    gradients = [torch.autograd.grad((y * shape).sum(), (x, layer.weight)) for y in (got, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_networks_that_differ_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="0 is compressed, and the dense network has no convolution there"):
        approximate(nn.Sequential(CompressedPointwise(4, 4, 2)), nn.Sequential(nn.GELU()))
    with pytest.raises(ValueError, match="parameter 0.weight of the compressed network is not in the dense one"):
        approximate(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 3)))
    with pytest.raises(
        ValueError, match=r"dense must have kernels of shape \(4, 4, 3, 3\); got \(4, 4, 5, 5\). Use from_dense"
    ):
        CompressedConv2d(4, 4, 3).approximate(nn.Conv2d(4, 4, 5))
    with pytest.raises(ValueError, match=r"dense must have weights of shape \(4, 4, 1, 1\)"):
        CompressedPointwise(4, 4, 2).approximate(nn.Conv2d(5, 4, 1))
