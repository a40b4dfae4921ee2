"""Chapter 6's exercises: other right answers pass, and what the library says is what the references say."""

import math

import pytest
import torch
import torch.nn.functional as F

from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.exercise import find, grade, of_chapter
from course_lib.solutions import d3pm
from course_lib.stationary import Uniform
from course_lib.structured import band, gaussian

SPECS = {spec.name: spec for spec in of_chapter("d3pm")}


# What each wrong answer says, by hand: a wrong answer with a second mistake would teach the wrong hint

ZERO, ONE, LN2 = torch.tensor([[0]]), torch.tensor([[1]]), math.log(2)
HALVES = torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]]]).double().log()
POST = torch.tensor([[[0.5, 0.3, 0.2]]]).double()
NAN = float("nan")
PROBES = {
    "d3pm.uniform_marginal": (ZERO, 0.36, 3),
    "d3pm.multinomial_posterior": (ZERO, ONE, 0.5, 0.8, 2),  # brackets (.75, .25) and (.1, .9)
    "d3pm.absorbing_step": (2, 0.3),
    "d3pm.gaussian_step": (3, 1 / LN2),  # weights 1, 1/2, 1/16
    "d3pm.absorbing_loss": (
        HALVES,
        torch.tensor([[0, 0, 1]]),
        torch.tensor([[2, 2, 1]]),
        torch.tensor([2]),
        6,
    ),
    "d3pm.leave_one_out": (POST, ZERO, 0.4),
    "d3pm.hybrid": (torch.tensor([2.0]), torch.tensor([3.0]), 0.1, 10),
}
A, B, C = 2 ** (-4 / 9), 2 ** (-16 / 9), 2 ** (-1 / 4)
Z, Y = 1 + 2 * A + 2 * B, 2 + 2 * C
U = (7 - 4 * 2**0.5) / 3  # 9 U^2 - 42 U + 17 = 0: rows and columns of the weights scaled until all sum to 1
SAID = {  # in the order of each table
    "d3pm.uniform_marginal": [
        [0.36, 0.32, 0.32], [0.36, 0.64 / 3, 0.64 / 3], [2.2 / 3, 0.4 / 3, 0.4 / 3], [0.76, 0.12, 0.12],
    ],
    "d3pm.multinomial_posterior": [
        [0.75, 0.25], [0.425, 0.575], [1 / (1 + math.exp(0.15)), 1 / (1 + math.exp(-0.15))],
        [0.5, 0.5], [0.5625, 0.4375],
        [0.2, 0.8], [0.75, 0.25],
    ],
    "d3pm.absorbing_step": [
        [[0.7, 0, 0], [0, 0.7, 0], [0.3, 0.3, 1]], [[0.7, 0, 0.3], [0, 0.7, 0.3], [0.15, 0.15, 0.7]],
        [[0.85, 0.15, 0], [0.15, 0.85, 0], [0, 0, 1]], [[0.7, 0, 0.3], [0, 0.7, 0.3], [0, 0, 0.7]],
    ],
    "d3pm.gaussian_step": [  # first two rows; the third is the first one turned round
        [[0.64, 0.32, 0.04], [0.25, 0.5, 0.25]],
        [[23 / 32, 0.25, 1 / 32], [0.25, 0.5, 0.25]],
        [[(1 + A + B) / Z, A / Z, B / Z], [A / Z, (1 + 2 * B) / Z, A / Z]],
        [[0.64, 0.32, 0.04], [0.32, 0.36, 0.32]],
        [[(1.5 + C) / Y, C / Y, 0.5 / Y], [C / Y, 2 / Y, C / Y]],
        [[(1 - U) ** 2 / U, (1 - U) / 2, (1 - U) ** 2 / U / 16], [(1 - U) / 2, U, (1 - U) / 2]],
        [[0.7, 0.2, 0.1], [0.2, 0.6, 0.2]],
    ],
    "d3pm.absorbing_loss": [[4.5 * LN2], [3 * LN2], [LN2], [1.5 * LN2], [3.6 * LN2]],
    "d3pm.leave_one_out": [
        [0.75, 0.15, 0.1], [0, NAN, NAN], [1 / 3, 0.4, 4 / 15],
        [3 / 7, 2.4 / 7, 1.6 / 7], [0, 0.6, 0.4],
        [0.5, 0.3, 0.2], [0.75, 0.25, 0],
        [math.exp(x) / (math.exp(5 / 6) + math.exp(1.5) + math.e) for x in (5 / 6, 1.5, 1)],
    ],
    "d3pm.hybrid": [[32], 23, [21]],
}  # fmt: skip


