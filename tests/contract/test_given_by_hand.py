"""What a noise, a perfect network, a decoder or a layer is given by itself, without its system: refused by name.

Systems check what they are given; those who take one part of the library alone are told as clearly.
"""

import math

import pytest
import torch

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.block_nets import BlockNet
from course_lib.data import MarkovLanguage
from course_lib.ddpm import DDPM
from course_lib.decoding import temper
from course_lib.diffuseq import DiffuSeq
from course_lib.diffusion_lm import DiffusionLM
from course_lib.discrete_flow import velocity
from course_lib.geodesics import representatives
from course_lib.insertion import Insertion
from course_lib.layers import TiedHead, TimeEmbedding, TokenEmbedding
from course_lib.likelihood import ProbabilityFlow
from course_lib.mask_count import StepsGivenCount, TimesGivenCount
from course_lib.mask_uniform import MaskUniform
from course_lib.mdlm import MDLM
from course_lib.nets import CausalNet, TokenNet, UNet
from course_lib.oracle import DataOracle, MarkovOracle, TableOracle
from course_lib.remasking import largest_sigma, remasked
from course_lib.sde import VP
from course_lib.speculative import acceptance, judge, residual
from course_lib.stationary import Uniform
from course_lib.structured import cosine_distance, euclidean_distance, gaussian
from course_lib.text_metrics import ngram_counts, ngrams
from course_lib.word_nets import EmbeddingNet, MixingNet, SentenceClassifier
from course_lib.word_oracle import PairOracle, WordOracle
from course_lib.word_vectors import leading

CURVE = S.table(S.cosine(power=1), 6)
A = S.ddpm_table(50)
NOISES = {
    "masks": lambda: Absorbing(3, CURVE),
    "random": lambda: Uniform(3, CURVE),
    "gaussian": lambda: gaussian(3, torch.full((6,), 0.1)),
    "both": lambda: MaskUniform(3, S.log_linear(), 0.2),
}
BAD = {
    "too large": (torch.tensor([[0, 9]]), ValueError, r"must lie in 0\.\.\d, but holds 9"),
    "negative": (torch.tensor([[0, -1]]), ValueError, r"must lie in 0\.\.\d, but holds -1: PAD"),
    "floats": (torch.tensor([[0.0, 1.0]]), TypeError, "must hold integers, not torch.float32"),
    "bools": (torch.tensor([[True, False]]), TypeError, "must hold integers, not torch.bool"),
    "a list": ([[0, 1]], TypeError, "must hold integers, not list"),
}


def times(noise):
    """An early and a later time."""
    return (
        (torch.tensor([2]), torch.tensor([4])) if noise.T == 6 else (torch.tensor([0.2]), torch.tensor([0.6]))
    )


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", NOISES)
def test_a_noise_names_tokens_that_are_none(name, bad, unchecked):
    noise, (x, kind, words) = NOISES[name](), BAD[bad]
    s, t = times(noise)
    fine, log_p = torch.tensor([[0, 1]]), torch.zeros(1, 2, 3).log_softmax(-1)
    calls = {
        "x_s": [lambda: noise.corrupt(x, s, t), lambda: noise.row(x, s, t)],
        "x_t": [lambda: noise.step(log_p, x, s, t), lambda: noise.kl(fine, x, log_p, s, t)],
        "x0": [lambda: noise.kl(x, fine, log_p, s, t), lambda: noise.prior_kl(x)],
    }
    for argument, several in calls.items():
        for call in several:
            with pytest.raises(kind, match=f"^{argument} {words}"):
                call()
    noise.corrupt(fine, s, t)  # and tokens that are some are taken


def test_data_holds_no_mask(unchecked):
    noise = NOISES["masks"]()
    s, t = times(noise)
    log_p = torch.zeros(1, 2, 3).log_softmax(-1)
    with pytest.raises(ValueError, match=r"x0 must lie in 0\.\.2, but holds 3: MASK"):
        noise.kl(torch.tensor([[0, 3]]), torch.tensor([[0, 3]]), log_p, s, t)
    with pytest.raises(ValueError, match=r"x0 must lie in 0\.\.2, but holds 3: MASK"):
        noise.prior_kl(torch.tensor([[3]]))


@pytest.mark.parametrize("name", NOISES)
def test_a_noise_names_times_that_are_none(name, unchecked):
    noise = NOISES[name]()
    s, t = times(noise)
    x, log_p = torch.tensor([[0, 1]]), torch.zeros(1, 2, 3).log_softmax(-1)
    for early, late in ((-t, t), (s, t + noise.T), (s, t * math.nan) if noise.T == 1 else (s - 9, t)):
        for call in (
            lambda a, b: noise.corrupt(x, a, b),
            lambda a, b: noise.step(log_p, x, a, b),
            lambda a, b: noise.kl(x, x, log_p, a, b),
            lambda a, b: noise.likelihood(x, a, b),
        ):
            with pytest.raises(
                ValueError, match=r"[st] must (lie in \[0, (6|1.0)\], but spans|be at most t)"
            ):
                call(early, late)
    if noise.T == 6:
        with pytest.raises(TypeError, match="t must hold integers, not torch.float32|s must hold integers"):
            noise.corrupt(x, s.float(), t.float())


