"""Chapter 1, DDPM: the reference answers, what is asked of an answer, and the classic wrong ones.

alpha_bar is a table of T + 1 entries with alpha_bar[0] = 1; a network is called model(x_t, u), u = t / T.
The truths do not trust the formulas. What an answer draws by itself is seen by its networks, which keep what they hear.
A wrong answer in quotes is the reference with that text changed.
"""

import math
from itertools import pairwise

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from ..answers import Hint
from ..cases import normal, numbers, uniform
from ..checks import at_least, entries, hear, stands_at
from ..drawn import alone, bell, likeness, of_normal, weights
from ..exercise import define

SHORT = numbers(1.0, 0.9, 0.7, 0.45, 0.2, 0.05)  # T = 5
LONG = numbers(1.0, 0.97, 0.9, 0.8, 0.6, 0.4, 0.15, 0.02)  # T = 7


# --- q_sample ---


def q_sample(x0, t, alpha_bar, eps):
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, one time per example."""
    abar = alpha_bar[t]  # entry 0 is the data
    # (B, 1, ..., 1): else it may land on the wrong axis
    abar = abar.reshape(-1, *[1] * (x0.ndim - 1))
    # roots: alpha_bar is a share of the variance
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    return x_t.to(x0.dtype)


def one_by_one(x0, t, alpha_bar, eps):
    """The same, an example at a time, with plain numbers."""
    table = alpha_bar.tolist()
    rows = [
        math.sqrt(table[k]) * x + math.sqrt(1 - table[k]) * e
        for x, k, e in zip(x0, t.tolist(), eps, strict=True)
    ]
    return torch.stack(rows)


def _noised():
    """Shapes of different sizes, and of equal ones, where a wrong axis raises no error."""
    for shape, t, table in (
        ((2, 3), [1, 3], SHORT),
        ((3, 2, 4), [4, 0, 6], LONG),
        ((3, 3), [5, 1, 4], SHORT),
        ((3, 3, 3), [2, 3, 7], LONG),
    ):
        x0, eps = torch.randn(2, *shape)
        yield x0, torch.tensor(t), table, eps


define(
    q_sample,
    truth=one_by_one,
    cases=lambda: list(_noised()),
    limits={"at t = 0 nothing has happened to x_0": {"t": torch.tensor([0, 0])}},
    linear_in=("x0", "eps"),
    mistakes="""
    alpha_bar without its root
        abar.sqrt() * x0 -> abar * x0
        the data is multiplied by alpha_bar itself. alpha_bar is the share of the variance that is left: what does
        that make the factor on x0?
    noise scaled by the variance
        (1 - abar).sqrt() * eps -> (1 - abar) * eps
        the noise is multiplied by 1 - alpha_bar, so its standard deviation is what should be its variance
    one coefficient per column
        abar.reshape(-1, *[1] * (x0.ndim - 1)) -> abar
        the times run along the last axis of x0, one per column. Which axis holds the examples, and what shape
        does alpha_bar[t] need?
    one coefficient per channel
        abar.reshape(-1, *[1] * (x0.ndim - 1)) -> abar[:, None]
        one axis of size 1 is right for points; on data with more axes the times land on another axis than the
        first: how many axes of size 1 must follow it?
    """,
)


# --- schedule ---


def schedule(T):
    """A constant beta: it never rises, and (1 - beta)^T is small."""
    beta = 1 - 1e-4 ** (1 / T)  # alpha_bar_T = 1e-4
    return (1 - beta) ** torch.arange(T + 1, dtype=torch.float64)  # entry 0 is the data


def _multiplied(beta):
    """The table of these betas."""
    return torch.cat([torch.ones(1), 1 - beta]).double().cumprod(0)


def betas(got):
    """beta_t = 1 - alpha_bar_t / alpha_bar_{t - 1}."""
    return 1 - got[1:] / got[:-1]


define(
    schedule,
    cases=lambda: [(50,), (100,)],
    tol=1e-7,
    read=lambda got, a: torch.as_tensor(got).double(),
    properties=(
        entries(lambda a: a.T + 1, "one for each t = 0, 1, ..., T"),
        at_least(0, "it is a share of the variance"),
        stands_at(0, lambda a: 1, "at t = 0 stands the data, and nothing is lost"),
    ),
    shows={
        "nothing left at T": lambda got, a: got[-1] == 0,
        "a table that does not fall": lambda got, a: (got.diff() >= 0).any(),
        "one giant step": lambda got, a: (betas(got) > 0.5).any(),
        "DDPM's betas, too few steps": lambda got, a: got[-1] >= 1e-3,
        "rising betas": lambda got, a: (betas(got).diff() > 0).all(),
    },
    mistakes="""
    T entries
        = schedule(T)[1:]
        there must be T + 1 entries: one for each t = 0, 1, ..., T. Which one is missing?
    the betas instead of the table
        = torch.cat([torch.zeros(1), torch.full((T,), 0.2)]).double()
        entry 0 is not 1. Are these the betas? The table is what is left after them: a cumulative product
    a table that does not fall
        = schedule(T).clamp(min=0.0005)
        alpha_bar must fall at every step, and yours rises or stays the same somewhere
    nothing left at T
        = torch.cat([schedule(T)[:-1], torch.zeros(1, dtype=torch.float64)])
        alpha_bar_T is 0, not just small (your last beta is 1, all is lost at once): then x_0 cannot be computed
        from x_T, since (1.17) divides by its root
    one giant step
        = torch.cat([schedule(T)[:-1], schedule(T)[-1:] * 0.1])
        one of your steps has beta > 0.5: it destroys more than half of what is left at once
    DDPM's betas, too few steps
        = _multiplied(torch.linspace(0.0001, 0.02, T))
        too much of the data is left at T: your alpha_bar_T is above 1e-3. How large must the betas be to get
        there in T steps?
    rising betas
        = _multiplied(torch.linspace(0.01, 0.5, T))
        this is a good schedule, but its betas rise all the way. The task is to show that they need not
    """,
)


# --- posterior_mean ---


def posterior_mean(x0, x_t, abar_s, abar_t):
    """Mean of q(x_s | x_t, x_0), multiplied out: nothing is divided by 1 - abar_s."""
    alpha_ts = abar_t / abar_s  # signal kept from s to t, not beta_t of one step
    from_x0 = abar_s.sqrt() * (1 - alpha_ts) * x0
    from_xt = alpha_ts.sqrt() * (1 - abar_s) * x_t
    return (from_x0 + from_xt) / (1 - abar_t)


def by_surprise(x0, x_t, abar_s, abar_t):
    """x_s as x_0 lets expect it, moved by what x_t says beyond that: covariance over variance, times the surprise."""
    kept, guess, spread = abar_t / abar_s, abar_s.sqrt() * x0, 1 - abar_s
    covariance, variance = kept.sqrt() * spread, kept * spread + 1 - kept
    return guess + covariance / variance * (x_t - kept.sqrt() * guess)


def _by_precision(x0, x_t, abar_s, abar_t):
    ts = abar_t / abar_s
    precision = ts / (1 - ts) + 1 / (1 - abar_s)
    return (ts.sqrt() / (1 - ts) * x_t + abar_s.sqrt() / (1 - abar_s) * x0) / precision


def _ddim(x0, x_t, abar_s, abar_t):
    eps = (x_t - abar_t.sqrt() * x0) / (1 - abar_t).sqrt()
    return abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * eps


def _posteriors():
    for shape, s, t in (((3,), 0.8, 0.3), ((4,), 0.6, 0.55), ((2, 5), 0.2, 0.1)):
        yield *normal(2, *shape), *numbers(s, t)
    x0, x_t = normal(2, 2, 3)
    yield x0, x_t, numbers(0.9, 0.35)[:, None], numbers(0.7, 0.15)[:, None]


define(
    posterior_mean,
    truth=by_surprise,
    cases=lambda: list(_posteriors()),
    limits={
        "at s = 0, where abar_s = 1, x_0 is all that is left": {
            "abar_s": numbers(1.0)[0]
        }
    },
    linear_in=("x0", "x_t"),
    mistakes="""
    NaN in the last step
        _by_precision
        right for s > 0, and NaN at s = 0, where 1 - abar_s is 0. Which fraction is infinite there, and what
        multiplies it?
    alpha_ts without its root
        alpha_ts.sqrt() -> alpha_ts
        the weight of x_t is too small by a square root: x_t holds sqrt(alpha_ts) x_s
    sqrt(abar_t) for sqrt(alpha_ts)
        alpha_ts.sqrt() -> abar_t.sqrt()
        the weight of x_t holds sqrt(abar_t), what is left of x_0. How much of x_s is left in x_t?
    1 - abar_t for the noise of the step
        (1 - alpha_ts) -> (1 - abar_t)
        the weight of x_0 counts all the noise up to t. How much was added between s and t?
    DDIM's mean
        _ddim
        this is DDIM's step: it keeps all the noise of x_t, scaled to time s. The mean of q(x_s | x_t, x_0) keeps
        less, since a part is drawn anew
    x_t not read
        (from_x0 + from_xt) / (1 - abar_t) -> abar_s.sqrt() * x0 + 0 * x_t
        this is the mean of q(x_s | x_0): what does x_t say about x_s on top?
    """,
)


# --- gaussian_kl ---


def gaussian_kl(mean1, var1, mean2, var2):
    """KL(N(mean1, var1) || N(mean2, var2)) in nats, summed over the last dimension; arguments are variances."""
    ratio = var1 / var2
    each = ratio + (mean1 - mean2) ** 2 / var2 - 1 - ratio.log()
    return 0.5 * each.sum(-1)


def by_quadrature(mean1, var1, mean2, var2):
    """E[log N1 - log N2] under N1, by a rule that is exact for polynomials: 9 nodes of Gauss and Hermite."""
    u = numbers(0.0, 0.7235510188, 1.4685532892, 2.2665805845, 3.1909932018)
    w = numbers(0.7202352156, 0.4326515590, 0.0884745274, 0.0049436243, 0.0000396070)
    nodes, weights = torch.cat([-u[1:], u]), torch.cat([w[1:], w]) / math.sqrt(math.pi)
    x = mean1[..., None] + (2 * var1).sqrt()[..., None] * nodes
    log1, log2 = (
        -((x - m[..., None]) ** 2) / (2 * v[..., None]) - v[..., None].log() / 2
        for m, v in ((mean1, var1), (mean2, var2))
    )
    return ((log1 - log2) * weights).sum(-1).sum(-1)


def _sum_before_broadcast(m1, v1, m2, v2):
    squares = ((m1 - m2) ** 2 / v2).sum(-1)
    return 0.5 * squares + 0.5 * (v1 / v2 - 1 - (v1 / v2).log()).sum(-1)


def _gaussians():
    for shape, shared in (((2, 3), (2, 3)), ((5, 4), (5, 4)), ((3, 2), (3, 1))):
        (m1, m2) = normal(2, *shape)
        (v1, v2) = uniform(2, *shared) + 0.2
        yield m1, v1, m2, v2


define(
    gaussian_kl,
    truth=by_quadrature,
    cases=lambda: list(_gaussians()),
    limits={
        "two equal Gaussians have KL 0": {
            "mean2": lambda a: a.mean1,
            "var2": lambda a: a.var1,
        },
        "for equal variances it is the squared distance of the means over twice the variance": {
            "var2": lambda a: a.var1
        },
        "for equal means only the ratio of the variances counts": {
            "mean2": lambda a: a.mean1
        },
    },
    properties=(at_least(0.0, "a KL never is"),),
    gradients=("mean1", "var1", "mean2", "var2"),
    mistakes="""
    arguments reversed
        = gaussian_kl(mean2, var2, mean1, var1)
        this is KL(N2 || N1). In KL(N1 || N2) the second variance is the unit of the difference of the means
    standard deviations
        = gaussian_kl(mean1, var1 ** 2, mean2, var2 ** 2)
        you square what is a variance already: the arguments are not standard deviations
    one variance for all
        _sum_before_broadcast
        a variance of shape (B, 1) belongs to every dimension, and yours counts it once
    """,
)


# --- simple_loss ---


def simple_loss(model, x0, t, alpha_bar):
    """Squared error of the predicted noise, mean over dimensions: one number per example."""
    eps = torch.randn_like(x0)  # the same draw goes into x_t and into the target
    x_t = q_sample(x0, t, alpha_bar, eps)
    u = t / (len(alpha_bar) - 1)  # networks are given time as a share of T
    return (eps - model(x_t, u)).square().flatten(1).mean(1)


class Ear(nn.Module):
    """A network that is wrong by `off`, and keeps what it was asked. It knows x_0, so it finds the noise."""

    def __init__(self, x0, t, table):
        super().__init__()
        a = table[t].reshape(-1, *[1] * (x0.ndim - 1))
        self.signal, self.spread, self.asked = a.sqrt() * x0, (1 - a).sqrt(), []
        self.off = nn.Parameter(0.5 + torch.rand_like(x0))

    def forward(self, x_t, u):
        hear(x_t, u)
        self.asked.append((x_t.detach().flatten(1).clone(), u))
        return ((x_t - self.signal) / self.spread).float() + self.off

    def told(self):
        """What it was asked last."""
        if not self.asked:
            raise Hint("your loss never asks the model")
        x_t, u = self.asked[-1]
        self.asked.clear()
        return x_t, u


def heard(loss, a):
    """The time that the network was told, what its x_t is made of, and the loss."""
    (x_t, u), abar = a.model.told(), a.alpha_bar[a.t]
    rows = zip(x_t, a.x0.flatten(1), strict=True)
    signal, noise = zip(*(weights(x, x0) for x, x0 in rows), strict=True)
    z = torch.stack(noise) / (1 - abar).sqrt()[:, None]
    return u, torch.cat(signal), likeness(z), bell(z), loss


def as_it_should_be(model, x0, t, alpha_bar):
    """t / T, sqrt(alpha_bar_t), draws from N(0, 1) of their own, and the square of what the network is wrong by."""
    price = model.off.square().flatten(1).mean(1)
    return (
        t / (len(alpha_bar) - 1),
        alpha_bar[t].sqrt(),
        alone(2),
        of_normal(len(t)),
        price,
    )


def _losses():
    """Data that is large beside the noise, so that both can be told apart; T among the times, and not."""
    for shape, t, table in (
        ((4, 90, 80), [1, 2, 4, 3], SHORT),
        ((5, 8000), [7, 1, 3, 2, 6], LONG),
        ((2, 3, 50, 40), [2, 3], SHORT),
    ):
        x0, t = 30 * torch.randn(shape), torch.tensor(t)
        yield Ear(x0, t, table), x0, t, table


define(
    simple_loss,
    truth=as_it_should_be,
    cases=lambda: list(_losses()),
    read=heard,
    draws=True,
    parts=(
        "time u",
        "weight of x_0 in x_t",
        "likeness of a draw to itself, to the next number and the next example",
        "size, mean and spread of the noise",
        "loss",
    ),
    tol=(1e-4, 1e-3, 0.06, 0.06, 0.01),
    gradients=("model",),
    factors={"the number of dimensions": lambda a: a.x0[0].numel()},
    mistakes="""
    one number for the batch
        return (eps - model(x_t, u)).square().flatten(1).mean(1) -> return (eps - model(x_t, u)).square().mean()
        one number for the whole batch: keep one per example, reduce over every axis but the first
    t instead of t / T
        u = t / (len(alpha_bar) - 1) -> u = t.float()
        the network was told t itself: it expects a share of T, 1 at the last time of the table
    compared with x0
        (eps - model -> (x0 - model
        the prediction is compared with x_0, but this network says which noise was mixed in
    other noise in the target
        (eps - model -> (torch.randn_like(x0) - model
        a network that finds the noise exactly has a loss of about 2: is the noise in x_t the one in the target?
    uniform noise
        torch.randn_like(x0) -> torch.rand_like(x0)
        the noise in x_t has mean 0.5: torch.rand_like is uniform on [0, 1], the forward process is Gaussian
    detached
        .flatten(1).mean(1) -> .flatten(1).mean(1).detach()
        the loss has no gradient: nothing would be learned. Is there a detach, an item or a no_grad in the way?
    one noise for the batch
        torch.randn_like(x0) -> torch.randn_like(x0[:1]).expand_as(x0)
        all examples of the batch got the same noise: draw it in the shape of x0
    sum over dimensions
        .mean(1) -> .sum(1)
        too large by the number of dimensions: take the mean over them, so that losses compare across image sizes
    absolute error
        .square() -> .abs()
        this is the mean of |error|: which power has the bound, and which value would the best network give for
        each?
    times drawn inside
        eps = torch -> t = torch.randint_like(t, 1, len(alpha_bar)); eps = torch
        the network was asked about other times than those given: t is an argument, not to be drawn here
    """,
)


# --- ancestral ---


def ancestral(model, x_T, times, alpha_bar):
    """From x_T through the falling times to x_0, with the small variance."""
    x, T = x_T, len(alpha_bar) - 1
    for t, s in pairwise(times):  # s is the next time on the list, not t - 1
        abar_t, abar_s = alpha_bar[t], alpha_bar[s]
        eps = model(x, torch.full((len(x),), t / T))
        x0 = (x - (1 - abar_t).sqrt() * eps) / abar_t.sqrt()
        var = (1 - abar_s) * (1 - abar_t / abar_s) / (1 - abar_t)  # 0 at s = 0
        z = torch.randn_like(x)
        x = (posterior_mean(x0, x, abar_s, abar_t) + var.sqrt() * z).to(x_T.dtype)
    return x


class Knows:
    """The network of somebody who knows the data: it finds the noise in any x_t, and keeps what it was asked."""

    def __init__(self, data, table):
        self.data, self.table, self.asked = data, table, []

    def __call__(self, x_t, u):
        hear(x_t, u)
        self.asked.append((x_t.clone(), u))
        T = len(self.table) - 1
        a = self.table[(u * T).round().long().clamp(0, T)][:, None]
        return ((x_t - a.sqrt() * self.data) / (1 - a).sqrt().clamp(min=1e-6)).float()

    def told(self):
        """The x_t that it was shown, and the times."""
        asked, self.asked = self.asked, []
        T = len(self.table) - 1
        return [x for x, _ in asked], [round(u[0].item() * T, 3) for _, u in asked]


def walked(x0, a):
    """The times that the network was told, and of each step what x_s is made of."""
    shown, told = a.model.told()
    if x0.shape != a.x_T.shape:
        is_, want = tuple(x0.shape), tuple(a.x_T.shape)
        raise Hint(f"the shape is {is_}, expected that of x_T, {want}")
    if len(told) != len(a.times) - 1:
        said = ", ".join(f"{t:g}" for t in told)
        raise Hint(
            f"times is {a.times}, and u times T, which the network hears, is {said}: "
            f"it should be {a.times[:-1]}"
        )
    hops = [weights(y, a.model.data, x) for x, y in pairwise([*shown, x0])]
    noise = [z for _, z in hops]
    own = torch.stack([likeness(z, later) for z, later in pairwise(noise[:-1])])
    size = torch.stack([z.std() for z in noise])
    return numbers(*told), torch.stack([w for w, _ in hops]), size, own


def by_hand(model, x_T, times, alpha_bar):
    """The mean of q(x_s | x_t, x_0) for x_0 = 1 and x_t = 1 alone, and its standard deviation."""
    at = [(alpha_bar[s], alpha_bar[t]) for t, s in pairwise(times)]
    one, zero = numbers(1.0, 0.0)
    mean = [[by_surprise(*x, s, t) for x in ((one, zero), (zero, one))] for s, t in at]
    size = [by_surprise_and_noise(zero, zero, s, t, one) for s, t in at]
    own = alone(3).expand(len(at) - 2, -1)
    return numbers(*times[:-1]), torch.tensor(mean), torch.stack(size), own


def _walks():
    """Times with gaps. Data and x_T are large beside the noise, so that each step can be taken apart."""
    for times, shape, table in (
        ([5, 3, 1, 0], (3000, 4), SHORT),
        ([7, 6, 3, 0], (4000, 3), LONG),
    ):
        x_T, data = 30 * torch.randn(2, *shape)
        yield Knows(data, table), x_T, times, table


define(
    ancestral,
    truth=by_hand,
    cases=lambda: list(_walks()),
    read=walked,
    draws=True,
    parts=(
        "time that the network hears",
        "weight of x_0 and of x_t in each step",
        "standard deviation of each step's noise",
        "likeness of a draw to itself, the next number, the next example, the next step",
    ),
    tol=(1e-4, 5e-3, 0.02, 0.08),
    mistakes="""
    noise in the last step
        var = (1 - abar_s) * (1 - abar_t / abar_s) / (1 - abar_t) -> var = 1 - abar_t / abar_s
        with a network that knows the data exactly, the result still holds noise: the variance must vanish at s =
        0
    the variance for the standard deviation
        var.sqrt() * z -> var * z
        too little noise is put back on the way: z is multiplied by the variance instead of its root
    no noise at all
        var.sqrt() * z -> 0 * z
        two runs from the same x_T end in the same place: no noise is put back on the way
    the network hears the wrong time
        t / T) -> s / T)
        the network is asked about x_t but is told the time s: u must belong to the x that it sees
    always one step
        alpha_bar[t], alpha_bar[s] -> alpha_bar[t], alpha_bar[t - 1]
        the steps go to t - 1 although the list skips times: the alpha_bar of the next time on the list is needed
    the large variance
        var = (1 - abar_s) * (1 - abar_t / abar_s) / (1 - abar_t) -> var = (s > 0) * (1 - abar_t / abar_s)
        this is the large variance, beta, with the last noise left out. DDPM may be run so, but the small one is
        asked for: which variance has q(x_s | x_t, x_0)?
    noised again
        posterior_mean(x0, x, abar_s, abar_t) + var.sqrt() * z -> abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * z
        you take the network's x_0 and noise it again: x_t itself has no say in x_s. Whose mean does q(x_s | x_t,
        x_0) mix with x_0?
    one noise for all steps
        z = torch.randn_like(x) -> z = torch.randn_like(x) if t == times[0] else z
        the noise is the same in every step: draw it anew each time, inside the loop
    one noise for a row
        z = torch.randn_like(x) -> z = torch.randn_like(x[:, :1])
        all dimensions of an example get the same noise: draw it in the shape of x
    """,
)


def _small(abar_s, abar_t):
    return (1 - abar_s) * (1 - abar_t / abar_s) / (1 - abar_t)


# --- repair ---


def repair(x0_hat, x_t, abar_s, abar_t, z):
    """One step back with the small variance: it is 0 at s = 0, so no grain is left."""
    mean, var = posterior_mean(x0_hat, x_t, abar_s, abar_t), _small(abar_s, abar_t)
    return mean + var.sqrt() * z


def by_surprise_and_noise(x0_hat, x_t, abar_s, abar_t, z):
    """Mean and variance of x_s given x_0, both as x_t corrects them."""
    kept, spread = abar_t / abar_s, 1 - abar_s
    var = spread * (1 - kept * spread / (kept * spread + 1 - kept))
    return by_surprise(x0_hat, x_t, abar_s, abar_t) + var.sqrt() * z


def _repairs():
    for shape, s, t in (((3,), 0.8, 0.3), ((4,), 0.6, 0.55), ((2, 5), 0.3, 0.1)):
        x0, x_t, z = normal(3, *shape)
        yield x0, x_t, *numbers(s, t), z


define(
    repair,
    truth=by_surprise_and_noise,
    cases=lambda: list(_repairs()),
    limits={
        "a finished sample, at abar_s = 1, is x0_hat, with no noise in it": {
            "abar_s": numbers(1.0)[0]
        }
    },
    linear_in=("x0_hat", "x_t", "z"),
    mistakes="""
    left as it is
        _small(abar_s, abar_t) -> 1 - abar_t / abar_s
        at s = 0 there is still noise in the result: 1 - abar_t / abar_s does not vanish there
    noise scaled by 1 - abar_s
        _small(abar_s, abar_t) -> 1 - abar_s
        the noise vanishes at s = 0 but is too large before: x_t already holds a part of it
    the variance for the standard deviation
        var.sqrt() * z -> var * z
        the right variance, but z must be multiplied by its root
    noise only switched off at the end
        _small(abar_s, abar_t) -> torch.where(abar_s == 1, 0 * abar_s, 1 - abar_t / abar_s)
        the last step is clean now, but the log shows too much noise in every row before it, too
    """,
)


# --- bits_per_dim ---


def bits_per_dim(terms, prior_term, dims):
    """Sum of the terms and the prior term, from nats per example to bits per dimension."""
    nats = terms.sum() + prior_term  # a sum over t, not a mean
    return nats / (dims * math.log(2))


def in_bits(terms, prior_term, dims):
    """Each term in bits, then added up one after the other."""
    bits = [math.log2(math.exp(v)) for v in [*terms.tolist(), float(prior_term)]]
    return torch.tensor(math.fsum(bits) / dims, dtype=torch.float64)


define(
    bits_per_dim,
    truth=in_bits,
    cases=lambda: [
        (uniform(n) + 0.5, numbers(prior)[0], dims)
        for n, prior, dims in ((3, 0.7, 5), (20, 1.3, 12), (6, 0.4, 64))
    ],
    linear_in=("terms", "prior_term"),
    factors={"dims ln 2": lambda a: a.dims * math.log(2)},
    mistakes="""
    nats
        (dims * math.log(2)) -> dims
        these are nats per dimension: a bit is ln 2 nats
    multiplied by ln 2
        / (dims * math.log(2)) -> / dims * math.log(2)
        a nat is more than a bit (1.44 of them): divide by ln 2
    bits per example
        (dims * math.log(2)) -> math.log(2)
        these are bits per example: there are dims dimensions in each
    """,
)


# --- best_guess ---


def best_guess(x_t, abar, points, weights):
    """E[x_0 | x_t]: Bayes' rule over the points, then their mean."""
    distance = (x_t[:, None] - abar**0.5 * points) ** 2
    log_weight = weights.log() - distance / (2 * (1 - abar))
    return log_weight.softmax(1) @ points


def by_density(x_t, abar, points, weights):
    """The same from densities, a point at a time."""
    normal = torch.distributions.Normal(abar**0.5 * points, (1 - abar) ** 0.5)
    joint = normal.log_prob(x_t[:, None]).exp() * weights
    mean = sum(joint[:, n] * point for n, point in enumerate(points))
    return mean / joint.sum(1)


def _likeliest(x_t, abar, points, weights):
    distance = (x_t[:, None] - abar**0.5 * points) ** 2
    return points[(weights.log() - distance / (2 * (1 - abar))).argmax(1)]


define(
    best_guess,
    truth=by_density,
    cases=lambda: [
        (x_t, numbers(abar)[0], points, weights / weights.sum())
        for x_t, abar, points, weights in (
            (numbers(-1.3, 0.2, 0.9), 0.5, numbers(-1.2, 0.8), numbers(0.3, 0.7)),
            (
                normal(7),
                0.8,
                numbers(-2.0, -0.5, 0.1, 0.8),
                numbers(2.0, 1.0, 0.5, 3.0),
            ),
        )
    ],
    limits={
        "where nearly nothing of x_0 is left, the best guess is the mean of the data": {
            "abar": numbers(1e-12)[0]
        }
    },
    mistakes="""
    the likeliest point
        _likeliest
        you answer with the likeliest point. The squared error is smallest for the mean of all points, each as
        probable as Bayes' rule says
    all points equally likely before
        weights.log() - distance -> -distance
        the weights of the data do not enter: Bayes' rule multiplies the fit by how likely each point was before
    the mean of the data
        = (weights @ points).expand(len(x_t))
        this is the mean of the data before anything was seen: x_t does not enter
    """,
)


# --- score_from_guess ---


def score_from_guess(x0_hat, x_t, abar):
    """grad ln q(x_t) = -E[eps | x_t] / sd, with the guess in place of E[x_0 | x_t]."""
    return (abar**0.5 * x0_hat - x_t) / (1 - abar)


def by_noise(x0_hat, x_t, abar):
    """Minus the guessed noise, over its standard deviation."""
    sd = (1 - abar) ** 0.5
    return -((x_t - abar**0.5 * x0_hat) / sd) / sd


define(
    score_from_guess,
    truth=by_noise,
    cases=lambda: [
        (*normal(2, n), numbers(abar)[0]) for n, abar in ((3, 0.3), (5, 0.9))
    ],
    linear_in=("x0_hat", "x_t"),
    mistakes="""
    the sign
        (abar**0.5 * x0_hat - x_t) -> (x_t - abar**0.5 * x0_hat)
        the sign is turned: the density rises towards sqrt(abar) times the guess, so the score points there
    the noise instead of the score
        = (x_t - abar ** 0.5 * x0_hat) / (1 - abar) ** 0.5
        this is the guess of the noise. The score is minus that, divided by the noise's standard deviation
    divided by the standard deviation once
        / (1 - abar) -> / (1 - abar) ** 0.5
        you divide by the standard deviation once. One division makes the noise out of the distance, another the
        score out of the noise
    """,
)


# --- from_v ---


def from_v(v, x_t, abar):
    """(x_0, eps) from v = sqrt(abar) eps - sqrt(1 - abar) x_0: a rotation of (x_t, v), undone."""
    signal, noise = abar**0.5, (1 - abar) ** 0.5
    return signal * x_t - noise * v, noise * x_t + signal * v


def by_equations(v, x_t, abar):
    """Two equations for two unknowns, (1.3) and (1.17), solved by a machine."""
    signal, noise = abar**0.5, (1 - abar) ** 0.5
    # x_t, v.
    rows = torch.stack([torch.stack([signal, noise]), torch.stack([-noise, signal])])
    x0, eps = torch.linalg.solve(rows, torch.stack([x_t, v]))
    return x0, eps


define(
    from_v,
    truth=by_equations,
    cases=lambda: [
        (*torch.randn(2, n, dtype=torch.float64), numbers(abar)[0])
        for n, abar in ((3, 0.3), (5, 0.9))
    ],
    limits={
        "without noise (abar = 1) x_t is x_0, and v is the noise": {
            "abar": numbers(1.0)[0]
        },
        "where nothing is left of the data (abar = 0) x_t is the noise, and v is -x_0": {
            "abar": numbers(0.0)[0]
        },
    },
    linear_in=("v", "x_t"),
    parts=("x_0", "eps"),
    mistakes="""
    v taken for the noise
        = ((x_t - (1 - abar) ** 0.5 * v) / abar ** 0.5, v)
        you read v as the noise. It is sqrt(abar) eps - sqrt(1 - abar) x_0: which x_0 and eps give this v and this
        x_t?
    the sign of v
        = from_v(-v, x_t, abar)
        v comes with the other sign: in (1.17) the noise has the plus and the data the minus
    the two roots swapped
        = from_v(v, x_t, 1 - abar)
        the two roots are swapped: at abar = 1 the guess of x_0 must be x_t itself
    shares in place of roots
        abar**0.5, (1 - abar) ** 0.5 -> abar, 1 - abar
        abar and 1 - abar are shares of the variance: signal and noise have their roots as factors
    the other order
        = from_v(v, x_t, abar)[::-1]
        these are eps and x_0, and x_0 is asked for first
    """,
)


# --- gap ---


def gap(log_q, log_p):
    """mean(ln q - ln p) + ln mean(p / q): the bound (1.14), less what the same paths say of -ln p(x_0)."""
    bound = (log_q - log_p).mean()
    log_mean = (log_p - log_q).logsumexp(0) - math.log(len(log_q))
    return bound + log_mean


def by_plain_means(log_q, log_p):
    """The same with plain numbers: small ones, which do not overflow."""
    ratios = [
        math.exp(p - q) for p, q in zip(log_p.tolist(), log_q.tolist(), strict=True)
    ]
    mean_of_logs = sum(map(math.log, ratios)) / len(ratios)
    return numbers(math.log(sum(ratios) / len(ratios)) - mean_of_logs)[0]


define(
    gap,
    truth=by_plain_means,
    cases=lambda: [torch.randn(2, n, dtype=torch.float64) for n in (3, 7)],
    limits={
        "where all paths have the same p / q the bound is tight": {
            "log_p": lambda a: a.log_q - 1.3
        },
    },
    ignores={
        "p multiplied by a number shifts bound and truth alike": {
            "log_p": lambda a: a.log_p + 0.7
        }
    },
    properties=(
        at_least(0.0, "-ln is convex, so the mean of the logarithms is never below"),
    ),
    mistakes="""
    the sign
        return bound + log_mean -> return -(bound + log_mean)
        the sign is turned: the bound lies above -ln p(x_0), so bound minus truth is never negative
    ln N forgotten
         - math.log(len(log_q)) ->
        you add up p / q over the paths and do not divide by their number: the gap then grows with N even where
        all paths agree
    the sum of the logarithms
        .mean() -> .sum()
        the bound is the mean of ln q - ln p over the paths, not their sum
    the bound alone
        return bound + log_mean -> return bound
        this is the bound itself. What do the same paths say of ln p(x_0)?
    q / p in the mean
        (log_p - log_q).logsumexp -> -(log_q - log_p).logsumexp
        paths are drawn from q, so p(x_0) is the mean of p / q; you average q / p
    the mean of the logarithms twice
        = (log_q - log_p).mean() + (log_p - log_q).mean()
        your two terms cancel: ln p(x_0) is the logarithm of a mean, not the mean of a logarithm
    """,
)


# --- vae_bound ---


def vae_bound(x0, mean, var, x0_hat, decoder_var):
    """KL(N(mean, var) || N(0, I)) - ln N(x_0; x0_hat, decoder_var), one number per example: (1.14) with one latent."""
    # (1.16) against the prior, N(0, 1) in each dimension of the latent
    kl = 0.5 * (var + mean**2 - 1 - var.log()).sum(-1)
    # a Gaussian around the decoder's answer, in each dimension of the data
    error = (x0 - x0_hat) ** 2 / decoder_var
    nll = 0.5 * (error + (2 * math.pi * decoder_var).log()).sum(-1)
    return kl + nll


def by_distributions(x0, mean, var, x0_hat, decoder_var):
    """The same by torch's own distributions."""
    q = Normal(mean, var.sqrt())
    p = Normal(x0_hat, decoder_var.sqrt())
    kl = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(var)))
    return kl.sum(-1) - p.log_prob(x0).sum(-1)


