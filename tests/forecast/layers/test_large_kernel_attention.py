"""Attention by large kernels: how far it sees, and that it multiplies."""

import torch

from forecast.layers.large_kernel_attention import ChannelNorm, LargeKernel
from forecast.layers.latent import Latent
from forecast.layers.mixers.gated_large_kernel import GatedLargeKernelAttention
from forecast.layers.mixers.lka import LargeKernelAttention

LATENT = Latent(21, 24, has_poles=True)


def test_large_kernel_reaches_eleven_cells() -> None:
    """5x5, then 7x7 dilated by 3: 2 + 9 cells to each side (arXiv 2202.09741)."""
    layer = LargeKernel(1, LATENT)
    x = torch.zeros(1, 1, 61, 60, requires_grad=True)
    layer(x)[0, 0, 30, 30].backward()
    rows, columns = torch.nonzero(x.grad[0, 0], as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (19, 41)
    assert (int(columns.min()), int(columns.max())) == (19, 41)


def test_attention_is_a_product_with_its_input() -> None:
    """With a large kernel that answers 1 everywhere, VAN's attention is two 1x1 convolutions and a GELU."""
    layer = LargeKernelAttention(3, LATENT)
    with torch.no_grad():
        layer.large_kernel[2].weight.zero_()
        layer.large_kernel[2].bias.fill_(1.0)
    x = torch.randn(1, 3, 21, 24)
    wanted = layer.project_out(torch.nn.functional.gelu(layer.project_in(x)))
    torch.testing.assert_close(layer(x), wanted)


def test_gate_of_zero_closes_the_gated_form() -> None:
    layer = GatedLargeKernelAttention(3, LATENT)
    with torch.no_grad():
        layer.large_kernel[2].weight.zero_()
        layer.large_kernel[2].bias.zero_()
    x = torch.randn(1, 3, 21, 24)
    torch.testing.assert_close(layer(x), layer.project_out.bias.view(1, -1, 1, 1).expand_as(x))


def test_the_gated_product_begins_with_a_linear_look_around() -> None:
    """With values around zero a small anomaly would change what is at its own place and nothing around it."""
    torch.manual_seed(0)
    layer, x = GatedLargeKernelAttention(16, LATENT), torch.zeros(1, 16, 21, 24)
    x[0, :, 10, 12] = 0.1 * torch.randn(16)
    change = (layer(x) - layer(torch.zeros_like(x))).abs()
    here = change[0, :, 10, 12].sum()
    assert change.sum() - here > 5 * here


def test_channel_norm_normalises_every_point() -> None:
    out = ChannelNorm(8)(3 + 5 * torch.randn(2, 8, 5, 6))
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 5, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(2, 5, 6), atol=1e-3, rtol=0)