NAN = torch.tensor([math.nan, 1.0])
P, X = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[2]])
ROWS, TARGET = torch.tensor([[0, 1], [1, 0]]), torch.tensor([False, True])
TABLE, HALF = torch.eye(2).double(), torch.tensor([0.5, 0.5]).double()
PAIRS = DiffuSeq(S.table(S.sqrt(), 40), 2, 2)


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda: largest_sigma(-0.1, 0.5), ValueError, "alpha_t must be >= 0, not -0.1"),
        (lambda: largest_sigma(0.5, 0.2), ValueError, "alpha_s must be >= 0.5, not 0.2"),
        (lambda: largest_sigma(0.5, 1.5), ValueError, "alpha_s must be at most 1, not 1.5"),
        (lambda: largest_sigma(math.nan, 0.5), ValueError, "alpha_t must be >= 0, not nan"),
        (lambda: remasked(P, X, 0.5, 0.7, 0.7), ValueError, "sigma must be at most 0.6 here, not 0.7"),
        (lambda: remasked(P, X, 0.5, 0.7, -0.1), ValueError, "sigma must be >= 0, not -0.1"),
        (lambda: remasked(P, X, 1.0, 1.0, 0.0), ValueError, "alpha_t must be < 1, not 1.0"),
        (lambda: velocity(P, X, 0.5, -1.0), ValueError, "slope must be >= 0, not -1"),
        (lambda: velocity(P, X, 0.5, math.inf), ValueError, "slope must be >= 0, not inf"),
        (lambda: velocity(P, X, 0.5, 1.0, -1.0), ValueError, "eta must be >= 0, not -1"),
        (lambda: velocity(P, X, "a", 1.0), TypeError, "kappa must be a number, not str"),
        (lambda: Insertion({(0,): 1.0}).rates(0.5, -1.0), ValueError, "slope must be >= 0, not -1"),
        (lambda: temper(NAN, 0), FloatingPointError, "p must be finite everywhere"),
        (lambda: temper(NAN, 1.0), FloatingPointError, "p must be finite everywhere"),
        (lambda: residual(HALF, NAN.double()), FloatingPointError, "q must be finite everywhere"),
        (lambda: acceptance(NAN, NAN), FloatingPointError, "p must be finite everywhere"),
        (lambda: judge(NAN[None], HALF[None].float(), X[0], None), FloatingPointError, "p must be finite"),
        (lambda: S.cosine().inverse(NAN), ValueError, "log_alpha_bar must hold numbers, but holds NaN"),
        (lambda: VP(S.linear(), (2,)).time_at(NAN), ValueError, "log_sigma must hold numbers, but holds NaN"),
        (lambda: ngrams(["a", "b"], 0), ValueError, "n must be at least 1, not 0"),
        (lambda: ngram_counts("x", X, -1), ValueError, "n must be at least 1, not -1"),
        (lambda: leading(TABLE, HALF, 0), ValueError, "D must be at least 1, not 0"),
        (lambda: leading(TABLE, HALF, 3), ValueError, "D must be at most the 2 values, not 3"),
        (lambda: representatives(torch.full((2, 2), math.nan), 1), ValueError, "distance must be finite"),
        (lambda: DataOracle(DDPM(A, (2,)), NAN[None]), ValueError, "data must be finite everywhere"),
        (lambda: DataOracle(DDPM(A, (2,)), X), TypeError, "data must be a float tensor, not "),
        (
            lambda: TableOracle(MDLM(Absorbing(2, S.log_linear()), 1), NAN),
            ValueError,
            "p must be finite, not neg",
        ),
        (
            lambda: TableOracle(MDLM(Absorbing(2, S.log_linear()), 1), -HALF),
            ValueError,
            "p must be finite, not neg",
        ),
        (
            lambda: TableOracle(MDLM(Absorbing(2, S.log_linear()), 1), 0 * HALF),
            ValueError,
            "not 0 everywhere",
        ),
        (
            lambda: WordOracle(DiffusionLM(A, 2, 2), NAN[None]),
            ValueError,
            r"table must have shape \(K, D\) and be fin",
        ),
        (
            lambda: WordOracle(DiffusionLM(A, 2, 2), X),
            TypeError,
            "table must be a float tensor of embeddings, not ",
        ),
        (lambda: PairOracle(PAIRS, ROWS, NAN, TARGET, TABLE), ValueError, "p must be finite, not negative"),
        (
            lambda: PairOracle(PAIRS, ROWS, HALF[:1], TARGET, TABLE),
            ValueError,
            r"rows must be \(N, L\), p \(N,\)",
        ),
        (lambda: PairOracle(PAIRS, ROWS - 1, HALF, TARGET, TABLE), ValueError, r"rows must lie in 0\.\.1"),
        (lambda: MarkovLanguage(3, 2).log_prob(ROWS - 1), ValueError, r"x must hold integers in 0\.\.2"),
        (lambda: MarkovLanguage(3, 2).log_prob(ROWS + 2), ValueError, r"x must hold integers in 0\.\.2"),
        (lambda: TableOracle("net", HALF), TypeError, "process must be a Process, .* not str"),
        (lambda: DataOracle(None, TABLE), TypeError, "process must be a Process, .* not NoneType"),
        (
            lambda: MarkovOracle(len, MarkovLanguage(3, 2)),
            TypeError,
            "process must be a Process, .* not builtin",
        ),
        (lambda: WordOracle(None, TABLE), TypeError, "process must be a Process, .* not NoneType"),
        (lambda: cosine_distance(NAN), ValueError, r"embeddings must be a float tensor \(K, D\), not "),
        (lambda: euclidean_distance(X), ValueError, r"embeddings must be a float tensor \(K, D\), not "),
        (lambda: euclidean_distance(NAN[None]), ValueError, "embeddings must be finite"),
        (lambda: TokenNet(4, 3, None), TypeError, "width must be an int, not NoneType"),
        (lambda: CausalNet(4, "16"), TypeError, "width must be an int, not str"),
        (lambda: EmbeddingNet(4, 3, 2.5), TypeError, "width must be an int, not float"),
        (lambda: BlockNet(4, 3, 4, 2, width=None), TypeError, "width must be an int, not NoneType"),
        (lambda: BlockNet(4, 3, 2, 2)(ROWS + 3, HALF), ValueError, r"x must lie in 0\.\.3, not 3\.\.4"),
        (
            lambda: BlockNet(4, 3, 2, 2)(ROWS, HALF, ROWS - 1),
            ValueError,
            r"x must lie in 0\.\.3, not -1\.\.0",
        ),
        (lambda: BlockNet(4, 3, 2, 2)(ROWS, None), TypeError, "u must be a float tensor of times"),
        (lambda: TiedHead(0, 3), ValueError, "width must be at least 1, not 0"),
        (lambda: TiedHead(3, 0), ValueError, "K_out must be at least 1, not 0"),
        (lambda: TokenEmbedding(0, 3), ValueError, "K must be at least 1, not 0"),
        (lambda: TokenEmbedding(3, 0), ValueError, "width must be at least 1, not 0"),
        (lambda: TimeEmbedding(0), ValueError, "width must be at least 1, not 0"),
        (lambda: UNet(0), ValueError, "channels must be at least 1, not 0"),
        (lambda: UNet(1, answers=0), ValueError, "answers must be at least 1, not 0"),
        (lambda: BlockNet(0, 3, 4, 2), ValueError, "K_in must be at least 1, not 0"),
        (lambda: BlockNet(4, 0, 4, 2), ValueError, "K_out must be at least 1, not 0"),
        (lambda: BlockNet(4, 3, 0, 2), ValueError, "length must be at least 1, not 0"),
        (lambda: EmbeddingNet(3, 0), ValueError, "D must be at least 1, not 0"),
        (lambda: SentenceClassifier(0, 2), ValueError, "D must be at least 1, not 0"),
        (lambda: MixingNet(3, 2, NAN), ValueError, "alpha_bar must be finite everywhere"),
        (lambda: StepsGivenCount(Absorbing(3, CURVE), 0), ValueError, "length must be at least 1, not 0"),
        (
            lambda: TimesGivenCount(Absorbing(3, S.log_linear()), 2.5),
            TypeError,
            "length must be an int, not float",
        ),
    ],
)
def test_it_is_named(call, kind, words, unchecked):
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize("name", ["start", "end"])
def test_the_flow_stays_in_its_interval(name, unchecked):
    flow, x = ProbabilityFlow(VP(S.linear(), (2,))), torch.zeros(1, 2)
    for time in (7.0, -1.0, math.nan):
        given = {"start": 0.5, "end": 0.4} | {name: time}
        with pytest.raises(ValueError, match=f"{name} must"):
            flow.flow(lambda x, u: x, x, **given)
    assert flow.flow(lambda x, u: 0 * x, x, 0.5, 0.4).equal(x)
