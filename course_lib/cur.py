"""CUR: a matrix from a few of its columns and rows (Mahoney & Drineas 2009), for minimum-risk choices.

    A  ~  C U R        C = A[:, columns],  R = A[rows],  U = pinv(A[rows][:, columns])

Exact where the entries at which they cross have the rank of A. For utilities of N candidates, minimum Bayes risk
needs N^2 calls; C and R are N (c + r) - c r.  Retrieval by a cross-encoder: Yadav et al. 2022 (arXiv:2210.12579).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .shapes import check_count, check_scalar, describe

Index = Int[Tensor, " _"]


def core(
    crossing: Float[Tensor, "r c"], rank: int | None = None
) -> Float[Tensor, "c r"]:
    """U = pinv of what stands where rows and columns cross; with `rank`, of its largest singular values only.

    Small singular values are divided by: without them the rest of A is fitted less and its noise is not blown up.
    """
    good = isinstance(crossing, Tensor) and crossing.ndim == 2 and crossing.numel()
    if not good or not crossing.isfinite().all():
        raise ValueError(
            f"crossing must be a finite matrix (r, c), not {describe(crossing)}"
        )
    left, size, right = torch.linalg.svd(crossing.double(), full_matrices=False)
    least = max(crossing.shape) * torch.finfo(torch.float64).eps * size[:1]
    keep = size > least
    if rank is not None:
        check_count("rank", rank, least=0)
        if not 1 <= rank <= len(size):
            raise ValueError(f"rank must lie in 1..{len(size)}, not {rank}")
        keep &= torch.arange(len(size)) < rank
    inverse = torch.where(keep, 1 / size, 0)
    return right.T * inverse @ left.T


def cur(
    utility: Callable[[int, int], float],
    N: int,
    rows: Index,
    columns: Index,
    rank: int | None = None,
) -> tuple[Float[Tensor, "N N"], int]:
    """The matrix utility(i, j) for i, j < N from some rows and columns, float64, and how many calls it took.

    Entries that were called for are as they were called for.
    """
    check_count("N", N)
    check_index("rows", rows, N)
    check_index("columns", columns, N)
    A = torch.zeros(N, N, dtype=torch.float64)
    known = torch.zeros(N, N, dtype=torch.bool)
    known[rows], known[:, columns] = True, True
    for i, j in known.nonzero().tolist():
        value = utility(i, j)
        check_scalar(f"utility({i}, {j})", value)
        A[i, j] = value
    if not A.isfinite().all():
        i, j = (~A.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"utility({i}, {j}) must be finite, not {A[i, j]:g}")
    guess = A[:, columns] @ core(A[rows][:, columns], rank) @ A[rows]
    return torch.where(known, A, guess), int(known.sum())


def mean_utility(A: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
    """Mean utility of each candidate (row) against the others, as `text_metrics.mbr` has it."""
    if not isinstance(A, Tensor) or A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be a square matrix (N, N), not {describe(A)}")
    others = A.sum(1) - A.diagonal()
    return others / max(1, len(A) - 1)


def check_index(name: str, index: Index, N: int) -> None:
    """Raise unless index holds different numbers 0..N-1, at least one."""
    good = isinstance(index, Tensor) and index.ndim == 1 and len(index) > 0
    if not good or index.is_floating_point() or index.dtype == torch.bool:
        raise TypeError(
            f"{name} must be a tensor of integers (n,), not {describe(index)}"
        )
    if not ((index >= 0) & (index < N)).all() or len(index.unique()) < len(index):
        raise ValueError(
            f"{name} must be different numbers 0..{N - 1}, not {index.tolist()}"
        )
