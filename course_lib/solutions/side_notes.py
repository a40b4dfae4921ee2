"""Appendix A1, side notes: the reference answers, what is asked of an answer, and the classic wrong ones.

The truths go through one pair, one position, one candidate at a time.
A wrong answer in quotes is the reference with that text changed.
"""

import torch

from ..cases import uniform
from ..checks import at_least, case
from ..exercise import define

# --- shorter ---


def far(K):
    """Lengths of edges: some are very long, the diagonal is 0, no two are equal."""
    lengths = uniform(K, K) + 0.1
    lengths[torch.rand(K, K) < 0.4] *= 20
    return lengths.fill_diagonal_(0)


def shorter(D, W):
    """min_k (D_ik + W_kj): the shortest ways made of one in D and then one edge of W.  (A1.1)"""
    return (D[:, :, None] + W[None]).amin(1)


def by_pair(D, W):
    """One pair at a time."""
    n, K, m = len(D), len(W), W.shape[1]
    out = torch.full((n, m), torch.inf, dtype=D.dtype)
    for i in range(n):
        for j in range(m):
            for k in range(K):
                out[i, j] = min(out[i, j], D[i, k] + W[k, j])
    return out


define(
    shorter,
    truth=by_pair,
    cases=lambda: [
        case(far(3), far(3), name="three words"),
        case(far(6), far(6), name="six words"),
        case(far(7)[:2], far(7), name="from two of seven words"),
    ],
    limits={
        "where every edge is longer than all distances, no distance changes": {
            "W": lambda a: torch.full_like(a.W, 99.0).fill_diagonal_(0)
        }
    },
    properties=(at_least(0),),
    mistakes="""
    the longest
        .amin(1) -> .amax(1)
        of all ways it is the shortest that counts: which of min and max is that?
    backwards
        W[None] -> W.T[None]
        W[k, j] leads from k to j: in yours the edge is walked backwards
    the sum over ways
        .amin(1) -> .sum(1)
        you add up all ways; a matrix product in which + takes the place of x needs something else in the place of
        the sum
    a product
        D[:, :, None] + W[None] -> D[:, :, None] * W[None]
        lengths along a way are added, not multiplied: what is the length of two edges of 2?
    entry by entry
        = torch.minimum(D, W[: len(D)])
        you compare D with W entry by entry: a way through a third word is never seen
    """,
)

# --- positions ---


def positions(scores, L):
    """The L places with the smallest scores, in rising order: L of len(scores) without replacement.  (A1.3)"""
    return scores.argsort()[:L].sort().values


def one_at_a_time(scores, L):
    """The smallest of those left, L times; then in order."""
    left = list(range(len(scores)))
    chosen = []
    for _ in range(L):
        chosen.append(min(left, key=lambda i: scores[i].item()))
        left.remove(chosen[-1])
    return torch.tensor(sorted(chosen))


define(
    positions,
    truth=one_at_a_time,
    cases=lambda: [(torch.rand(n), L) for n, L in ((5, 2), (9, 4), (20, 7), (6, 6))],
    properties=(at_least(0),),
    mistakes="""
    not in order
        .argsort()[:L].sort().values -> .argsort()[:L]
        your positions do not rise: then a later letter may stand before an earlier one
    the scores
        .argsort()[:L] -> .sort().values[:L]
        you return the scores themselves; wanted is where they stand
    the largest
        scores.argsort() -> scores.argsort(descending=True)
        any L at random would do, but asked for are those of the smallest scores
    the first
        scores.argsort()[:L].sort().values -> torch.arange(L)
        these are the positions of plain rotary attention: the scores have no say
    ranks of the first
        = scores.argsort().argsort()[:L].sort().values
        argsort twice gives the rank of each score: whose rank is asked for?
    """,
)

# --- estimated ---


def utilities(N):
    """A matrix of rank 2 and a little more; rows and columns are different numbers."""
    A = uniform(N, 2) @ uniform(2, N)
    A = A + 0.05 * uniform(N, N)
    order = torch.randperm(N)
    r = 2 + N // 10
    return A, order[:r], order[-r - 1 :]


def parts(N):
    """C (N, c), R (r, N) and where the rows are."""
    A, rows, columns = utilities(N)
    return A[:, columns], A[rows], rows


def estimated(C, R, rows):
    """Mean of each row of C pinv(W) R, W = C[rows] the crossing, without making the N x N matrix.  (A1.5)"""
    W = C[rows]
    return C @ torch.linalg.pinv(W) @ R.mean(1)


def whole(C, R, rows):
    """The whole matrix, one entry at a time."""
    U = torch.linalg.pinv(torch.stack([C[i] for i in rows.tolist()]))
    N = R.shape[1]
    A = [[(C[i] @ U @ R[:, j]).item() for j in range(N)] for i in range(len(C))]
    return torch.tensor([sum(row) / N for row in A], dtype=C.dtype)


define(
    estimated,
    truth=whole,
    cases=lambda: [parts(N) for N in (6, 9, 15)],
    without={"the N x N matrix": lambda a: (len(a.C), a.R.shape[1])},
    linear_in=("R",),
    mistakes="""
    no inverse
        torch.linalg.pinv(W) -> W.T
        C W^T R: the crossing stands in C and in R, so it must be divided out once
    a sum
        R.mean(1) -> R.sum(1)
        too large by the number of candidates: the risk is a mean over them
    mean over rows
        = (C @ torch.linalg.pinv(C[rows]) @ R).mean(0)
        you have averaged over the candidates that are judged; the mean is over those they are compared with
    columns only
        C @ torch.linalg.pinv(W) @ R.mean(1) -> C.mean(1)
        this is the mean over the chosen columns: the rows have no say, though they were computed, too
    the first rows
        C[rows] -> C[: len(rows)]
        the crossing is where your rows meet your columns: rows are not the first ones
    """,
)