def _latents():
    """Latents smaller than the data, and as large."""
    for n, dims, size, width in ((3, 4, 2, 0.3), (2, 5, 1, 1.7), (4, 3, 3, 0.05)):
        x0, x0_hat = normal(2, n, dims)
        yield x0, normal(n, size), uniform(n, size) + 0.2, x0_hat, numbers(width)[0]


define(
    vae_bound,
    truth=by_distributions,
    cases=lambda: list(_latents()),
    limits={
        "an encoder that says N(0, I) of every x_0 costs nothing, and the decoder pays for all": {
            "mean": lambda a: 0 * a.mean,
            "var": lambda a: 0 * a.var + 1,
        },
        "where the decoder names x_0 and 2 pi decoder_var is 1 only the KL is left": {
            "x0_hat": lambda a: a.x0,
            "decoder_var": numbers(1 / (2 * math.pi))[0],
        },
    },
    ignores={
        "moving x_0 and the decoder's answer alike changes no distance": {
            "x0": lambda a: a.x0 + 0.7,
            "x0_hat": lambda a: a.x0_hat + 0.7,
        }
    },
    mistakes="""
    the KL the wrong way round
        var + mean**2 - 1 - var.log() -> (1 + mean**2) / var - 1 + var.log()
        this is KL(N(0, I) || q): paths are drawn from q, so q stands first in (1.14)
    the KL's sign
        kl + nll -> nll - kl
        your bound falls as the latent says more. What the latent says has to be paid for: both parts are costs
    var read as a logarithm
        var + mean**2 - 1 - var.log() -> var.exp() + mean**2 - 1 - var
        you read var as ln var, as encoders often say it. Here it is the variance
    the squared error alone
        nll = 0.5 * (error + (2 * math.pi * decoder_var).log()).sum(-1) -> nll = 0.5 * ((x0 - x0_hat) ** 2).sum(-1)
        this is the squared error as many programs have it: a bound in nats also needs the decoder's variance and
        its normalising constant
    the constant forgotten
        error + (2 * math.pi * decoder_var).log() -> error
        a density has a normalising constant: without it a wide decoder pays nothing for being wide
    the mean over dimensions
        kl + nll -> kl + nll / x0.shape[-1]
        the logarithm of a product over dimensions is a sum. With a mean here and a sum in the KL the data counts
        too little, and the decoder may come to ignore the latent
    """,
)
