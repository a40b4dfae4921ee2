"""Chapter 1, DDPM: the reference answers, their checks and the classic wrong answers.

alpha_bar is a table of T + 1 entries with alpha_bar[0] = 1; a network is called model(x_t, u), u = t / T.
The checks probe small cases whose answer is known exactly; only the sampler is judged by moments.
"""

import math
from itertools import pairwise

import torch

from ..checks import Mistakes, close, compare, diagnose, hear, hints_of
from ..exercise import define
from ..shapes import per_example

ALPHA_BAR = torch.tensor([1.0, 0.9, 0.7, 0.45, 0.2, 0.05], dtype=torch.float64)  # T = 5
T = len(ALPHA_BAR) - 1


# --- q_sample ---


def q_sample(x0, t, alpha_bar, eps):
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, one time per example."""
    abar = alpha_bar[t]  # not t - 1: entry 0 is the data
    abar = abar.reshape(
        -1, *[1] * (x0.ndim - 1)
    )  # (B, 1, ..., 1): else it may land on the wrong axis
    x_t = (
        abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    )  # roots: alpha_bar is a share of the variance
    return x_t.to(x0.dtype)


Q_SAMPLE: Mistakes = {
    "alpha_bar without its root": (
        lambda x0, t, a, eps: (
            per_example(a[t], x0) * x0 + per_example(1 - a[t], x0).sqrt() * eps
        ),
        "the data is multiplied by alpha_bar itself. alpha_bar is the share of the variance that is left: "
        "what does that make the factor on x0?",
    ),
    "noise scaled by the variance": (
        lambda x0, t, a, eps: (
            per_example(a[t], x0).sqrt() * x0 + per_example(1 - a[t], x0) * eps
        ),
        "the noise is multiplied by 1 - alpha_bar, so its standard deviation is what should be its variance",
    ),
    "the two roots swapped": (
        lambda x0, t, a, eps: (
            per_example(1 - a[t], x0).sqrt() * x0 + per_example(a[t], x0).sqrt() * eps
        ),
        "at t = 0 you return pure noise. Which of the two roots must be 1 there?",
    ),
    "the table read at t - 1": (
        lambda x0, t, a, eps: q_sample(x0, t - 1, a, eps),
        "you give x_{t-1}: the table has T + 1 entries and entry 0 is the data, so which entry belongs to t?",
    ),
    "one coefficient per column": (
        lambda x0, t, a, eps: a[t].sqrt() * x0 + (1 - a[t]).sqrt() * eps,
        "the times run along the last axis of x0, one per column. Which axis holds the examples, "
        "and what shape does alpha_bar[t] need?",
    ),
    "one coefficient per channel": (
        lambda x0, t, a, eps: (
            a[t].sqrt()[:, None] * x0 + (1 - a[t]).sqrt()[:, None] * eps
        ),
        "alpha_bar[t] is right for points and lands on the second axis of images: "
        "how many axes of size 1 must follow the first?",
    ),
}


def check_q_sample(fn):
    t = torch.tensor([0, 2, 5])
    for shape in ((3, 3), (3, 3, 3)):  # all axes alike: a wrong one raises no error
        x0, eps = torch.randn(2, *shape)
        for noise in (0 * eps, eps):  # first the signal alone
            if hint := compare(fn, q_sample, Q_SAMPLE, x0, t, ALPHA_BAR, noise):
                return hint
    return None


define(q_sample, check_q_sample, Q_SAMPLE)


# --- schedule ---


def schedule(T):
    """A constant beta: it never rises, and (1 - beta)^T is small."""
    beta = 1 - 1e-4 ** (1 / T)  # alpha_bar_T = 1e-4
    return (1 - beta) ** torch.arange(T + 1, dtype=torch.float64)  # entry 0 is the data


def _linear_table(T):
    return (
        torch.cat([torch.ones(1), 1 - torch.linspace(1e-4, 0.02, T)])
        .double()
        .cumprod(0)
    )


SCHEDULE: Mistakes = {
    "T entries": (
        lambda T: schedule(T)[1:],
        "there must be T + 1 entries: one for each t = 0, 1, ..., T. Which one is missing?",
    ),
    "the betas instead of the table": (
        lambda T: torch.cat([torch.zeros(1), torch.full((T,), 0.2)]).double(),
        "entry 0 is not 1. Are these the betas? The table is what is left after them: a cumulative product",
    ),
    "DDPM's betas, too few steps": (
        _linear_table,
        "too much of the data is left at T: the betas of a thousand steps do not add up to enough in T steps",
    ),
    "a table that stops falling": (
        lambda T: schedule(T).clamp(min=5e-4),
        "alpha_bar must fall at every step, and yours stays the same somewhere",
    ),
    "rising betas": (
        lambda T: (
            torch.cat([torch.ones(1), 1 - torch.linspace(0.01, 0.5, T)])
            .double()
            .cumprod(0)
        ),
        "this is a good schedule, but its betas rise all the way. The task is to show that they need not",
    ),
    "nothing left at T": (
        lambda T: torch.cat([schedule(T)[:-1], torch.zeros(1, dtype=torch.float64)]),
        "alpha_bar_T is 0, not just small: then x_0 cannot be computed from x_T, since (1.14) divides by its root",
    ),
    "one giant step": (
        lambda T: torch.cat([schedule(T)[:-1], schedule(T)[-1:] * 0.1]),
        "one of your steps has beta > 0.5: it destroys more than half of what is left at once",
    ),
}


def check_schedule(fn):
    hints = [hint for _, hint in SCHEDULE.values()]
    for T in (50, 100):
        a = torch.as_tensor(fn(T)).double()
        if a.shape != (T + 1,):
            return (
                hints[0]
                if a.shape == (T,)
                else f"the shape is {tuple(a.shape)}, expected ({T + 1},)"
            )
        beta = 1 - a[1:] / a[:-1]
        broken = [
            a[0] != 1,
            a[-1] >= 1e-3,
            (beta <= 0).any(),
            (beta.diff() > 0).all(),
            a[-1] <= 0,
            (beta > 0.5).any(),
        ]
        for hint, fault in zip(hints[1:], broken, strict=True):
            if fault:
                return hint
    return None


define(schedule, check_schedule, SCHEDULE)


# --- posterior_mean ---


def posterior_mean(x0, x_t, abar_s, abar_t):
    """Mean of q(x_s | x_t, x_0), multiplied out: nothing is divided by 1 - abar_s."""
    alpha_ts = abar_t / abar_s  # signal kept from s to t, not beta_t of one step
    from_x0 = abar_s.sqrt() * (1 - alpha_ts) * x0
    from_xt = alpha_ts.sqrt() * (1 - abar_s) * x_t
    return (from_x0 + from_xt) / (1 - abar_t)


def _by_precision(x0, x_t, abar_s, abar_t):
    ts = abar_t / abar_s
    precision = ts / (1 - ts) + 1 / (1 - abar_s)
    return (ts.sqrt() / (1 - ts) * x_t + abar_s.sqrt() / (1 - abar_s) * x0) / precision


def _no_root(x0, x_t, abar_s, abar_t):
    ts = abar_t / abar_s
    return (abar_s.sqrt() * (1 - ts) * x0 + ts * (1 - abar_s) * x_t) / (1 - abar_t)


def _whole_noise(x0, x_t, abar_s, abar_t):
    ts = abar_t / abar_s
    return (abar_s.sqrt() * (1 - abar_t) * x0 + ts.sqrt() * (1 - abar_s) * x_t) / (
        1 - abar_t
    )


POSTERIOR_MEAN: Mistakes = {
    "NaN in the last step": (
        _by_precision,
        "right for s > 0, and NaN at s = 0, where 1 - abar_s is 0. Which fraction is infinite there, "
        "and what multiplies it?",
    ),
    "the two weights swapped": (
        lambda x0, x_t, a, b: posterior_mean(x_t, x0, a, b),
        "at s = 0 your answer is x_t. Which of the two must be left when all noise is gone?",
    ),
    "alpha_ts without its root": (
        _no_root,
        "the weight of x_t is too small by a square root: x_t holds sqrt(alpha_ts) x_s",
    ),
    "1 - abar_t for the noise of the step": (
        _whole_noise,
        "the weight of x_0 counts all the noise up to t. How much was added between s and t?",
    ),
    "divided by 1 - abar_s": (
        lambda x0, x_t, a, b: posterior_mean(x0, x_t, a, b) * (1 - b) / (1 - a),
        "the denominator belongs to the wrong time: as s goes to 0 yours vanishes",
    ),
}


def check_posterior_mean(fn):
    x0, x_t = torch.randn(2, 4, dtype=torch.float64)
    abar_t = torch.tensor([0.5, 0.3, 0.7, 0.1], dtype=torch.float64)
    inside = (x0, x_t, torch.tensor([0.8, 0.6, 0.9, 0.2], dtype=torch.float64), abar_t)
    at_zero = (x0, x_t, torch.ones(4, dtype=torch.float64), abar_t)
    later = {k: v for k, v in POSTERIOR_MEAN.items() if "NaN" not in k}
    hint = compare(fn, posterior_mean, later, *inside)
    if hint is None and not torch.as_tensor(fn(*at_zero)).isfinite().all():
        return POSTERIOR_MEAN["NaN in the last step"][1]
    return hint or compare(fn, posterior_mean, {}, *at_zero)


define(posterior_mean, check_posterior_mean, POSTERIOR_MEAN)


# --- gaussian_kl ---


def gaussian_kl(mean1, var1, mean2, var2):
    """KL(N(mean1, var1) || N(mean2, var2)) in nats, summed over the last dimension; arguments are variances."""
    ratio = var1 / var2
    return 0.5 * (ratio + (mean1 - mean2) ** 2 / var2 - 1 - ratio.log()).sum(-1)


GAUSSIAN_KL: Mistakes = {
    "arguments reversed": (
        lambda m1, v1, m2, v2: gaussian_kl(m2, v2, m1, v1),
        "this is KL(N2 || N1): the difference of the means is measured in units of the second variance",
    ),
    "standard deviations": (
        lambda m1, v1, m2, v2: gaussian_kl(m1, v1**2, m2, v2**2),
        "you square what is a variance already: the arguments are not standard deviations",
    ),
    "log ratio upside down": (
        lambda m1, v1, m2, v2: gaussian_kl(m1, v1, m2, v2) + (v1 / v2).log().sum(-1),
        "the logarithm has the wrong sign: for equal means the KL is 0 only if the variances agree, never below",
    ),
    "the -1 missing": (
        lambda m1, v1, m2, v2: gaussian_kl(m1, v1, m2, v2) + 0.5 * m1.shape[-1],
        "two equal Gaussians have KL 0, and yours is half the number of dimensions. Which constant is missing?",
    ),
    "mean over dimensions": (
        lambda m1, v1, m2, v2: gaussian_kl(m1, v1, m2, v2) / m1.shape[-1],
        "too small by the number of dimensions: independent dimensions add",
    ),
    "no half": (
        lambda m1, v1, m2, v2: 2 * gaussian_kl(m1, v1, m2, v2),
        "twice too large: look at the factor in front of the bracket",
    ),
}


SHARED_VARIANCE = (
    "a variance of shape (B, 1) belongs to every dimension, and yours counts it once"
)


def _sum_before_broadcast(m1, v1, m2, v2):
    return 0.5 * ((m1 - m2) ** 2 / v2).sum(-1) + 0.5 * (
        v1 / v2 - 1 - (v1 / v2).log()
    ).sum(-1)


def check_gaussian_kl(fn):
    m1, m2 = torch.randn(2, 5, 3, dtype=torch.float64)
    v1, v2 = torch.rand(2, 5, 3, dtype=torch.float64) + 0.2
    if hint := compare(fn, gaussian_kl, GAUSSIAN_KL, m1, v1, m2, v2):
        return hint
    shared = {"one variance for all": (_sum_before_broadcast, SHARED_VARIANCE)}
    return compare(fn, gaussian_kl, shared, m1, v1[:, :1], m2, v2[:, :1])


define(gaussian_kl, check_gaussian_kl, GAUSSIAN_KL)


# --- simple_loss ---


def simple_loss(model, x0, t, alpha_bar):
    """Squared error of the predicted noise, mean over dimensions: one number per example."""
    eps = torch.randn_like(x0)  # the same draw goes into x_t and into the target
    x_t = q_sample(x0, t, alpha_bar, eps)
    u = t / (len(alpha_bar) - 1)  # networks are given time as a share of T
    return (eps - model(x_t, u)).square().flatten(1).mean(1)


def _fresh_noise(model, x0, t, a):
    x_t = q_sample(x0, t, a, torch.randn_like(x0))
    return (
        (torch.randn_like(x0) - model(x_t, t / (len(a) - 1)))
        .square()
        .flatten(1)
        .mean(1)
    )


def _shared_noise(model, x0, t, a):
    eps = torch.randn_like(x0[:1]).expand_as(x0)
    return (
        (eps - model(q_sample(x0, t, a, eps), t / (len(a) - 1)))
        .square()
        .flatten(1)
        .mean(1)
    )


def _uniform_noise(model, x0, t, a):
    eps = torch.rand_like(x0)
    return (
        (eps - model(q_sample(x0, t, a, eps), t / (len(a) - 1)))
        .square()
        .flatten(1)
        .mean(1)
    )


def _against_x0(model, x0, t, a):
    x_t = q_sample(x0, t, a, torch.randn_like(x0))
    return (x0 - model(x_t, t / (len(a) - 1))).square().flatten(1).mean(1)


def _raw_time(model, x0, t, a):
    eps = torch.randn_like(x0)
    return (eps - model(q_sample(x0, t, a, eps), t.float())).square().flatten(1).mean(1)


SIMPLE_LOSS: Mistakes = {
    "one number for the batch": (
        lambda model, x0, t, a: simple_loss(model, x0, t, a).mean(),
        "one number for the whole batch: keep one per example, reduce over every axis but the first",
    ),
    "t instead of t / T": (
        _raw_time,
        "the network was not given u = t / T: it expects a share of T, 1 at the last time of the table",
    ),
    "compared with x0": (
        _against_x0,
        "the prediction is compared with x_0, but this network says which noise was mixed in",
    ),
    "other noise in the target": (
        _fresh_noise,
        "a network that finds the noise exactly has a loss of about 2: is the noise in x_t the one in the target?",
    ),
    "uniform noise": (
        _uniform_noise,
        "the noise in x_t has mean 0.5: torch.rand_like is uniform on [0, 1], the forward process is Gaussian",
    ),
    "detached": (
        lambda model, x0, t, a: simple_loss(model, x0, t, a).detach(),
        "the loss has no gradient: nothing would be learned. Is there a detach, an item or a no_grad in the way?",
    ),
    "one noise for the batch": (
        _shared_noise,
        "all examples of the batch got the same noise: draw it in the shape of x0",
    ),
    "sum over dimensions": (
        lambda model, x0, t, a: simple_loss(model, x0, t, a) * x0[0].numel(),
        "too large by the number of dimensions: take the mean over them, so that losses compare across image sizes",
    ),
}


def check_simple_loss(fn):
    hints = hints_of(SIMPLE_LOSS)
    x0, t, seen = torch.randn(5, 40, 30), torch.tensor([1, 2, 3, 4, 5]), {}

    def found(x_t, u):  # the noise that really is in x_t
        seen["u"] = u
        a = ALPHA_BAR[t].reshape(-1, 1, 1)
        seen["eps"] = ((x_t - a.sqrt() * x0) / (1 - a).sqrt()).float()
        return seen["eps"]

    loss = fn(found, x0, t, ALPHA_BAR)
    if loss.shape != (5,):
        return hints["one number for the batch"]
    hear(x0, seen["u"])
    if not close(seen["u"].double(), t / T):
        return hints["t instead of t / T"]
    if abs(seen["eps"].mean()) > 0.1:
        return hints["uniform noise"]
    if (seen["eps"] - seen["eps"][:1]).abs().max() < 1e-4:
        return hints["one noise for the batch"]
    if loss.abs().max() > 1e-4:
        right = (x0 - seen["eps"]).square().flatten(1).mean(1)
        return (
            hints["compared with x0"]
            if close(loss, right)
            else hints["other noise in the target"]
        )
    weight = torch.tensor(0.5, requires_grad=True)
    loss = fn(
        lambda x_t, u: found(x_t, u) + weight, x0, t, ALPHA_BAR
    )  # wrong by 0.5 everywhere: 0.25
    if not loss.requires_grad:
        return hints["detached"]
    want = torch.full((5,), 0.25)
    return diagnose(
        loss.detach().float(),
        want,
        {hints["sum over dimensions"]: x0[0].numel() * want},
        tol=1e-3,
    )


define(simple_loss, check_simple_loss, SIMPLE_LOSS)


# --- ancestral ---


def ancestral(model, x_T, times, alpha_bar):
    """From x_T through the falling times to x_0, with the small variance."""
    x, T = x_T, len(alpha_bar) - 1
    for t, s in pairwise(times):  # s is the next time on the list, not t - 1
        abar_t, abar_s = alpha_bar[t], alpha_bar[s]
        eps = model(x, torch.full((len(x),), t / T))
        x0 = (x - (1 - abar_t).sqrt() * eps) / abar_t.sqrt()
        var = (1 - abar_s) * (1 - abar_t / abar_s) / (1 - abar_t)  # 0 at s = 0
        x = (
            posterior_mean(x0, x, abar_s, abar_t) + var.sqrt() * torch.randn_like(x)
        ).to(x_T.dtype)
    return x


def _sampler(noise, time=lambda t, s: t, target=lambda t, s: s):
    """A sampler with a mistake: what multiplies z, which time the network hears, or where a step goes."""

    def wrong(model, x_T, times, a):
        x = x_T
        for t, s in pairwise(times):
            abar_t, abar_s = a[t], a[target(t, s)]
            eps = model(x, torch.full((len(x),), time(t, s) / (len(a) - 1)))
            x0 = (x - (1 - abar_t).sqrt() * eps) / abar_t.sqrt()
            z = noise(abar_s, abar_t) * torch.randn_like(x)
            x = (posterior_mean(x0, x, abar_s, abar_t) + z).to(x_T.dtype)
        return x

    return wrong


def _small(abar_s, abar_t):
    return (1 - abar_s) * (1 - abar_t / abar_s) / (1 - abar_t)


ANCESTRAL: Mistakes = {
    "noise in the last step": (
        _sampler(lambda s, t: (1 - t / s).sqrt()),
        "with a network that knows the data exactly, the result still holds noise: the variance must vanish at s = 0",
    ),
    "the variance for the standard deviation": (
        _sampler(lambda s, t: _small(s, t)),
        "too little noise is put back on the way: z is multiplied by the variance instead of its root",
    ),
    "no noise at all": (
        _sampler(lambda s, t: 0 * t),
        "two runs from the same x_T end in the same place: no noise is put back on the way",
    ),
    "the network hears the wrong time": (
        _sampler(lambda s, t: _small(s, t).sqrt(), time=lambda t, s: s),
        "the network is asked about x_t but is told the time s: u must belong to the x that it sees",
    ),
    "always one step": (
        _sampler(lambda s, t: _small(s, t).sqrt(), target=lambda t, s: t - 1),
        "the steps go to t - 1 although the list skips times: the alpha_bar of the next time on the list is needed",
    ),
}


def check_ancestral(fn):
    hints, heard = hints_of(ANCESTRAL), []

    def knows(value):
        """The exact network for data that is always the same value."""

        def model(x_t, u):
            heard.append(u)
            hear(x_t, u)
            a = ALPHA_BAR[(u * T).round().long()].reshape(-1, 1)
            return ((x_t - a.sqrt() * value) / (1 - a).sqrt().clamp(min=1e-6)).float()

        return model

    x_T, path = torch.randn(4000, 1), [5, 3, 1, 0]
    x0 = fn(knows(0.7), x_T, path, ALPHA_BAR)
    if [round(u[0].item() * T) for u in heard] != path[:-1]:
        return hints["the network hears the wrong time"]
    if x0.shape != x_T.shape:
        return (
            f"the shape is {tuple(x0.shape)}, expected that of x_T, {tuple(x_T.shape)}"
        )
    if (x0 - 0.7).abs().max() > 1e-3:
        return hints["noise in the last step"]
    return _check_spread(fn, x_T, path, hints)


def _spread(hops, noise):
    """Variance of x_0 when the data is N(0, 1), for these (t, s) and z multiplied by noise(abar_s, abar_t)."""
    var = torch.ones((), dtype=torch.float64)
    for t, s in hops:
        gain = posterior_mean(
            ALPHA_BAR[t].sqrt(), var.new_ones(()), ALPHA_BAR[s], ALPHA_BAR[t]
        )
        var = gain**2 * var + noise(ALPHA_BAR[s], ALPHA_BAR[t]) ** 2
    return var.item()


def _check_spread(fn, x_T, path, hints):
    """For data N(0, 1) every answer of the network is linear, so the spread of the result is known."""

    def model(x_t, u):  # E[eps | x_t] = sqrt(1 - abar) x_t
        return (1 - ALPHA_BAR[(u * T).round().long()]).sqrt().reshape(
            -1, 1
        ).float() * x_t

    def root(s, t):
        return _small(s, t).sqrt()

    hops, first = list(pairwise(path)), fn(model, x_T, path, ALPHA_BAR)
    if torch.equal(first, fn(model, x_T, path, ALPHA_BAR)):
        return hints["no noise at all"]
    got, want = first.var().item(), _spread(hops, root)
    suspects = {
        "the variance for the standard deviation": _spread(hops, _small),
        "always one step": _spread([(t, t - 1) for t, _ in hops], root),
    }
    if abs(got - want) < 0.03:
        return None
    near = [
        hints[label] for label, value in suspects.items() if abs(got - value) < 0.03
    ]
    plain = f"for data of variance 1 your samples have variance {got:.2f} after three steps, expected {want:.2f}"
    return (near or [plain])[0]


define(ancestral, check_ancestral, ANCESTRAL)


# --- repair ---


def repair(x0_hat, x_t, abar_s, abar_t, z):
    """One step back with the small variance: it is 0 at s = 0, so no grain is left."""
    return (
        posterior_mean(x0_hat, x_t, abar_s, abar_t) + _small(abar_s, abar_t).sqrt() * z
    )


REPAIR: Mistakes = {
    "left as it is": (
        lambda x0, x, s, t, z: posterior_mean(x0, x, s, t) + (1 - t / s).sqrt() * z,
        "at s = 0 there is still noise in the result: 1 - abar_t / abar_s does not vanish there",
    ),
    "no noise anywhere": (
        lambda x0, x, s, t, z: posterior_mean(x0, x, s, t) + 0 * z,
        "now there is no noise at any step: the spread of x_s is too small on the way",
    ),
    "noise scaled by abar_s": (
        lambda x0, x, s, t, z: posterior_mean(x0, x, s, t) + (1 - s).sqrt() * z,
        "the noise vanishes at s = 0 but is too large before: x_t already holds a part of it",
    ),
    "the variance for the standard deviation": (
        lambda x0, x, s, t, z: posterior_mean(x0, x, s, t) + _small(s, t) * z,
        "the right variance, but z must be multiplied by its root",
    ),
    "noise only switched off at the end": (
        lambda x0, x, s, t, z: (
            posterior_mean(x0, x, s, t)
            + torch.where(s == 1, 0 * s, 1 - t / s).sqrt() * z
        ),
        "the last step is clean now, but the log shows too much noise in every row before it, too",
    ),
}


def check_repair(fn):
    x0, x, z = torch.randn(3, 50, dtype=torch.float64)
    hints = hints_of(REPAIR)
    s, t = (
        torch.tensor([1.0, 0.8], dtype=torch.float64),
        torch.tensor(0.5, dtype=torch.float64),
    )
    if not torch.as_tensor(fn(x0, x, s[0], t, z) - x0).abs().max() < 1e-6:
        return hints["left as it is"]
    rest = {
        label: mistake for label, mistake in REPAIR.items() if label != "left as it is"
    }
    return compare(fn, repair, rest, x0, x, s[1], t, z)


define(repair, check_repair, REPAIR)


# --- bits_per_dim ---


def bits_per_dim(terms, prior_term, dims):
    """Sum of the terms and the prior term, from nats per example to bits per dimension."""
    return (terms.sum() + prior_term) / (dims * math.log(2))  # a sum over t, not a mean


BITS_PER_DIM: Mistakes = {
    "mean over t": (
        lambda terms, prior, dims: (terms.mean() + prior) / (dims * math.log(2)),
        "the bound is a sum over t, and yours is a mean: it is about T times too small",
    ),
    "nats": (
        lambda terms, prior, dims: (terms.sum() + prior) / dims,
        "these are nats per dimension: a bit is ln 2 nats",
    ),
    "multiplied by ln 2": (
        lambda terms, prior, dims: (terms.sum() + prior) * math.log(2) / dims,
        "a nat is more than a bit (1.44 of them): divide by ln 2",
    ),
    "the prior term forgotten": (
        lambda terms, prior, dims: terms.sum() / (dims * math.log(2)),
        "L_T belongs to the bound too, small as it is for a good schedule",
    ),
    "bits per example": (
        lambda terms, prior, dims: (terms.sum() + prior) / math.log(2),
        "these are bits per example: there are dims dimensions in each",
    ),
}


def check_bits_per_dim(fn):
    hint = compare(
        lambda *probe: torch.as_tensor(fn(*probe)).double(),
        bits_per_dim,
        BITS_PER_DIM,
        torch.rand(20, dtype=torch.float64) + 0.5,
        torch.tensor(0.7, dtype=torch.float64),
        12,
    )
    return hint


define(bits_per_dim, check_bits_per_dim, BITS_PER_DIM)
