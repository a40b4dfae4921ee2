"""Answers to the exercises of chapter 7."""

import math

import torch
import torch.nn.functional as F

from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- concrete_score ---


@wrong("sedd.concrete_score", "the second token is replaced", r"second|first|which token")
def second_replaced(p):
    return p[:, None, :] / p[:, :, None]


@wrong("sedd.concrete_score", "upside down", r"upside|reciprocal|inverse|below|turned")
def upside_down(p):
    return p[:, :, None] / p.T[None, :, :]


@right("sedd.concrete_score", "einsum")
def by_einsum(p):
    return torch.einsum("yb,ab->aby", p, 1 / p)


# --- score_entropy ---


@wrong(
    "sedd.score_entropy", "the constant lacks its - 1", r"- 1|\brho\b|constant|negative|\bzero\b|least|\b0\b"
)
def no_minus_one(log_s, rho):
    return log_s.exp() - rho * log_s + rho * rho.log()


@wrong("sedd.score_entropy", "log_s is taken for s", r"\bexp\b|log_s|log s\b")
def log_for_s(log_s, rho):
    return log_s - rho * log_s.log() + rho * (rho.log() - 1)


@right("sedd.score_entropy", "by the gap of logarithms")
def by_gap(log_s, rho):
    gap = log_s - torch.log(rho)
    return rho * (torch.exp(gap) - 1 - gap)


# --- reverse_rates ---


@wrong("sedd.reverse_rates", "the rate of staying stands at x", r"\bx itself|\bat x\b|\b0 at|y = x|diagonal")
def leaves_the_sum(R, s, x):
    rates = s * R[:, x]
    rates[x] = 0
    rates[x] = -rates.sum()
    return rates


@wrong("sedd.reverse_rates", "divided by the ratios", r"\bs\b|upside|reciprocal|ratio")
def divided(R, s, x):
    rates = R[:, x] / s
    rates[x] = 0
    return rates


@wrong("sedd.reverse_rates", "R is changed in place", r"in place|writes")
def writes_into_R(R, s, x):
    rates = R[:, x]
    rates *= s
    rates[x] = 0
    return rates


@right("sedd.reverse_rates", "a comprehension")
def by_entry(R, s, x):
    return torch.stack([s[y] * R[y, x] if y != x else s.new_zeros(()) for y in range(len(s))])


# --- uniform_ratio ---


@wrong(
    "sedd.uniform_ratio",
    "the denominator is left out",
    r"denominator|divi|itself|\bratio\b|x_0 \| x_0|same token",
)
def numerator_alone(sigma, K):
    return -torch.expm1(-sigma) / K


@wrong("sedd.uniform_ratio", "K - 1 in the denominator", r"\bK\b")
def one_fewer(sigma, K):
    e1 = torch.expm1(sigma)
    return e1 / (e1 + K - 1)


@right("sedd.uniform_ratio", "one fraction, exp(sigma) - 1: digits enough")
def one_fraction(sigma, K):
    e = torch.exp(sigma)
    return (e - 1) / (e - 1 + K)


@right("sedd.uniform_ratio", "expm1 of minus sigma")
def minus_sigma(sigma, K):
    lost = -torch.expm1(-sigma)
    return lost / K / (torch.exp(-sigma) + lost / K)


@right("sedd.uniform_ratio", "through float64")
def through_float64(sigma, K):
    e = torch.exp(sigma.double())
    return ((e - 1) / (e - 1 + K)).to(sigma.dtype)


# --- tweedie ---


@wrong("sedd.tweedie", "D forwards in both factors", r"\bD\b|sign|forward|backward")
def forwards(s, x_t, D):
    K, a = s.shape[-1], math.exp(-D)
    before = a * s + (1 - a) / K * s.sum(-1, keepdim=True)
    return before * (a * F.one_hot(x_t, K) + (1 - a) / K)


@wrong("sedd.tweedie", "the sum of s is left out", r"\bsums?\b|\b1\b|before|share")
def no_sum(s, x_t, D):
    K = s.shape[-1]
    before = math.exp(D) * s + (1 - math.exp(D)) / K
    return before * (math.exp(-D) * F.one_hot(x_t, K) + (1 - math.exp(-D)) / K)


