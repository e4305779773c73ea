"""Patches: poles stay poles, cells stay in their place."""

import pytest
import torch

from forecast.layers.patches import PatchEmbedding, PatchUnembedding, check_patch


@pytest.mark.parametrize(("rows", "columns", "patch", "has_poles", "latent"), [
    (73, 144, 1, True, (73, 144)),
    (73, 144, 2, True, (37, 72)),
    (73, 144, 3, True, (25, 48)),
    (721, 1440, 8, True, (91, 180)),
    (32, 64, 2, False, (16, 32)),
])  # fmt: skip
def test_embedding_and_unembedding_keep_the_grid(
    rows: int, columns: int, patch: int, has_poles: bool, latent: tuple[int, int]
) -> None:
    check_patch(rows, columns, patch, has_poles)
    small = PatchEmbedding(1, 2, patch, has_poles=has_poles)(torch.zeros(1, 1, rows, columns))
    assert small.shape == (1, 2, *latent)
    assert PatchUnembedding(2, 3, patch, has_poles=has_poles)(small).shape == (1, 3, rows, columns)


@pytest.mark.parametrize(("patch", "rows"), [(2, 13), (3, 13), (4, 13), (2, 12)])
def test_cells_come_back_to_their_place(patch: int, rows: int) -> None:
    """A latent field that holds latitude and longitude of its centres, spread to its cells, is off by less than a patch."""
    has_poles, columns = rows % 2 == 1, 24
    first = torch.arange(rows, dtype=torch.float32)[:, None].expand(rows, columns)
    embedding, head = PatchEmbedding(1, 1, patch, has_poles=has_poles), PatchUnembedding(1, 1, patch, has_poles=has_poles)
    with torch.no_grad():
        embedding.weight.zero_()
        embedding.weight[0, 0, embedding.halo, embedding.halo] = 1
        embedding.bias.zero_()
        head.weight.fill_(1)
        head.bias.zero_()
        for field in (first, torch.arange(columns, dtype=torch.float32).expand(rows, columns)):
            back = head(embedding(field[None, None]))[0, 0]
            distance = (back - field).abs()
            distance = torch.minimum(distance, columns - distance)
            assert distance.max() < patch
    if has_poles:
        assert torch.equal(head(embedding(first[None, None]))[0, 0, [0, -1], 0], torch.tensor([0.0, rows - 1.0]))


@pytest.mark.parametrize(("rows", "columns", "patch", "has_poles", "message"), [
    (73, 144, 5, True, "patch 5 must divide rows - 1"),
    (32, 64, 3, False, "patch 3 must divide rows and columns"),
    (13, 18, 6, True, "leaves 3 latent columns; an even number"),
])  # fmt: skip
def test_grid_that_does_not_divide_is_refused(rows: int, columns: int, patch: int, has_poles: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_patch(rows, columns, patch, has_poles)