@pytest.mark.parametrize("name", PROBES)
def test_wrong_answers_make_the_one_mistake_that_they_are_named_after(name):
    for wrong, values in zip(SPECS[name].wrong.values(), SAID[name], strict=True):
        got, want = wrong(*PROBES[name]).double(), torch.tensor(values, dtype=torch.float64)
        if name == "d3pm.gaussian_step":
            torch.testing.assert_close(got[2], got[0].flip(0))
            got = got[:2]
        got = got[0, 0] if got.ndim == 3 else got
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8, equal_nan=True)


MISJUDGED = {
    "columns instead of rows": {
        "absorbing noise": "rows", "absorbing noise, transposed": "none",
        "Gaussian noise, each row by its own sum": "rows", "absorbing noise where uniform noise is wanted": "rows",
        "the same rows where no uniform end is wanted": "rows",
        "two tokens that keep the uniform law and two that do not": "rows",
    },
    "rows only": {
        "two tokens that keep the uniform law and two that do not": "none",
        "Gaussian noise, each row by its own sum": "none", "absorbing noise where uniform noise is wanted": "none",
    },
    "demands a symmetric matrix": {"a step around a ring": "law"},
    "wants a uniform end from every noise": {
        "absorbing noise": "law", "the same rows where no uniform end is wanted": "law",
    },
    "never looks for negative entries": {
        "band noise that moves too much": "none", "band noise that moves too much, rows off": "rows",
    },
    "rows asked first": {"band noise that moves too much, rows off": "rows"},
}  # fmt: skip


@pytest.mark.parametrize("label", MISJUDGED)
def test_wrong_detectors_misjudge_what_their_hint_speaks_of(label):
    wrong, cases = SPECS["d3pm.fault"].wrong[label], d3pm.patients()
    said = {name: wrong(Q, uniform) for name, (Q, uniform, _) in cases.items()}
    assert {name: v for name, v in said.items() if v != cases[name][2]} == MISJUDGED[label]


# Other right answers


def mixture_marginal(x0, alpha_bar, K):
    law = torch.full((*x0.shape, K), (1 - alpha_bar) / K)  # float32 is fine
    return law.scatter_add(-1, x0[..., None], torch.full((*x0.shape, 1), float(alpha_bar)))


def matrix_posterior(x_t, x0, alpha, alpha_bar_s, K):
    step, far = (a * torch.eye(K) + (1 - a) / K for a in (alpha, alpha_bar_s))
    return step.T[x_t] * far[x0] / (far @ step)[x0, x_t][..., None]  # D3PM, eq. 3


def loop_absorbing(K, beta):
    Q = torch.zeros(K + 1, K + 1)
    for i in range(K):
        Q[i, i], Q[i, K] = 1 - beta, beta
    Q[K, K] = 1
    return Q


def loop_gaussian(K, beta):
    def weight(n):
        return math.exp(-4 * n * n / ((K - 1) ** 2 * beta))

    Z, Q = sum(weight(n) for n in range(1 - K, K)), torch.zeros(K, K)
    for i in range(K):
        for j in range(K):
            Q[i, j] = weight(i - j) / Z if i != j else 0
        Q[i, i] = 1 - Q[i].sum()
    return Q


def loop_loss(log_p0, x0, x_t, t, T):
    out = torch.zeros(len(t))
    for b in range(len(t)):
        for l in range(x0.shape[1]):
            if x_t[b, l] == log_p0.shape[-1]:
                out[b] -= T / t[b] * log_p0[b, l, x0[b, l]]
    return out


