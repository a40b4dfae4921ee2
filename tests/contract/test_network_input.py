"""What networks and what works on sentences are given: refused by name where it is wrong, or cast where it is right."""

import pytest
import torch

from course_lib import schedules as S
from course_lib.clamping import ClampingTrick
from course_lib.d3pm import D3PM
from course_lib.diffusion_lm import DiffusionLM
from course_lib.embeddings import embed
from course_lib.guidance import ClassifierFree, ClassifierGuided
from course_lib.nets import MLP, CausalNet, TokenNet, UNet
from course_lib.process import last, sample
from course_lib.proofread import proofread, pseudo_log_likelihood, rerank
from course_lib.sentences import PAD
from course_lib.stationary import Uniform
from course_lib.word_nets import EmbeddingNet, MixingNet, SentenceClassifier

B, L, D, K = 3, 6, 4, 7
TABLE = S.table(S.sqrt(), 10)
U = torch.full((B,), 0.5)
X, IMAGES, POINTS = torch.randn(B, L, D), torch.randn(B, 1, 8, 8), torch.randn(B, 2)
TOKENS = torch.randint(0, K, (B, L))
NETS = {
    "tokens": (TokenNet(K, K, 16, 2, 1, radius=1), TOKENS),
    "causal": (CausalNet(K, 16, 2, 1), TOKENS),
    "points": (MLP((2,), 8, 1), POINTS),
    "images": (UNet(1, (8, 16)), IMAGES),
    "vectors": (EmbeddingNet(K, D, 16, 2, 1), X),
    "mixing": (MixingNet(K, D, TABLE, 16, 2, 1), X),
    "classifier": (SentenceClassifier(D, 3, 16, 2, 1), X),
}
TIMED = [name for name in NETS if name != "causal"]  # which ignores its time
WORDS = ["tokens", "causal"]
REAL = [name for name in NETS if name not in WORDS]


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize(
    ("u", "error", "says"),
    [
        (0.5, TypeError, "u must be a float tensor of times t / T, not float"),
        (torch.tensor([1, 2, 3]), TypeError, "u must be a float tensor of times t / T, not torch.int64"),
        (torch.tensor(0.5), ValueError, r"u must have shape \(3,\), one time per example, not \(\)"),
        (U[:, None], ValueError, r"u must have shape \(3,\), one time per example, not \(3, 1\)"),
        (U[:2], ValueError, r"u must have shape \(3,\), one time per example, not \(2,\)"),
    ],
)
def test_a_time_is_t_over_T_and_one_for_each_example(name, u, error, says, unchecked):
    net, x = NETS[name]
    with pytest.raises(error, match=says):
        net(x, u)


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (TOKENS.float(), TypeError, "x must hold tokens, integers .* not torch.float32"),
        (TOKENS > 2, TypeError, "x must hold tokens, integers .* not torch.bool"),
        (TOKENS.to(torch.complex64), TypeError, "x must hold tokens"),
        (TOKENS.numpy(), TypeError, "not ndarray"),
        (TOKENS[0], ValueError, r"x must have shape \(B, L >= 1\), not \(6,\)"),
        (TOKENS[:, :0], ValueError, r"x must have shape \(B, L >= 1\), not \(3, 0\)"),
        (torch.full((B, L), K), ValueError, "x must lie in 0..6, not 7..7"),
        (torch.full((B, L), -1), ValueError, "x must lie in 0..6, not -1..-1"),
    ],
)
def test_what_reads_tokens_takes_nothing_else(name, x, error, says, unchecked):
    with pytest.raises(error, match=says):
        NETS[name][0](x, U)


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_tokens_of_any_width_say_the_same(name, dtype):
    net = NETS[name][0].eval()
    assert torch.equal(net(TOKENS.to(dtype), U), net(TOKENS, U))


@pytest.mark.parametrize("name", REAL)
def test_what_reads_numbers_names_a_wrong_shape(name, unchecked):
    net, x = NETS[name]
    for wrong in (x[0, ..., 0], torch.cat([x, x], -1 if x.ndim != 4 else 1)):
        with pytest.raises(ValueError, match=r"x must have .*, not "):
            net(wrong, U)
    for wrong in (x.numpy(), x.to(torch.complex64)):
        with pytest.raises(TypeError, match="x must be a float tensor, not"):
            net(wrong, U)


@pytest.mark.parametrize("name", NETS)
def test_no_examples_no_answers(name):
    net, x = NETS[name]
    assert len(net(x[:0], U[:0])) == 0


@pytest.mark.parametrize("name", REAL)
def test_wider_numbers_are_read_in_the_dtype_of_the_weights(name):
    """float64 in a float32 network: MixingNet failed at a product of the two."""
    net, x = NETS[name]
    out = net(x.double(), U.double())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, net(x, U))


