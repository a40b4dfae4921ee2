"""CUR against matrices of known rank, its cost against a count of the calls, its choice against `text_metrics.mbr`."""

import pytest
import torch

from course_lib.cur import core, cur, mean_utility
from course_lib.text_metrics import bleu_table, mbr


class Counted:
    """A utility that counts its calls and refuses to be asked twice."""

    def __init__(self, A):
        self.A, self.asked = A, []

    def __call__(self, i, j):
        self.asked.append((i, j))
        return self.A[i, j].item()


def of_rank(N, rank, seed=0):
    torch.manual_seed(seed)
    return torch.rand(N, rank).double() @ torch.rand(rank, N).double()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_as_many_rows_and_columns_as_the_rank_give_the_whole_matrix(rank):
    A = of_rank(12, rank)
    rows, columns = torch.tensor([1, 7, 4])[:rank], torch.tensor([11, 0, 5])[:rank]
    utility = Counted(A)
    got, calls = cur(utility, 12, rows, columns)
    torch.testing.assert_close(got, A)
    assert calls == len(utility.asked) == len(set(utility.asked)) == 12 * 2 * rank - rank**2


def test_more_than_the_rank_does_no_harm():
    A = of_rank(12, 2)
    torch.testing.assert_close(cur(Counted(A), 12, torch.arange(5), torch.arange(3, 9))[0], A)


def test_called_entries_stand_and_the_others_are_c_u_r():
    torch.manual_seed(0)
    A = torch.rand(9, 9).double()
    rows, columns = torch.tensor([2, 6]), torch.tensor([0, 3, 8])
    got, calls = cur(Counted(A), 9, rows, columns)
    assert got[rows].equal(A[rows]) and got[:, columns].equal(A[:, columns])
    want = A[:, columns] @ torch.linalg.pinv(A[rows][:, columns]) @ A[rows]
    rest = torch.ones(9, 9).bool()
    rest[rows], rest[:, columns] = False, False
    torch.testing.assert_close(got[rest], want[rest])
    assert calls == 81 - rest.sum()


def test_core_is_the_pseudoinverse_of_the_largest_singular_values():
    torch.manual_seed(0)
    W = torch.randn(4, 3).double()
    torch.testing.assert_close(core(W), torch.linalg.pinv(W))
    left, size, right = torch.linalg.svd(W, full_matrices=False)
    want = right[:2].T @ torch.diag(1 / size[:2]) @ left[:, :2].T
    torch.testing.assert_close(core(W, rank=2), want)
    assert core(torch.zeros(2, 2)).eq(0).all()


def test_the_choice_is_that_of_minimum_bayes_risk():
    texts = [t.split() for t in ("a b c d", "a b c e", "a b c", "x y z d", "a b q d e")]
    A = bleu_table(texts)
    choice, mean = mbr(texts)
    torch.testing.assert_close(mean_utility(A), mean)
    whole, calls = cur(lambda i, j: A[i, j].item(), 5, torch.arange(5), torch.arange(5))
    assert int(mean_utility(whole).argmax()) == choice and calls == 25
    assert mean_utility(torch.ones(1, 1)).tolist() == [0]


@pytest.mark.parametrize(
    ("index", "error", "says"),
    [
        ([0, 1], TypeError, "rows"),  # in tests the shapes are checked first
        (torch.tensor([0.0]), TypeError, "rows"),
        (torch.tensor([], dtype=torch.long), TypeError, "rows must be a tensor of integers"),
        (torch.tensor([1, 1]), ValueError, r"rows must be different numbers 0\.\.3, not \[1, 1\]"),
        (torch.tensor([4]), ValueError, r"rows must be different numbers 0\.\.3, not \[4\]"),
        (torch.tensor([-1]), ValueError, r"rows must be different numbers 0\.\.3, not \[-1\]"),
    ],
)
def test_bad_rows_are_named(index, error, says):
    with pytest.raises(error, match=says):
        cur(lambda i, j: 0.0, 4, index, torch.tensor([0]))


@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_that_is_not_there_is_named(rank):
    with pytest.raises(ValueError, match=rf"rank must lie in 1\.\.2, not {rank}"):
        core(torch.ones(2, 5), rank)
