"""What the tasks say beside the formula is checked: an answer that breaks this alone fails, and is told what it is."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from course_lib.exercise import find, grade
from tests.exercises.exam.formulas import back, small


def all_differences(x, table):
    return (x[:, None] - table).square().sum(-1).argmin(-1)


def all_pairs(x, table):
    K = len(table)
    far = (x.repeat_interleave(K, 0) - table.repeat(len(x), 1)).square().sum(-1)
    return far.reshape(-1, K).argmin(-1)


def whole_matrix(C, R, rows):
    return (C @ torch.linalg.pinv(C[rows]) @ R).mean(1)


def rates_as_matrices(s, x_t, D):
    K = s.shape[-1]
    R = torch.ones(K, K, dtype=s.dtype) / K - torch.eye(K, dtype=s.dtype)
    return (s @ torch.matrix_exp(-D * R)) * torch.matrix_exp(D * R)[:, x_t].T


def rows_of_a_matrix(post, x_t, alpha_bar_t):
    K = post.shape[-1]
    q = alpha_bar_t * torch.eye(K, dtype=post.dtype) + (1 - alpha_bar_t) / K
    loo = post / q[:, x_t].movedim(0, -1)
    return loo / loo.sum(-1, keepdim=True)


def one_call_for_each_dimension(field, x, probe):
    x = x.detach().requires_grad_()
    total = 0
    for at in torch.eye(x[0].numel(), dtype=x.dtype):
        at = at.reshape(x.shape[1:])
        (g,) = torch.autograd.grad((field(x) * probe * at).sum(), x)
        total = total + (g * probe).flatten(1).sum(1)
    return total


def two_fractions(x0, x_t, abar_s, abar_t):
    a = abar_t / abar_s
    precision = a / (1 - a) + 1 / (1 - abar_s)  # infinite at s = 0
    return (a.sqrt() / (1 - a) * x_t + abar_s.sqrt() / (1 - abar_s) * x0) / precision


def for_fifty(T):
    return 0.85 ** torch.arange(51)


def cut(v, beta, beta_tilde):
    f = ((v + 1) / 2).clamp(0, 1)
    return (f * beta.log() + (1 - f) * beta_tilde.log()).exp()


def by_rounding(T, steps):
    return [round(T * (1 - k / steps) ** 2) for k in range(steps + 1)]


def gap_divides(T, gap):
    return [(t, t - gap) for t in range(T, gap - 1, -gap)]


def last_of_equals(risk, weights):
    expected = (risk @ weights).tolist()
    return len(expected) - 1 - expected[::-1].index(min(expected))


def loose_rows(Q, uniform_in_the_end):
    if (Q < 0).any():
        return "negative"
    if ((Q.sum(1) - 1).abs() > 1e-3).any():
        return "rows"
    return "law" if uniform_in_the_end and ((Q.sum(0) - 1).abs() > 1e-3).any() else "none"


def minus_one(sigma, K):
    return 1 - K / (torch.expm1(sigma) + K)


def second_if_equal(p, q):
    first_stays = (p[:, None] > q).to(p)
    a = p * (first_stays * q).sum(1)
    b = q * ((1 - first_stays) * p[:, None]).sum(0)
    return a[:, None] * q + p[:, None] * b


def as_they_come(H, gamma):
    return max(n for n in range(1, len(H) + 1) if n == 1 or H[:n].sum() - H[:n].max() <= gamma)


def one_sum(p, q):
    left = (p - q).clamp(min=0)
    return left / left[0].sum()


def with_zeros(q, p):
    return -(q * q.log()).sum(), (q * (q / p).log()).sum()


def clipped_alone(x0_hat, x_t, abar_s, abar_t, eta, z):
    var = eta**2 * small(abar_s, abar_t)
    eps = (x_t - abar_t.sqrt() * x0_hat.clamp(-1, 1)) / (1 - abar_t).sqrt()
    return abar_s.sqrt() * x0_hat + (1 - abar_s - var).sqrt() * eps + var.sqrt() * z


def even_times(log_prior, divergence, times):
    dt = times[1] - times[0]
    return log_prior + dt * (divergence.sum(0) - (divergence[0] + divergence[-1]) / 2)


def by_axes(model, x0, t, alpha_bar):
    eps = torch.randn_like(x0)
    a = alpha_bar[t].to(x0)[:, None, None]
    return (eps - model(a.sqrt() * x0 + (1 - a).sqrt() * eps, t / (len(alpha_bar) - 1))).square().mean((1, 2))


def neighbours(model, x_T, times, alpha_bar):
    x, T = x_T, len(alpha_bar) - 1
    for t in range(times[0], 0, -1):
        a, b = alpha_bar[t], alpha_bar[t - 1]
        x0 = (x - (1 - a).sqrt() * model(x, torch.full((len(x),), t / T))) / a.sqrt()
        x = (back(x0, x, b, a) + small(b, a).sqrt() * torch.randn_like(x)).to(x_T.dtype)
    return x


def by_text(candidates, similarity):
    scores = [sum(similarity(a, b) for b in candidates if b != a) for a in candidates]
    return scores.index(max(scores))


BREAKS = [  # exercise, answer, what its task says, what is printed
    ("diffusion_lm.rounding", all_differences, "without a (N, K, D) tensor", r"\(N, K, D\)"),
    ("diffusion_lm.rounding", all_pairs, "without a (N, K, D) tensor", r"\(N, K, D\)"),
    ("side_notes.estimated", whole_matrix, "without an N x N matrix", "N x N"),
    ("sedd.tweedie", rates_as_matrices, "without a matrix", "K x K"),
    ("d3pm.leave_one_out", rows_of_a_matrix, "in O(K)", "K x K"),
    ("sde.hutchinson", one_call_for_each_dimension, "a single call of field", "calls field"),
    ("ddpm.posterior_mean", two_fractions, "right at s = 0 too", r"NaN"),
    ("ddpm.schedule", for_fifty, "T = 50 and T = 100", "100"),
    ("optimal_variance.learned_variance", cut, "do not cut f to [0, 1]", r"cut|clamp|above|beyond"),
    ("optimal_variance.grid", by_rounding, "also where steps is nearly T", "equal"),
    ("optimal_variance.pairs", gap_divides, "ends at 0 whatever gap is", "does not divide T"),
    ("optimal_variance.ddim_step", clipped_alone, "the eps that belongs to x0_hat", r"eps|x0_hat"),
    ("diffuseq.least_risk", last_of_equals, "of equals, the first", r"equal|first|tie"),
    ("d3pm.fault", loose_rows, "rows to 1e-6", "1e-4"),
    ("sedd.uniform_ratio", minus_one, "in float32, K = 65,536", r"float32|small sigma|digits"),
    ("after_sedd.keep_the_likelier", second_if_equal, "the first if equal", r"equal|>="),
    ("after_sedd.how_many", as_they_come, "in any order", "order"),
    ("after_sedd.residual", one_sum, "different in every row", r"row|sum"),
    ("side_by_side.judgement", with_zeros, "0 ln 0 = 0", r"nan|logarithm of 0"),
    ("sde.log_likelihood", even_times, "times are not evenly spaced", r"as wide as the first"),
    ("ddpm.simple_loss", by_axes, "x0 is (B, ...)", r"axis|axes|dimension|case|shape|size"),
    ("ddpm.ancestral", neighbours, "any spacing", r"times|t - 1|neighbour|next"),
    ("diffusion_lm.mbr", by_text, "two draws of one sentence are two votes", r"twice|vote"),
]


@pytest.mark.parametrize("name, answer, says, hint", BREAKS, ids=[f"{b[0]} {b[1].__name__}" for b in BREAKS])
def test_a_promise_of_the_task_is_checked(name, answer, says, hint):
    state, told = grade(find(name), answer)
    assert state == "FAIL", f"{name} says {says!r}, and this passes"
    assert re.search(hint, told), told


def test_a_large_tensor_is_told_only_where_the_task_does_without():
    def two_at_a_time(x, table):
        scores = [part @ table.T - table.square().sum(-1) / 2 for part in x.split(7)]
        return torch.cat(scores).argmax(-1)

    def stacked(s, x_t, D):
        K, kept = s.shape[-1], math.exp(-D)
        before = s / kept + (1 - 1 / kept) / K * s.sum(-1, keepdim=True)
        return torch.stack([before, kept * F.one_hot(x_t, K) + (1 - kept) / K]).prod(0)

    assert grade(find("diffusion_lm.rounding"), two_at_a_time) == ("PASS", "")
    assert grade(find("sedd.tweedie"), stacked) == ("PASS", "")
