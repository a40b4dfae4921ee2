"""Settings that are no numbers, positions that are none, small worlds that cannot be: named, never computed with."""

import math

import pytest
import torch

from course_lib import joint as J
from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.autoregressive import Autoregressive
from course_lib.correctors import Corrector, softly
from course_lib.cur import core, cur, mean_utility
from course_lib.d3pm import D3PM
from course_lib.data import MarkovLanguage, batches
from course_lib.ddim import DDIM
from course_lib.decoding import Unmask, entropy_bounded, nucleus, temper
from course_lib.diffuseq import DiffuSeq
from course_lib.diffusion_lm import DiffusionLM
from course_lib.discrete_flow import Euler, velocity
from course_lib.distances import frechet
from course_lib.duo import uniform_alpha
from course_lib.evaluate import Estimate, estimate, exact_law
from course_lib.geodesics import heat_kernel
from course_lib.grey_levels import log_prob_of_level
from course_lib.insertion import Insertion
from course_lib.learning_rate import cosine_of_progress, decay_groups, warmup_cosine
from course_lib.mask_uniform import MaskUniform
from course_lib.mdlm import MDLM
from course_lib.nets import MLP, TokenNet
from course_lib.remasking import ReMDM, at_most, share
from course_lib.sde import VP
from course_lib.sentences import bucketed
from course_lib.shapes import check_scalar
from course_lib.solvers import Renoise
from course_lib.speculative import expected_length
from course_lib.stationary import Uniform
from course_lib.text_metrics import entropy_of_tokens, ngram_divergence
from course_lib.token_guidance import Guided, log_ratios
from course_lib.unified import check_share

A = S.ddpm_table(50)
CURVE = S.table(S.cosine(power=1), 6)
M = MDLM(Absorbing(3, S.log_linear()), 4)
D = D3PM(Uniform(3, CURVE), 4)
NET = TokenNet(4, 3, 16, 2, 1)
LAW = torch.full((2, 2), 0.25, dtype=torch.float64)
P = torch.tensor([0.3, 0.7])
X = torch.tensor([[0, 1, 2, 1]])

NUMBERS = {  # name of a setting -> what is given it
    "eta": [lambda v: DDIM(A, (2,), eta=v), share, lambda v: Euler(M, 2, v)],
    "share": [lambda v: Renoise(VP(S.linear(), (2,)), v)],
    "gamma": [entropy_bounded, lambda v: Guided(M, lambda x: torch.zeros(len(x)), v)],
    "temperature": [
        lambda v: temper(P, v),
        lambda v: softly(None, v),
        lambda v: Autoregressive(3, 4, v),
        lambda v: DiffusionLM(A, 4, 8, temperature="1" if v is None else v),  # None is its default
    ],
    "mass": [lambda v: nucleus(P, v)],
    "ce_weight": [lambda v: D3PM(Uniform(3, CURVE), 4, ce_weight=v)],
    "dropout": [lambda v: TokenNet(4, 3, 16, 2, 1, dropout=v)],
    "accept": [lambda v: expected_length(v, 3)],
    "cap": [at_most],
    "alpha": [lambda v: heat_kernel(torch.tensor([[-1.0, 1], [1, -1]]), v)],
    "warmup": [lambda v: cosine_of_progress(1e-3, v)],
    "peak": [lambda v: warmup_cosine(v, 10)],
    "weight_decay": [lambda v: decay_groups(MLP((2,), 8, 1), v)],
    "max_beta": [lambda v: S.table(S.cosine(), 6, max_beta=v)],
    "beta_1": [lambda v: S.ddpm_table(1000, v)],
    "mask_share": [lambda v: MaskUniform(3, S.log_linear(), v)],
    "absorb": [lambda v: DiffuSeq(A, 4, 8, absorb=v)],
    "concentration": [lambda v: J.random_joint(2, 2, v, 0)],
    "q": [lambda v: check_share("q", v)],
    "t": [lambda v: Corrector(D, v)],
    "what sigma returns": [lambda v: ReMDM(M, 2, lambda *_: v).sample(NET, 2)],
    r"utility\(0, 0\)": [lambda v: cur(lambda i, j: v, 2, X[0, :1], X[0, :1])],
}


@pytest.mark.parametrize("value", ["0.5", None, [0.5], True, torch.tensor([0.5]), 1j], ids=str)
@pytest.mark.parametrize("name", NUMBERS)
def test_a_setting_that_is_no_number_is_named(name, value, unchecked):
    for call in NUMBERS[name]:
        with pytest.raises(TypeError, match=f"{name} must be a number, not "):
            call(value)


