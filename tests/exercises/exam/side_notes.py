"""Answers to the exercises of appendix A1."""

import torch

from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- shorter ---


@wrong("side_notes.shorter", "the least over the last word", r"axis|axes|through|2 stands")
def least_of_the_last(D, W):
    return (D[:, :, None] + W[None]).amin(2)


@wrong("side_notes.shorter", "a matrix product", r"add|product|sum|\+")
def matrix_product(D, W):
    return D @ W


@right("side_notes.shorter", "one start at a time")
def by_start(D, W):
    return torch.stack([(row[:, None] + W).min(0).values for row in D])


# --- positions ---


@wrong("side_notes.positions", "one more than asked", r"L|one|size|shape|many")
def one_more(scores, L):
    return scores.argsort()[: L + 1].sort().values


@wrong("side_notes.positions", "falling", r"turned round|order|rise|rising|fall|revers|sort")
def falling(scores, L):
    return scores.argsort()[:L].sort(descending=True).values


@right("side_notes.positions", "by topk")
def by_topk(scores, L):
    return scores.topk(L, largest=False).indices.sort().values


# --- estimated ---


@wrong("side_notes.estimated", "rows and columns both counted", r"2 times|twice")
def twice(C, R, rows):
    return C @ torch.linalg.pinv(C[rows]) @ R.mean(1) * 2


@wrong("side_notes.estimated", "the median", r"mean|median|average")
def median(C, R, rows):
    return C @ torch.linalg.pinv(C[rows]) @ R.median(1).values


@right("side_notes.estimated", "by least squares")
def by_least_squares(C, R, rows):
    return C @ torch.linalg.lstsq(C[rows], R.mean(1, keepdim=True)).solution[:, 0]