@wrong("sedd.tweedie", "right, but by matrices, which the task does without", r"matrix")
def by_matrix(s, x_t, D):
    K = s.shape[-1]
    R = torch.ones(K, K, dtype=s.dtype) / K - torch.eye(K, dtype=s.dtype)
    return s @ torch.linalg.matrix_exp(-D * R) * torch.linalg.matrix_exp(D * R)[:, x_t].T


# --- masks_loss ---


@wrong("sedd.masks_loss", "the sum of exp(f) in place of the mean", r"\bmean\b|\bsum\b|\bV\b")
def sum_of_exp(f, x0, x_t, weight):
    V = f.shape[-1]
    each = f.exp().sum(-1) - 1 - f.gather(-1, x0[..., None]).squeeze(-1) + math.log(V)
    return weight * torch.where(x_t == V, each, 0).sum(1)


@wrong("sedd.masks_loss", "the mean over masks", r"\bmean\b|\bsum\b|number of masks|\bmasks\b")
def mean_over_masks(f, x0, x_t, weight):
    V = f.shape[-1]
    each = f.exp().mean(-1) - 1 - f.gather(-1, x0[..., None]).squeeze(-1) + math.log(V)
    masks = x_t == V
    return weight * (each * masks).sum(1) / masks.sum(1).clamp(min=1)


@right("sedd.masks_loss", "logsumexp and einsum")
def by_logsumexp(f, x0, x_t, weight):
    V = f.shape[-1]
    masks = (x_t == V).to(f)
    share = torch.exp(torch.logsumexp(f, -1) - math.log(V))
    chosen = torch.einsum("blv,blv->bl", f, F.one_hot(x0, V).to(f))
    return torch.einsum("bl,bl,b->b", share - chosen + math.log(V) - 1, masks, weight)


# --- euler_steps ---


@wrong("sedd.euler_steps", "rounded down", r"\bround|ceil|whole|too few|negative")
def rounded_down(rate, K):
    return int(rate * (K - 1) / K)


@wrong("sedd.euler_steps", "the jump to itself is counted", r"K - 1|\bK\b|itself|other letters")
def counts_itself(rate, K):
    return math.ceil(rate)


@right("sedd.euler_steps", "minus the floor of minus")
def minus_floor(rate, K):
    return -math.floor(-rate * (K - 1) / K)


# --- next_level ---


@wrong("sedd.next_level", "the smallest of the levels", r"largest|smallest|1 - u|first|last")
def smallest(level, masks, u):
    return level * (1 - (1 - u) ** (1 / masks))


@wrong("sedd.next_level", "power in place of root", r"\broot\b|power|1 / masks|invert|inverse|u \*\*")
def power(level, masks, u):
    return level * u**masks


@right("sedd.next_level", "logarithms")
def by_logs(level, masks, u):
    return torch.exp(math.log(level) + torch.log(u) / masks)


# --- least_loss ---


@wrong(
    "sedd.least_loss",
    "the ratio of the data, not of the noise",
    r"7\.9|ratio|x_0|rho|least loss is 0|K\(rho\)",
)
def true_ratio(p0, Q, R):
    p_t = p0 @ Q
    r = p_t / p_t[:, None]
    return (p_t[:, None] * R.T * (r - r * r.log() + r * (r.log() - 1))).sum()


@wrong("sedd.least_loss", "s upside down", r"upside|invers|reciprocal|s\b.*exchang|ratio|p_t")
def turned(p0, Q, R):
    p_t = p0 @ Q
    s = p_t[:, None] / p_t
    rho = Q[:, None, :] / Q[:, :, None]
    W = R.T - R.diag().diag()
    loss = s - rho * s.log() + rho * (rho.log() - 1)
    return (p0[:, None, None] * Q[:, :, None] * W * loss).sum()


@right("sedd.least_loss", "a difference of two means")
def two_means(p0, Q, R):
    p_t = p0 @ Q
    W = R - R.diag().diag()
    known = p0[:, None, None] * W * Q[:, :, None] * (Q[:, :, None] / Q[:, None, :]).log()
    blurred = W * p_t[:, None] * (p_t[:, None] / p_t).log()
    return known.sum() - blurred.sum()
