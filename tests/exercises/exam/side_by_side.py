"""Answers to the exercises of chapter 8."""

import math

import torch

from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- any_order ---


@wrong("side_by_side.any_order", "only the last number of masks", r"count|all|each|column|n masks|sum|add")
def all_masked(cost):
    return cost[:, -1]


@wrong("side_by_side.any_order", "one over n squared", r"1 / n|weight|factor|cost / n|c, and|L c|times|small")
def twice_divided(cost):
    n = torch.arange(1, cost.shape[1] + 1)
    return (cost / n**2).sum(1)


@right("side_by_side.any_order", "a product with the weights")
def by_product(cost):
    return cost @ (1 / torch.arange(1, cost.shape[1] + 1, dtype=cost.dtype))


# --- bayes_rows ---


@wrong("side_by_side.bayes_rows", "the joint distribution", r"joint|sum to 1|divide|p\(x_t\)")
def joint_only(p, F):
    return (F * p[:, None]).T


@wrong("side_by_side.bayes_rows", "not transposed", r"shape|transpos|row")
def as_it_lies(p, F):
    weight = p[:, None] * F
    return weight / weight.sum(0, keepdim=True)


@right("side_by_side.bayes_rows", "through logarithms")
def by_logarithms(p, F):
    return (p.log() + F.T.log()).softmax(1)


# --- renoised_variance ---


@wrong("side_by_side.renoised_variance", "the true variance", r"true variance|draw|mean|abar_t")
def of_a_draw(v, abar_t, abar_s):
    return abar_s * v + 1 - abar_s


@wrong("side_by_side.renoised_variance", "without fresh noise", r"noise|1 - abar_s|abar_s = 0")
def signal_only(v, abar_t, abar_s):
    return abar_s * abar_t * v**2 / (abar_t * v + 1 - abar_t)


@right("side_by_side.renoised_variance", "by the gain of the mean")
def by_gain(v, abar_t, abar_s):
    total = abar_t * v + (1 - abar_t)
    gain = abar_t.sqrt() * v / total
    return 1 + abar_s * (gain.square() * total - 1)


# --- two_at_once ---


@wrong("side_by_side.two_at_once", "all three alone", r"three|alone|own|0 is known|x_0|independent")
def all_alone(p):
    a, b, c = p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1))
    return a[:, None, None] * b[:, None] * c


@wrong("side_by_side.two_at_once", "2 sees 1", r"one after|itself|neither|at once|is p")
def chain_rule(p):
    first = p.sum((1, 2), keepdim=True)
    both = p.sum(2, keepdim=True)
    return first * (both / first) * (p / both)


@right("side_by_side.two_at_once", "einsum")
def by_einsum(p):
    first, one, two = p.sum((1, 2)), p.sum(2), p.sum(1)
    return torch.einsum("ab,ac,a->abc", one, two, 1 / first)


# --- judgement ---


@wrong("side_by_side.judgement", "the other way round", r"other way|KL\(p|round|turned|swap|arguments")
def reversed_divergence(q, p):
    return torch.special.entr(q).sum(), (p * (p / q).log()).sum()


@wrong("side_by_side.judgement", "the cross-entropy", r"cross-entropy|entropy off|divergence")
def cross(q, p):
    return torch.special.entr(q).sum(), -(q * p.log()).sum()


@right("side_by_side.judgement", "xlogy")
def by_xlogy(q, p):
    minus_h = torch.xlogy(q, q).sum()
    return -minus_h, minus_h - torch.xlogy(q, p).sum()


# --- per_letter ---


@wrong("side_by_side.per_letter", "nats", r"nats|bit|log 2|ln 2")
def in_nats(nats, tokens, letters):
    return nats * tokens.sum() / letters.sum()


@wrong("side_by_side.per_letter", "the mean of ratios", r"mean|average|ratio|sum over sum|short")
def mean_of_ratios(nats, tokens, letters):
    return (nats * tokens / letters / math.log(2)).mean()


@right("side_by_side.per_letter", "bits first")
def bits_first(nats, tokens, letters):
    return (nats / math.log(2) * tokens).sum() / letters.sum()


# --- draft_weights ---


@wrong("side_by_side.draft_weights", "the whole text", r"twice|own probability|already|log_gap")
def whole_text(log_left, log_gap, log_right):
    return (log_left[:, None] + log_gap + log_right).softmax(1)


@wrong("side_by_side.draft_weights", "over the batch", r"axis|sum to 1|gap|drafts")
def over_gaps(log_left, log_gap, log_right):
    return log_right.softmax(0)


@right("side_by_side.draft_weights", "normalised by hand")
def by_hand(log_left, log_gap, log_right):
    weight = (log_right - log_right.amax(1, keepdim=True)).exp()
    return weight / weight.sum(1, keepdim=True)
