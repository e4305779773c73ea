"""A network cut into latitude bands, one per process, gives what it gives on whole globes."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from forecast.layers.globe import Band, route_of_halo
from forecast.layers.spherical_padding import pad_sphere
from forecast.puyun import PuYun
from forecast.spatial_sharding import even_borders
from tests.helpers.puyun import make_puyun, make_requirements
from tests.helpers.training import ranks_of

TIME = np.array(["2026-01-05T00", "2026-07-05T06"], "datetime64[ns]")


@dataclass(frozen=True)
class Case:
    """A network, and how it is cut; `borders` of latent rows by the number of processes."""

    name: str
    rows: int
    columns: int
    borders: dict[int, list[int]]
    patch: int = 1
    mixer: str = "gated_large_kernel"
    fast_filters: bool = True
    gradient_checkpointing: bool = False
    double: bool = False


CASES = (
    Case("poles, own kernels", 13, 24, {2: [0, 6, 13], 3: [0, 4, 8, 13]}),
    Case("poles, library", 13, 24, {2: [0, 5, 13], 3: [0, 5, 6, 13]}, mixer="lka", fast_filters=False, double=True),
    Case("poles, phases", 15, 24, {2: [0, 7, 15], 3: [0, 2, 12, 15]}, mixer="lka", double=True),
    Case("no poles", 12, 24, {2: [0, 6, 12], 3: [0, 3, 6, 12]}, double=True),
    Case("even patch", 41, 48, {2: [0, 7, 11], 3: [0, 3, 8, 11]}, patch=4, double=True),
    Case("even patch, own kernels", 21, 40, {2: [0, 4, 11], 3: [0, 5, 6, 11]}, patch=2),
    Case("odd patch", 31, 48, {2: [0, 3, 11], 3: [0, 1, 9, 11]}, patch=3, double=True),
    Case("patch, no poles", 24, 48, {2: [0, 5, 12], 3: [0, 4, 8, 12]}, patch=2, mixer="lka", double=True),
    Case("one row", 13, 24, {2: [0, 1, 13], 3: [0, 1, 2, 13]}, double=True),
    Case("recomputed", 13, 24, {2: [0, 6, 13], 3: [0, 4, 8, 13]}, gradient_checkpointing=True, double=True),
)  # fmt: skip


def network(case: Case) -> PuYun:
    need = make_requirements(case.rows, case.columns)
    settings = {"patch": case.patch, "mixer": case.mixer, "fast_filters": case.fast_filters}
    model = make_puyun(need, gradient_checkpointing=case.gradient_checkpointing, **settings).train()
    return model.double() if case.double else model


def forward_and_backward(model: PuYun, case: Case) -> dict[str, Tensor]:
    """Output, and gradients of the weights and of the frames, of a sum that counts every value otherwise."""
    need = model.requirements
    torch.manual_seed(1)
    dtype = torch.float64 if case.double else torch.float32
    shape = (2, need.history, len(need.channels), *need.grid_shape)
    frames, weights = torch.randn(shape, dtype=dtype), torch.randn(2, *shape[2:], dtype=dtype)
    frames = frames[..., model.rows, :].requires_grad_()
    inputs = [value.to(dtype) for value in model.inputs_at(TIME, np.array([0.0, 12.0]))]
    output = model.normalised_tendency(frames, *inputs)
    (output * weights[..., model.rows, :]).sum().backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    return {"output": output.detach(), "frames": frames.grad, **gradients}


PROGRAM = """
import sys
import torch, torch.distributed as dist
from safetensors.torch import save_file
from forecast.spatial_sharding import shard_by_latitude
from forecast.training.parallel import joined
from tests.forecast.test_spatial_sharding import CASES, forward_and_backward, network
with joined(int(sys.argv[2]), "cpu") as place:
    for case in CASES:
        model = network(case)
        shard_by_latitude(model, place.group, case.borders[place.bands])
        results = forward_and_backward(model, case)
        for name in sorted(set(results) - {"output", "frames"}):
            dist.all_reduce(results[name])
        save_file({name: value.contiguous() for name, value in results.items()}, f"{sys.argv[1]}/{case.name}-{place.rank}")
