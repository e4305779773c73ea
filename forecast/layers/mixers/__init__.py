"""Mixers: what lets a point of the latent field see the others. One operator each, chosen by `model.mixer`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from forecast.layers.latent import Latent
from forecast.layers.mixers.dilated_reparam import DilatedReparam
from forecast.layers.mixers.ffnified import FFNified
from forecast.layers.mixers.frequency_filter import FrequencyFilter
from forecast.layers.mixers.gated_large_kernel import GatedLargeKernelAttention
from forecast.layers.mixers.inception import Inception
from forecast.layers.mixers.learnable_spacing import LearnableSpacing
from forecast.layers.mixers.lka import LargeKernelAttention
from forecast.layers.mixers.long_convolution import LongConvolution
from forecast.layers.mixers.ls import LargeSmall
from forecast.layers.mixers.neighborhood_attention import NeighborhoodAttention
from forecast.layers.mixers.omni_strip import OmniStrip

# Each takes the latent width and grid; the module keeps the shape (batch, width, lat, lon).
MIXERS: dict[str, Callable[[int, Latent], nn.Module]] = {
    "lka": LargeKernelAttention,
    "gated_large_kernel": GatedLargeKernelAttention,
    "dilated_reparam": DilatedReparam,
    "inception": Inception,
    "ffnified": FFNified,
    "learnable_spacing": LearnableSpacing,
    "frequency_filter": FrequencyFilter,
    "long_convolution": LongConvolution,
    "ls": LargeSmall,
    "omni_strip": OmniStrip,
    "neighborhood_attention": NeighborhoodAttention,
}

__all__ = ["MIXERS", "Latent"]
