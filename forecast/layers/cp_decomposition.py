"""Kernels as sums of rank-one terms: singular values where there are two ways, alternating least squares where more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Alternating least squares ends in local optima and crawls where terms are nearly parallel; the best of these starts is kept,
# for each kernel.
STARTS = ("algebraic", "singular", "random", "random")
SMALLEST = 1e-300  # stands for the length of a vector of zeros
RIDGE = 1e-12  # on the diagonal of products of unit vectors: keeps terms that became parallel from dividing by zero


def decompose(
    kernels: Float[Tensor, kernel * ways], terms: int, *, sweeps: int = 200, seed: int = 0
) -> list[Float[Tensor, "term kernel size"]]:
    """Approximate every kernel by a sum of `terms` outer products; returns the vectors, way by way.

    Parameters
    ----------
    kernels
        The kernels, each of any number of ways; ways of size 1 are carried along.
    terms
        Outer products per kernel.
    sweeps
        Sweeps of the alternating least squares where a kernel has three or more ways.
    seed
        Of its random starts.

    Returns
    -------
    One tensor per way in the dtype of `kernels`, with vectors that share a term's size evenly.
    """
    exact = kernels.detach().double()
    sizes = exact.shape[1:]
    core = exact.reshape(exact.shape[0], *(size for size in sizes if size > 1))
    if core.ndim < 3:
        found = [F.pad(core.reshape(core.shape[0], -1, 1), (0, terms - 1))]  # a vector is one term of itself
    else:
        found = _from_singular_values(core, terms) if core.ndim == 3 else _from_least_squares(core, terms, sweeps, seed)
    ones = exact.new_ones(exact.shape[0], 1, terms)
    vectors = [found.pop(0) if size > 1 else ones for size in sizes]
    if found:  # every way has the size 1
        vectors[0] = found.pop()
    return [vector.permute(2, 0, 1).to(kernels.dtype).contiguous() for vector in _balanced(vectors)]


def _from_singular_values(core: Tensor, terms: int) -> list[Tensor]:
    """The truncated decomposition of matrices (kernel, m, n): no other so many terms are nearer (Eckart and Young, 1936)."""
    left, values, right = torch.linalg.svd(core, full_matrices=False)
    kept = min(terms, values.shape[1])
    pairs = [(left * values[:, None])[..., :kept], right.transpose(1, 2)[..., :kept]]
    return [F.pad(one, (0, terms - kept)) for one in pairs]


def _from_least_squares(core: Tensor, terms: int, sweeps: int, seed: int) -> list[Tensor]:
    """Solve for one way at a time, the others held (Carroll and Chang, 1970); the best of `STARTS` starts for each kernel."""
    generator = torch.Generator().manual_seed(seed)
    best: list[Tensor] = []
    least = core.new_full((core.shape[0],), torch.inf)
    for start in STARTS:
        vectors = _start(core, terms, generator, start)
        if vectors is None:
            continue
        for _ in range(sweeps):
            for way in range(core.ndim - 1):
                for place, vector in enumerate(vectors):
                    vectors[place] = vector / vector.norm(dim=1, keepdim=True).clamp_min(SMALLEST)
                vectors[way] = _solve(core, vectors[:way] + vectors[way + 1 :], way)
        error = (compose(vectors) - core).flatten(1).norm(dim=1)
        better = error < least
        best = (
            vectors
            if not best
            else [torch.where(better[:, None, None], new, old) for new, old in zip(vectors, best, strict=True)]
        )
        least = torch.minimum(least, error)
    return best


def _start(core: Tensor, terms: int, generator: torch.Generator, kind: str) -> list[Tensor] | None:
    """Vectors to begin with: `_algebraic`, leading singular vectors of the unfoldings filled up with noise, or noise."""
    if kind == "algebraic":
        return _algebraic(core, terms, generator)
    vectors = [
        torch.randn(core.shape[0], size, terms, generator=generator, dtype=torch.float64).to(core.device)
        for size in core.shape[1:]
    ]
    if kind == "singular":
        for way, vector in enumerate(vectors):
            left = torch.linalg.svd(_unfold(core, way), full_matrices=False)[0]
            kept = min(terms, left.shape[2])
            vector[..., :kept] = left[..., :kept]
    return vectors


def _algebraic(core: Tensor, terms: int, generator: torch.Generator) -> list[Tensor] | None:
    """The terms themselves, where a kernel is a sum of so few that two ways hold them all: no iteration, however parallel.

    Two mixtures of slices have the same vectors on both sides and different weights between, so that the vectors of one
    way are eigenvectors of the one times the inverse of the other (Harshman, 1970; Leurgans, Ross and Abel, 1993). The other
    ways follow by least squares. Of other kernels it is one more start.
    """
    sizes = core.shape[1:]
    first, second = sorted(range(len(sizes)), key=lambda way: -sizes[way])[:2]
    if terms < 2 or min(sizes[first], sizes[second]) < terms:
        return None
    rest = [way for way in range(len(sizes)) if way not in (first, second)]
    ordered = core.permute(0, first + 1, second + 1, *(way + 1 for way in rest))
    slices = ordered.flatten(3)
    left = torch.linalg.svd(slices.flatten(2), full_matrices=False)[0][..., :terms]
    right = torch.linalg.svd(slices.transpose(1, 2).flatten(2), full_matrices=False)[0][..., :terms]
    mixtures = torch.randn(slices.shape[3], 2, generator=generator, dtype=torch.float64).to(core.device)
    one, other = (left.transpose(1, 2) @ (slices @ mixtures[:, place]) @ right for place in range(2))
    own = torch.linalg.eig(one @ torch.linalg.pinv(other)).eigenvectors.real
    vectors = [left @ own]
    # What is left beside each term is one outer product of the other ways.
    beside = (torch.linalg.pinv(vectors[0]) @ slices.flatten(2)).unflatten(2, ordered.shape[2:])
    for _ in range(len(sizes) - 2):
        matrices = beside.flatten(3)
        outer, values, inner = torch.linalg.svd(matrices, full_matrices=False)
        vectors.append((outer[..., 0] * values[..., :1]).transpose(1, 2))
        beside = inner[..., 0, :].unflatten(2, beside.shape[3:])
    vectors.append(beside.transpose(1, 2))
    found = dict(zip([first, second, *rest], vectors, strict=True))
    return [found[way] for way in range(len(sizes))]


def _solve(core: Tensor, others: list[Tensor], way: int) -> Tensor:
    """Vectors of one way that fit best beside `others`, which have unit length."""
    product, gram = others[0], others[0].transpose(1, 2) @ others[0]
    for other in others[1:]:
        product = torch.einsum("kar,kbr->kabr", product, other).flatten(1, 2)
        gram = gram * (other.transpose(1, 2) @ other)
    gram = gram + RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, (_unfold(core, way) @ product).transpose(1, 2)).transpose(1, 2)


def _unfold(core: Tensor, way: int) -> Tensor:
    """Matrices (kernel, size of this way, all other ways in order)."""
    return core.movedim(way + 1, 1).flatten(2)


def compose(vectors: list[Float[Tensor, "kernel size term"]]) -> Float[Tensor, kernel * ways]:
    """Sum of outer products of vectors with the term last."""
    letters = "abcdefg"[: len(vectors)]
    return torch.einsum(",".join(f"k{letter}r" for letter in letters) + f"->k{letters}", *vectors)


def _balanced(vectors: list[Tensor]) -> list[Tensor]:
    """The same products, with every vector of a term equally long: no way learns faster than another."""
    lengths = [vector.norm(dim=1, keepdim=True) for vector in vectors]
    size = torch.stack(lengths).prod(dim=0)
    share = size ** (1 / len(vectors))
    return [
        torch.where(size > 0, vector / length.clamp_min(SMALLEST) * share, 0.0)
        for vector, length in zip(vectors, lengths, strict=True)
    ]