"""


@pytest.fixture(scope="module", params=[2, 3])
def bands(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    folder = tmp_path_factory.mktemp("bands")
    ranks_of(request.param, [sys.executable, "-c", PROGRAM, str(folder), str(request.param)])
    return request.param, folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bands_equal_the_whole_globe(case: Case, bands: tuple[int, Path]) -> None:
    count, folder = bands
    wanted = forward_and_backward(network(case), case)
    parts = [load_file(folder / f"{case.name}-{rank}") for rank in range(count)]
    # Sums of a few hundred terms in another order; a row that is missing or taken twice changes a tenth of a value and more.
    tolerance = 1e-12 if case.double else 1e-5
    for name, value in wanted.items():
        got = torch.cat([part[name] for part in parts], dim=-2) if name in ("output", "frames") else parts[0][name]
        torch.testing.assert_close(got, value, rtol=tolerance, atol=tolerance * float(value.abs().max()))


@pytest.mark.parametrize("has_poles", [True, False])
@pytest.mark.parametrize("borders", [(0, 5, 10), (0, 1, 10), (0, 9, 10), (0, 3, 4, 10), tuple(range(11))], ids=str)
@pytest.mark.parametrize(("north", "south"), [(0, 2), (2, 0), (3, 3), (9, 9)])
def test_every_route_leads_to_the_rows_beyond_the_edges(
    has_poles: bool, borders: tuple[int, ...], north: int, south: int
) -> None:
    """The exchange done by hand, for all bands at once: the halo that `pad_sphere` gives the globe."""
    rows = torch.arange(10.0).view(1, 1, 10, 1).expand(1, 1, 10, 2)
    padded = pad_sphere(rows, 9, 0, has_poles=has_poles)[0, 0, :, 0]
    routes = [route_of_halo(borders, band, north, south, has_poles) for band in range(len(borders) - 1)]
    for band, route in enumerate(routes):
        received = []
        for other, sender in enumerate(routes):
            begin = sum(sender.sent_to[:band])
            received += [borders[other] + row for row in sender.sent[begin : begin + sender.sent_to[band]]]
            assert route.received_from[other] == sender.sent_to[band]
        halo = [float(received[position]) for position in route.order]
        begin, end = borders[band] + 9, borders[band + 1] + 9
        assert halo == [*padded[begin - north : begin].tolist(), *padded[end : end + south].tolist()]
        assert route.over_north == max(0, north - borders[band])
        assert route.over_south == max(0, borders[band + 1] + south - 10)


def test_bands_are_as_even_as_can_be() -> None:
    assert even_borders(91, 4) == [0, 22, 45, 68, 91]
    with pytest.raises(ValueError, match="bands must not be more than the 3 rows of the latent field; got 4"):
        even_borders(3, 4)


@pytest.mark.parametrize(("rows", "patch", "latent"), [(721, 8, 91), (121, 2, 61), (720, 8, 90), (13, 1, 13)])
def test_latent_rows_are_those_of_the_embedding(rows: int, patch: int, latent: int) -> None:
    model = make_puyun(make_requirements(rows, 4 * patch), patch=patch)
    assert model.latent.rows == latent


@pytest.mark.parametrize("borders", [[1, 5], [0, 5, 5], [0, 6, 5]])
def test_borders_that_leave_a_band_empty_are_refused(borders: list[int]) -> None:
    with pytest.raises(ValueError, match="borders must begin with 0 and increase"):
        Band(borders, 0)


def test_halo_larger_than_the_globe_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit a field of 4 x 8"):
        Band([0, 2, 4], 0).pad(torch.zeros(1, 1, 2, 8), 5, 5, has_poles=False)