@pytest.mark.parametrize(
    "at", [torch.ones(B, L), torch.ones(B, L - 1).bool(), torch.ones(B, 1).bool(), [True]]
)
def test_places_asked_for_are_bools_of_the_rows(at, unchecked):
    with pytest.raises(ValueError, match=r"at must be a bool tensor \(3, 6\), not"):
        NETS["tokens"][0](TOKENS, U, at=at)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: TokenNet(0, 4), ValueError, "K_in must be at least 1"),
        (lambda: TokenNet(4, 0), ValueError, "K_out must be at least 1"),
        (lambda: TokenNet(4.0, 4), TypeError, "K_in must be an int, not float"),
        (lambda: CausalNet(0), ValueError, "K must be at least 1"),
        (lambda: UNet(1, ()), ValueError, "widths must be multiples of 8"),
        (lambda: UNet(1, (0, 8)), ValueError, "widths must be multiples of 8"),
        (lambda: EmbeddingNet(K, D, K_out=K + 1), ValueError, "K_out must be at most K = 7, not 8"),
        (lambda: EmbeddingNet(K, D, K_out=0), ValueError, "K_out must be at least 1"),
        (lambda: EmbeddingNet(0, D), ValueError, "K must be at least 1"),
        (lambda: EmbeddingNet(K, D, classes=-1), ValueError, "classes must be at least 0"),
        (lambda: MixingNet(K, D, 10), TypeError, r"alpha_bar must be a table \(T \+ 1,\), not int"),
        (
            lambda: MixingNet(K, D, TABLE[None]),
            TypeError,
            r"alpha_bar must be a table \(T \+ 1,\), not torch",
        ),
        (lambda: SentenceClassifier(D, 0), ValueError, "classes must be at least 1"),
        (
            lambda: ClassifierFree(NETS["vectors"][0], [0, 1, 2], 2.0),
            TypeError,
            "label must hold one integer per",
        ),
        (lambda: ClassifierFree(NETS["vectors"][0], TOKENS[:, 0], torch.nan), ValueError, "weight"),
        (lambda: ClassifierFree(NETS["vectors"][0], TOKENS[:, 0], "2"), TypeError, "weight"),
        (
            lambda: ClassifierGuided(D3PM(Uniform(3, S.table(S.cosine(), 5)), 4), lambda x, u: x),
            TypeError,
            "process must make Gaussian steps, as DDPM and DiffusionLM do, not be D3PM",
        ),
        (lambda: ClassifierGuided(process(), lambda x, u: x, lr="a"), TypeError, "lr"),
        (lambda: ClampingTrick(NETS["vectors"][0], torch.nan), ValueError, "start must lie in"),
    ],
)
def test_a_wrong_setting_is_named(make, error, says, unchecked):
    with pytest.raises(error, match=says):
        make()


# Sentences


def process():
    return DiffusionLM(TABLE, L, D)


BELOW = TOKENS.masked_fill(torch.arange(L) == 2, -100)


@pytest.mark.parametrize("bad", [-2, -100])
def test_numbers_below_pad_are_no_words(bad, unchecked):
    """Other libraries' -100 was read as word 0, without a word."""
    rows, times = TOKENS.masked_fill(torch.arange(L) == 2, bad), torch.tensor([1, 5, 10])
    vectors, mixing = NETS["vectors"][0], NETS["mixing"][0]
    for call in (
        lambda: embed(vectors, rows),
        lambda: process().encode(vectors, rows),
        lambda: process().loss(vectors, rows, times),
        lambda: process().bound(mixing, rows, times),
        lambda: pseudo_log_likelihood(process(), mixing, rows),
        lambda: proofread(process(), mixing, rows, rounds=1),
        lambda: rerank(process(), mixing, rows[None], 2),
    ):
        with pytest.raises(ValueError, match=f"tokens must be words >= 0, or PAD = {PAD} .* but hold {bad}"):
            call()


@pytest.mark.parametrize(
    ("tokens", "error", "says"),
    [
        (TOKENS[0], ValueError, r"tokens must have shape \(B >= 1, L >= 1\)"),
        (TOKENS.tolist(), TypeError, "tokens must be integers"),
        (None, TypeError, "tokens must be integers"),
        (TOKENS.to(torch.complex64), TypeError, "tokens must be integers"),
    ],
)
def test_what_is_read_again_is_sentences(tokens, error, says, unchecked):
    for read in (proofread, pseudo_log_likelihood):
        with pytest.raises(error, match=says):
            read(process(), NETS["mixing"][0], tokens)
    with pytest.raises(ValueError, match="draws must have shape"):
        rerank(process(), NETS["mixing"][0], tokens)


@pytest.mark.parametrize("x", [torch.randn(B, L, D + 1), torch.randn(B, L, D).numpy(), None])
def test_what_becomes_words_has_their_width(x, unchecked):
    with pytest.raises(ValueError, match="x must hold vectors of width 4, not"):
        process().decode(NETS["vectors"][0], x)


def test_a_control_without_a_gradient_is_refused():
    """It guided nothing, and nobody saw."""
    for log_p in (lambda x, u: x.detach().sum((1, 2)), lambda x, u: torch.zeros(len(x))):
        guided = ClassifierGuided(process(), log_p)
        with pytest.raises(ValueError, match="log_p must pass a gradient on to x_s, or it guides nothing"):
            last(sample(guided, NETS["vectors"][0], 3, 3))