def test_numbers_are_numbers():
    for value in (1, 0.5, torch.tensor(0.5), torch.tensor(2), P[0], math.nan):
        check_scalar("value", value)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: J.total_correlation(LAW, [0, 0]), ValueError, r"of must be different numbers in 0..1, not \[0, 0\]"),
        (lambda: J.conditional_entropy(LAW, [0], [2]), ValueError, "given must be different numbers in 0..1"),
        (lambda: J.conditional(LAW, -1, [0]), ValueError, r"i must be different numbers in 0..1, not \[-1\]"),
        (lambda: J.conditional(LAW, 0, [5]), ValueError, "given must be different numbers in 0..1"),
        (lambda: J.conditional(LAW / 2, 0, []), ValueError, "p must not be negative and must sum to 1"),
        (lambda: J.random_joint(2, 1, math.inf, 0), ValueError, "concentration must be above 0 and finite, not inf"),
        (lambda: J.random_joint(2, 1, 1e-300, 0), ValueError, "concentration must be larger"),
        (lambda: ngram_divergence([[1, 2]], X, 1), TypeError, "a must be rows of tokens, .*, not list"),
        (lambda: ngram_divergence(X, X[0], 1), TypeError, "b must be rows of tokens"),
        (lambda: ngram_divergence(X.double(), X, 1), TypeError, "a must be rows of tokens"),
        (lambda: entropy_of_tokens(X > 0), ValueError, "x must hold at least one integer token"),
        (lambda: core(torch.full((2, 2), math.nan)), ValueError, r"crossing must be a finite matrix \(r, c\)"),
        (lambda: core([[1.0]]), ValueError, r"crossing must be a finite matrix \(r, c\), not list"),
        (lambda: core(torch.eye(2), 1.5), TypeError, "rank must be an int, not float"),
        (lambda: cur(lambda i, j: math.nan, 3, X[0, :1], X[0, :1]), ValueError, r"utility\(0, 0\) must be finite"),
        (lambda: cur(lambda i, j: 1.0, 0, X[0, :1], X[0, :1]), ValueError, "N must be at least 1, not 0"),
        (lambda: mean_utility(torch.ones(2, 3)), ValueError, "A must be a square matrix"),
        (lambda: frechet(torch.tensor(1.0), torch.randn(3, 2)), TypeError, r"a must be a tensor \(N, d\)"),
        (lambda: frechet(torch.randn(3, 0), torch.randn(3, 0)), ValueError, "a and b must be rows of as many features"),
        (lambda: ReMDM(M, [1.0, 0.0], share(0.0)), TypeError, "times must be an int, not list"),
        (lambda: ReMDM(M, torch.tensor([0.0, 1.0]), share(0.0)), ValueError, "the times must run from at most T"),
        (lambda: ReMDM(M, torch.tensor([0.5, 0.1]), share(0.0)), ValueError, "the times must run from at most T"),
        (lambda: Euler(M, 0), ValueError, "steps must be at least 1, not 0"),
        (lambda: Euler(M, 2.5), TypeError, "steps must be an int, not float"),
        (lambda: velocity(LAW, X, 1.0, 1.0), ValueError, r"kappa must lie in \[0, 1\), not 1.0: at 1 no mask is left"),
        (lambda: velocity(LAW, X, 2.0, 1.0), ValueError, r"kappa must lie in \[0, 1\), not 2.0"),
        (lambda: Guided(M, None, 1.0), TypeError, "classifier must be callable on states, not NoneType"),
        (lambda: Guided(M, len, math.nan), ValueError, "gamma must be finite, not nan"),
        (lambda: log_ratios(lambda x: torch.zeros(2), X, 3), ValueError, "classifier must return one log p"),
        (lambda: log_ratios(lambda x: torch.zeros(len(x)) / 0, X, 3), FloatingPointError, "what classifier returns"),
        (lambda: Corrector(D, 9), ValueError, r"t must lie in \[0, 6\], but spans \[9, 9\]"),
        (lambda: Corrector(D, 0), ValueError, r"t must lie in \(0, 6\], but t = 0 in example 0"),
        (lambda: Corrector(D, 0.5), TypeError, "t must hold integers, not torch.float32"),
        (lambda: uniform_alpha(torch.tensor(0.5), 3, 1), ValueError, "points must be at least 100, not 1"),
        (lambda: uniform_alpha("a", 3), TypeError, "a must be numbers in 0..1, not str"),
        (lambda: Insertion({(0,): math.nan}), ValueError, "p must not be negative and must sum to 1, but sums to nan"),
        (lambda: Insertion({}), ValueError, "p must not be negative and must sum to 1, but sums to 0"),
        (lambda: Insertion({(0,): 1.0}).marginal(1.5), ValueError, r"kappa must lie in \[0, 1\], not 1.5"),
        (lambda: Insertion({(0,): 1.0}).rates(1.0), ValueError, "at 1 nothing is missing"),
        (lambda: next(batches(X, 1, seed="a")), TypeError, "seed must be an int, not str"),
        (lambda: next(bucketed(X, 1, seed=None)), TypeError, "seed must be an int, not NoneType"),
        (lambda: J.random_joint(2, 2, 0.5, 1.5), TypeError, "seed must be an int, not float"),
        (lambda: MarkovLanguage(3, 4, seed="a"), TypeError, "seed must be an int, not str"),
        (lambda: MarkovLanguage(3, 4, math.nan), ValueError, "sharpness must be finite, not nan"),
        (lambda: MarkovLanguage(3, 4, "1"), TypeError, "sharpness must be a number, not str"),
        (lambda: TokenNet(4, 3, 16, 2, -1), ValueError, "depth must be at least 0, not -1"),
        (lambda: TokenNet(4, 3, 0, 2, 1), ValueError, "width must be at least 1, not 0"),
        (lambda: TokenNet(4, 3, 16, 0, 1), ValueError, "heads must be at least 1, not 0"),
        (lambda: MLP((2,), "8", 1), TypeError, "width must be an int, not str"),
        (lambda: MLP((2,), 8, 0), ValueError, "depth must be at least 1, not 0"),
        (lambda: MLP((2,), 8, 1, answers=0), ValueError, "answers must be at least 1, not 0"),
        (lambda: log_prob_of_level(P, P, 1.0, 1), ValueError, "levels must be at least 2, not 1"),
        (lambda: Estimate(1.0, 1.0).per("2"), TypeError, "count must be a number, not str"),
        (lambda: estimate(P[:0]), ValueError, r"values must be at least one number, \(N,\)"),
        (lambda: exact_law(M, NET), TypeError, "sampler must have start, rounds and step, .* not be a MDLM"),
        (lambda: Autoregressive(3, 4).corrupt(X, torch.tensor([5])), ValueError, r"t must lie in \[0, 4\], but spans"),
        (lambda: Autoregressive(3, 4).corrupt(X, torch.tensor([0.5])), TypeError, "t must hold integers"),
        (lambda: Autoregressive(3, 4).corrupt(X, torch.tensor([1, 2])), ValueError, "one time per example"),
        (lambda: Unmask(M, order="left"), TypeError, "order must be a function, not str"),
        (lambda: Unmask(M, change=0.5), TypeError, "change must be a function, not float"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(call, error, says, unchecked):
    with pytest.raises(error, match=says):
        call()


def test_nothing_asked_is_nothing_known():
    """No positions have no entropy; a whole number of steps may be numpy's, times may be a tensor."""
    assert J.total_correlation(LAW, []) == 0.0
    assert J.conditional_entropy(LAW, [], [0]) == 0.0
    assert J.conditional_entropy(LAW, [0], [0]) == 0.0
    assert J.conditional_entropy(LAW, [0], []) == pytest.approx(math.log(2))
    by_number, by_times = (ReMDM(M, times, share(0.5)) for times in (2, torch.tensor([1.0, 0.5, 0.0])))
    assert by_number.alpha == pytest.approx(by_times.alpha)


def test_one_number_has_a_mean_and_no_error():
    mean, se = estimate(torch.tensor([2.5]))
    assert mean == 2.5 and math.isnan(se)
    assert estimate(torch.tensor([1.0, 3.0])) == (2.0, pytest.approx(1.0))


def test_seeds_may_be_negative():
    one, other = (J.random_joint(2, 2, 0.5, seed) for seed in (-1, 1))
    assert not torch.equal(one, other) and torch.equal(one, J.random_joint(2, 2, 0.5, -1))


def test_a_network_is_told_the_share_of_the_time():
    """u = t / T, in float32, 1 at the prior."""
    assert D.u(torch.tensor([0, 3, 6])).tolist() == [0.0, 0.5, 1.0]
    assert DDIM(A, (2,)).u(torch.tensor([25, 50])).tolist() == [0.5, 1.0]