def log_leave_one_out(post, x_t, alpha_bar_t):
    a, K = alpha_bar_t, post.shape[-1]
    return (post.log() - F.one_hot(x_t, K) * math.log(1 + K * a / (1 - a))).softmax(-1)


def two_terms(kl, ce, ce_weight, T):
    return T * kl + T * ce_weight * ce


def plain_fault(Q, uniform_in_the_end):
    uniform = torch.full((len(Q),), 1 / len(Q)).to(Q)
    if Q.min() < 0:
        return "negative"
    if not torch.allclose(Q.sum(1), torch.ones(len(Q)).to(Q), atol=1e-6, rtol=0):
        return "rows"
    kept = torch.allclose(uniform @ Q, uniform, atol=1e-7, rtol=0)
    return "none" if kept or not uniform_in_the_end else "law"


def one_stage_reveal(p0, x_t, chance, mask):
    """A race over K + 1 states in float64, as samplers of one stage have it."""
    law = torch.cat([chance * p0, (1 - chance) * torch.ones_like(p0[..., :1])], -1)
    drawn = (law / -torch.rand_like(law).log()).argmax(-1)  # the last state is MASK
    return torch.where(x_t == mask, drawn, x_t)


OTHER = {
    "d3pm.uniform_marginal": mixture_marginal, "d3pm.multinomial_posterior": matrix_posterior,
    "d3pm.absorbing_step": loop_absorbing, "d3pm.gaussian_step": loop_gaussian, "d3pm.absorbing_loss": loop_loss,
    "d3pm.leave_one_out": log_leave_one_out, "d3pm.hybrid": two_terms, "d3pm.fault": plain_fault,
    "d3pm.reveal": one_stage_reveal,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_other_right_answers_pass(name):
    assert grade(SPECS[name], OTHER[name]) == ("PASS", "")


# Mistakes that no table holds


def other_fault(Q, uniform_in_the_end):
    answer = d3pm.fault(Q, uniform_in_the_end)
    return "none" if answer == "rows" else answer


K_OF = d3pm._hot


@pytest.mark.parametrize("name, answer, hint", [
    ("uniform_marginal", lambda x0, a, K: d3pm.uniform_marginal(x0, a, K)[0], "(3, 5), expected (2, 3, 5)"),
    ("uniform_marginal", lambda x0, a, K: d3pm.uniform_marginal(x0, a**2, K), "alpha_bar^2 in the place of alpha_bar"),
    ("uniform_marginal", lambda x0, a, K: a * K_OF(x0, K) + (1 - a) / (K - 1), "sum to 1.1"),
    ("uniform_marginal", lambda x0, a, K: a * K_OF(x0, K) + (1 - a) / (K - 1), "K - 1 stands in one place"),
    ("multinomial_posterior", lambda x_t, x0, a, b, K: d3pm.uniform_marginal(x0, b, K), "lpha = 1 nothing happens"),
    ("absorbing_step", lambda K, beta: torch.eye(K + 1), "for 0 in the place of beta"),
    ("absorbing_step", lambda K, beta: d3pm.absorbing_step(K, max(beta, 0.1)), "at beta = 0 everything stays"),
    ("gaussian_step", lambda K, beta: d3pm.gaussian_step(K, beta**2), "beta^2 in the place of beta"),
    ("absorbing_loss", lambda p, x0, x_t, t, T: d3pm.absorbing_loss(p, x0, x_t, t + 1, T), "t + 1 in the place of t"),
    ("absorbing_loss", lambda p, x0, x_t, t, T: d3pm.absorbing_loss(p, x0, x_t, t, t.max()), "not change when T does"),
    ("absorbing_loss", lambda p, x0, x_t, t, T: d3pm.absorbing_loss(p, x0, x_t, t, T) / LN2, "1 / ln 2 = 1.443 times"),
    ("absorbing_loss", lambda p, x0, x_t, t, T: d3pm.absorbing_loss(p, x0, x_t, t, T).sum(), "summed over all"),
    ("absorbing_loss", lambda p, x0, x_t, t, T: d3pm.absorbing_loss(p.detach(), x0, x_t, t, T), "no gradient"),
    ("absorbing_loss",
     lambda p, x0, x_t, t, T: d3pm.absorbing_loss(p, x0, x_t, t, T) + (x_t == x0).all(), "nothing is masked"),
    ("leave_one_out", lambda post, x_t, a: d3pm.leave_one_out(post, x_t, a**2), "alpha_bar_t^2 in the place of"),
    ("hybrid", lambda kl, ce, w, T: T * (kl + ce), "kl is right; ce is 1 / ce_weight times"),
    ("hybrid", lambda kl, ce, w, T: T * (2 * kl + w * T * ce), "kl is 2 times what it should be; ce is T times"),
    ("hybrid", lambda kl, ce, w, T: T * (kl + w * ce.detach()), "no gradient reaches ce"),
    ("hybrid", lambda kl, ce, w, T: [1.0], "it returned list"),
    ("fault", lambda Q, uniform: "fine", "it returned 'fine'"),
    ("fault", other_fault, "for absorbing noise, transposed it gives 'none' where 'rows' is expected"),
    ("reveal", lambda p0, x, c, m: d3pm.reveal(p0, x, c, m)[:1], "expected (6000, 4)"),
    ("reveal", lambda p0, x, c, m: x, "or nothing drawn?"),
    ("reveal", lambda p0, x, c, m: d3pm.reveal(p0, x, c / 2, m), "chance / 2 in the place of chance"),
    ("reveal", lambda p0, x, c, m: d3pm.reveal(p0, x, 0.3, m), "the distribution of what a mask becomes is wrong"),
    ("reveal", lambda p0, x, c, m: d3pm.reveal(p0.flip(0), x, c, m), "for the distribution of what a mask becomes"),
    ("reveal", lambda p0, x, c, m: d3pm.reveal(p0.flip(1), x, c, m), "for the distribution of what a mask becomes"),
    ("reveal", lambda p0, x, c, m: d3pm.reveal(p0**0.5, x, c, m), "sqrt(p0) in the place of p0"),
    ("reveal", lambda p0, x, c, m: d3pm.reveal(p0[:1], x[:1], c, m).expand_as(x), "visible tokens"),
])  # fmt: skip
def test_mistakes_that_no_list_holds_are_described(name, answer, hint):
    state, text = grade(find(f"d3pm.{name}"), answer)
    assert state == "FAIL" and hint in text
    assert text not in find(f"d3pm.{name}").hints.values() or name == "reveal"


def test_two_listed_mistakes_are_told_as_two():
    text = grade(find("d3pm.hybrid"), lambda kl, ce, w, T: (T * ((1 - w) * kl + w * ce)).mean())[1]
    hints = find("d3pm.hybrid").hints
    assert hints["one number for the batch"] in text and hints["a mix of the two"] in text

    def weak(Q, uniform_in_the_end):
        if ((Q.sum(0) - 1).abs() > 1e-6).any():
            return "rows"
        return "law" if uniform_in_the_end and not ((Q.sum(0) - 1).abs() <= 1e-6).all() else "none"

    hints = find("d3pm.fault").hints
    text = grade(find("d3pm.fault"), weak)[1]
    assert text.startswith("two mistakes at once. The first: ")
    assert hints["columns instead of rows"] in text and hints["never looks for negative entries"] in text


@pytest.mark.parametrize("seed", range(5))
def test_reveal_is_judged_alike_whatever_the_draws(seed):
    def other_seed(p0, x_t, chance, mask):
        torch.rand(seed)  # other draws than the reference's
        return d3pm.reveal(p0, x_t, chance, mask)

    assert grade(SPECS["d3pm.reveal"], other_seed) == ("PASS", "")


def test_each_matrix_to_be_judged_has_another_reason():
    cases = d3pm.patients()
    assert {truth for _, _, truth in cases.values()} == {"none", "rows", "law", "negative"}
    for name, (Q, uniform, truth) in cases.items():
        assert d3pm.fault(Q, uniform) == truth, name


# The references agree with the library, and so with the chapter's other cells

TABLE = torch.tensor([1.0, 0.9, 0.7, 0.45, 0.2, 0.05], dtype=torch.float64)
K, S, T = 4, torch.tensor([0, 1, 3]), torch.tensor([1, 2, 5])


def same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def tokens(states=K, length=5):
    return torch.randint(states, (3, length))


def test_marginal_and_posterior_are_the_librarys():
    process, x0, x_t = D3PM(Uniform(K, TABLE), 5), tokens(), tokens()
    marginal, posterior = process.noise.row(x0, 0 * T, T), process.posterior(x0, x_t, T, S)
    for b, (s, t) in enumerate(zip(S, T, strict=True)):
        same(d3pm.uniform_marginal(x0[b], TABLE[t].item(), K), marginal[b])
        alpha = (TABLE[t] / TABLE[s]).item()
        same(d3pm.multinomial_posterior(x_t[b], x0[b], alpha, TABLE[s].item(), K), posterior[b])


def test_steps_are_the_librarys():
    first = torch.tensor([0]), torch.tensor([1])
    table = torch.tensor([1.0, 0.7], dtype=torch.float64)
    same(d3pm.absorbing_step(K, 1 - table[1].item()), Absorbing(K, table).matrix(*first)[0])
    same(d3pm.gaussian_step(K, 0.3), gaussian(K, torch.tensor([0.3], dtype=torch.float64)).matrix(*first)[0])
    same(d3pm.bands(K, 0.1), band(K, torch.tensor([0.4], dtype=torch.float64), 1).matrix(*first)[0])


def test_absorbing_loss_is_the_librarys():
    clock = 1 - torch.arange(6, dtype=torch.float64) / 5
    noise, x0 = Absorbing(K, clock), tokens()
    x_t = torch.where(torch.rand(3, 5) < 0.6, K, x0)
    log_p0 = torch.randn(3, 5, K, dtype=torch.float64).log_softmax(-1)
    want = 5 * noise.kl(x0, x_t, log_p0, T - 1, T).sum(1)
    same(d3pm.absorbing_loss(log_p0, x0, x_t, T, 5), want)


def test_leave_one_out_is_the_librarys():
    log_post, x_t = torch.randn(3, 5, K, dtype=torch.float64).log_softmax(-1), tokens()
    want = Uniform(K, TABLE).loo_from_posterior(log_post, x_t, T).exp()
    for b, t in enumerate(T):
        same(d3pm.leave_one_out(log_post[b].exp(), x_t[b], TABLE[t].item()), want[b])


def test_hybrid_is_the_librarys_loss():
    logits, x0 = torch.randn(3, 5, K), tokens()
    process = D3PM(Uniform(K, TABLE), 5, ce_weight=0.05)

    def model(x_t, u):
        return logits

    torch.manual_seed(1)
    kl = process.term(model, x0, T)
    ce = -logits.double().log_softmax(-1).gather(-1, x0[..., None]).sum((1, 2))
    torch.manual_seed(1)
    want = process.loss(model, x0, T)
    torch.testing.assert_close(d3pm.hybrid(kl, ce, 0.05, 5).float() / 5, want, rtol=1e-4, atol=1e-5)


def test_reveal_draws_from_the_librarys_posterior():
    noise = Absorbing(K, TABLE)
    s, t = torch.tensor([2]), torch.tensor([4])
    p0 = torch.rand(1, 1, K, dtype=torch.float64)
    p0 = p0 / p0.sum()
    want = noise.posterior(p0, torch.tensor([[K]]), s, t)[0, 0]
    x_t = torch.full((20_000, 1), K)
    x_s = d3pm.reveal(p0.expand(20_000, 1, K), x_t, noise.unmasking_probability(s, t).item(), K)
    share = F.one_hot(x_s, K + 1).double().mean((0, 1))
    assert (share - want).abs().max() < 5 * 0.5 / 20_000**0.5
