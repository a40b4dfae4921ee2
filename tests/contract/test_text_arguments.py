"""Verses, words, pairs, judges and toy laws: what was quietly read as something else is refused by name."""

import math

import numpy as np
import pytest
import torch

from course_lib import data as D
from course_lib.autoregressive import Autoregressive
from course_lib.distances import frechet, wasserstein
from course_lib.image_judge import Judge
from course_lib.nets import CausalNet
from course_lib.ngram import NGram, SentenceJudge
from course_lib.pairs import END, SEP, pack, targets
from course_lib.sentences import Labelled, Pairs, Vocabulary, bucketed, line, up_to, words
from course_lib.text_metrics import copied, distinct, mbr, self_bleu
from course_lib.verses import genre
from course_lib.word_vectors import ppmi_vectors, word_vectors

PADDED = torch.tensor([[1, 2, 3, -1], [4, 2, 1, 0]])
V = Vocabulary([["a", "b", "c", SEP, END]])
TEXTS = [["a", "b"], ["c"]]
PAIR = (["a"], ["b"])
POINT = D.GaussianMixture([1.0], [[0.0]], [0.0])
LINE = D.two_bumps()
PLANE = D.eight_gaussians()
GRAMS = NGram(torch.arange(40) % 5, 5, 2)
JUDGED = SentenceJudge(PADDED, 5, 2)
PICTURES = Judge(torch.rand(20, 4), torch.arange(20) % 2, 2, 2)
STRINGS = "sentences must be lists of words, not strings"
MARKED = "which mark their ends, but 1 do"


def rising(x):
    return torch.sigmoid(30 * x)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        # a string is no list of words: its letters were taken for them
        (lambda: Vocabulary(["a b", "c"]), TypeError, STRINGS),
        (lambda: Vocabulary("abc"), TypeError, STRINGS),
        (lambda: V.encode(["ab"], 4), TypeError, STRINGS),
        (lambda: V.encode("abc", 4), TypeError, STRINGS),
        (lambda: line("a b"), TypeError, "words must be lists of words"),
        (lambda: mbr("ab"), TypeError, "candidates must be lists of words"),
        (lambda: words(b"a"), TypeError, "text must be a str, not bytes"),
        (lambda: D.letters(None), TypeError, "text must be a str, not NoneType"),
        (lambda: D.encode(["a", "b"]), TypeError, "text must be a str, not list"),
        (lambda: Vocabulary([["a"]], first=["a"]), TypeError, "first must be a Vocabulary, not list"),
        # a generator was read to its end before it was measured; tensors are equal to themselves only
        (lambda: distinct((s for s in TEXTS), 1), TypeError, "must be a list of lists of words, not generator"),
        (lambda: self_bleu(s for s in TEXTS), TypeError, "sentences must be a list of lists"),
        (lambda: distinct(PADDED, 1), TypeError, "must be a list of lists of words, not torch.int64"),
        (lambda: distinct(PADDED.tolist(), 1), TypeError, "must be lists of words, each a str"),
        (lambda: copied([["a", "\n"]], TEXTS), ValueError, "words must hold no white space"),
        (lambda: copied(TEXTS, [["a b"]]), ValueError, "words must hold no white space"),
        # rows
        (lambda: V.decode(PADDED), ValueError, r"tokens must be one row \(L,\), not \(2, 4\)"),
        (lambda: V.decode(torch.ones(2)), TypeError, "tokens must hold integers, not torch.float32"),
        (lambda: V.decode([1]), TypeError, "tokens must hold integers, not list"),
        (lambda: D.decode(PADDED), ValueError, "tokens must be one row of integers"),
        (lambda: D.decode(torch.tensor([True])), ValueError, "tokens must be one row of integers"),
        (lambda: up_to(torch.tensor([-1, 2]), 4), ValueError, r"lengths must lie in 0..4, but span -1..2"),
        (lambda: up_to(torch.tensor([5, 2]), 4), ValueError, r"lengths must lie in 0..4, but span 2..5"),
        (lambda: up_to(torch.tensor([1.5]), 4), TypeError, "lengths must hold integers, not torch.float32"),
        (lambda: up_to([1], 4), TypeError, "lengths must hold integers, not list"),
        (lambda: up_to(PADDED, 4), ValueError, r"lengths must have shape \(B,\), not \(2, 4\)"),
        (lambda: ppmi_vectors(PADDED, 3, 2), ValueError, "tokens must be words of 3, but hold 4"),
        (lambda: ppmi_vectors(torch.tensor([[1, -100]]), 4, 2), ValueError, "or PAD = -1 .* but hold -100"),
        (lambda: ppmi_vectors(torch.tensor([[1], [2]]), 4, 2), ValueError, "tokens must have a row of two words"),
        (lambda: bucketed([[1]], 1), TypeError, "data must be tokens .* not list"),
        (lambda: Labelled(PADDED, torch.tensor([1])), ValueError, r"one integer for each row .* \(1,\) and \(2, 4\)"),
        (lambda: Labelled(PADDED, torch.ones(2)), TypeError, "labels must hold integers, not torch.float32"),
        (lambda: Labelled(PADDED, [1, 2]), TypeError, "labels must hold integers, not list"),
        (lambda: Pairs(PADDED, PADDED), TypeError, "target must hold bools, not torch.int64"),
        (lambda: D.windows(torch.zeros(9, 2).long(), 3), ValueError, r"row must be one row of tokens \(N,\)"),
        (lambda: D.windows([1, 2], 1), ValueError, "row must be one row of tokens .* not list"),
        (lambda: D.batches([1, 2], 1), TypeError, "data must be a tensor, Labelled or Pairs, not list"),
        # pairs
        (lambda: pack([], V, 6, 2), ValueError, "pairs must not be empty"),
        (lambda: pack((p for p in [PAIR]), V, 6, 2), TypeError, "pairs must be a list of"),
        (lambda: pack([(*PAIR, ["c"])], V, 6, 2), ValueError, "one has 3 parts"),
        (lambda: pack([(["a", SEP], ["b"])], V, 8, 2), ValueError, MARKED),
        (lambda: pack([PAIR, (["a"], ["b", END, "c"])], V, 8, 4), ValueError, MARKED),
        (lambda: pack([PAIR], V, "6", 2), TypeError, "length must be an int"),
        (lambda: targets(PADDED, PADDED[:1] > 0, V), ValueError, "tokens and target must have one shape"),
        (lambda: targets(PADDED, PADDED[:, :2] > 0, V), ValueError, "tokens and target must have one shape"),
        (lambda: targets(PADDED, PADDED, V), TypeError, "target must hold bools"),
        # verses
        (lambda: genre(67001001), ValueError, "number must be BBCCCVVV of a book BB in 1..66, not 67001001"),
        (lambda: genre(1001), ValueError, "not 1001"),
        # judges
        (lambda: GRAMS.bits([[1]]), TypeError, "x must hold integer tokens, not list"),
        (lambda: GRAMS.bits(PADDED[1:], 1.0), TypeError, "skip must be an int, not float"),
        (lambda: JUDGED.perplexity(Labelled(PADDED, torch.tensor([1, 2]))), TypeError, "not Labelled"),
        (lambda: frechet([[1.0]], torch.rand(3, 2)), TypeError, r"a must be a tensor \(N, d\), not list"),
        (lambda: wasserstein([1.0], rising), ValueError, "x must be a sample .* not list"),
        (lambda: wasserstein(torch.rand(3), rising, points=1), ValueError, "points must be at least 2"),
        (lambda: wasserstein(torch.rand(3), lambda x: x * math.nan), ValueError, "cdf must return probabilities"),
        (lambda: wasserstein(torch.rand(3), lambda x: 2 * rising(x)), ValueError, "cdf must return probabilities"),
        (lambda: wasserstein(torch.rand(3), lambda x: rising(x).sum()), ValueError, r"as many numbers .* not .*\(\)"),
        (lambda: PICTURES.accepted(torch.rand(0, 4)), ValueError, r"x must hold finite images \(N >= 1, 4\)"),
        (lambda: PICTURES.label(np.zeros((1, 4))), ValueError, "x must hold finite images"),
        (lambda: PICTURES.accepted(torch.rand(2, 4), 2.0), ValueError, r"above must lie in \[0, 1\], not 2.0"),
        (lambda: Judge([[1.0]], torch.tensor([0]), 1, 1), TypeError, "x must be a tensor, not list"),
        (lambda: Judge(torch.rand(9, 4), torch.arange(9), 2.0, 2), TypeError, "neighbours must be an int"),
        # toy laws: points of another width were broadcast, whole numbers rounded weights and means
        (lambda: PLANE.log_prob(torch.rand(3, 1)), ValueError, r"x must hold float points \(B, 2\)"),
        (lambda: LINE.log_prob(torch.rand(3)), ValueError, r"x must hold float points \(B, 1\)"),
        (lambda: LINE.log_prob(torch.tensor([[0], [3]])), ValueError, "x must hold float points .* torch.int64"),
        (lambda: PLANE.cdf(torch.rand(3)), ValueError, "cdf is of one dimension, but d = 2"),
        (lambda: POINT.log_prob(torch.rand(3, 1)), ValueError, "sds must be positive"),
        (lambda: LINE.noised(2.0), ValueError, r"alpha_bar must be one number in \[0, 1\], not 2.0"),
        (lambda: LINE.noised(-1.0), ValueError, "alpha_bar must be one number"),
        (lambda: LINE.noised(torch.tensor([0.1, 0.5])), ValueError, "alpha_bar must be one number"),
        (lambda: D.GaussianMixture([1.0], [[math.nan]], [1.0]), ValueError, "means and sds must be finite"),
        (lambda: D.GaussianMixture([1.0], [[0.0]], [math.inf]), ValueError, "means and sds must be finite"),
        (lambda: word_vectors("a b c", 2, 1, window=0), ValueError, "window must be at least 1"),
        (lambda: word_vectors(["a"], 1, 1), TypeError, "text must be a str, not list"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused(call, error, says, unchecked):
    with pytest.raises(error, match=says):
        call()


def test_company_counts_narrow_integers_as_it_does_wide_ones():
    """200 * 201 does not fit in uint8 or int16: the pairs of other words were counted."""
    rows = torch.tensor([[200, 2, 3, 200], [1, 3, 200, 2]])
    torch.manual_seed(0)
    wide = ppmi_vectors(rows, 201, 2)
    for dtype in (torch.uint8, torch.int16):
        torch.manual_seed(0)
        assert ppmi_vectors(rows.to(dtype), 201, 2).equal(wide)


SCRIPTS = ["สวัสดีครับ", "தமிழ்", "বাংলা", "မြန်မာ", "ខ្មែរ", "తెలుగు", "മലയാളം", "සිංහල", "مَرْحَبًا"]


def test_vowel_signs_of_any_script_stay_on_their_letters():
    for word in SCRIPTS:
        assert words(f"{word}, {word}") == [word, ",", word]
    assert words("co\u00adop می\u200cخواهم") == ["coop", "می\u200cخواهم"]  # soft hyphen, joiner
    assert words("❤\ufe0f!") == ["❤\ufe0f", "!"]


def test_the_judge_of_pictures_reads_half_precision():
    x = torch.rand(5, 4).bfloat16()
    assert PICTURES.label(x).equal(PICTURES.label(x.float()))


# Autoregression answered the same at any time: at 0, beyond T, for another number of examples


ROW = torch.randint(0, 5, (3, 4))
AR = Autoregressive(5, 4)
NET = CausalNet(5, 16, 2, 1)
T3 = torch.tensor([1, 2, 4])
SOME = torch.arange(4) > 1


def pairs(tokens, target=SOME):
    return Pairs(tokens, target.expand(len(tokens), -1))


@pytest.mark.parametrize("use", ["loss", "bound"])
@pytest.mark.parametrize(
    ("data", "t", "error", "says"),
    [
        (ROW, T3 * 0, ValueError, r"t must lie in \(0, 4\]"),
        (ROW, T3 + 1, ValueError, r"t must lie in \[0, 4\], but spans \[2, 5\]"),
        (ROW, -T3, ValueError, "t must lie in"),
        (ROW, T3[:2], ValueError, r"t must be a tensor of shape \(3,\)"),
        (ROW, T3 / 4, TypeError, "t must hold integers"),
        (ROW + 5, T3, ValueError, r"data must lie in 0..4, or be PAD = -1, but holds"),
        (pairs(ROW + 5), T3, ValueError, "data must lie in 0..4"),
        (torch.cat([ROW, ROW], 1), T3, ValueError, "data must have at most 4 places, not 8"),
        (pairs(ROW.masked_fill(~SOME, -100)), T3, ValueError, "words >= 0, or PAD = -1 .* but hold -100"),
        (pairs(ROW.masked_fill(SOME, -1)), T3, ValueError, "target must mark a word or more .* and no PAD"),
        (pairs(ROW.masked_fill(torch.arange(4) == 1, -1)), T3, ValueError, "PAD only at its end"),
        (pairs(ROW, ~SOME & SOME), T3, ValueError, "target must mark a word or more of each row"),
        (pairs(ROW[:0]), T3[:0], ValueError, r"tokens must have shape \(B >= 1"),
    ],
)
def test_autoregression_scores_rows_at_times_only(use, data, t, error, says, unchecked):
    with pytest.raises(error, match=says):
        getattr(AR, use)(NET, data, t)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.full((3, 4), -100), "x must be words >= 0, or PAD = -1 .* but hold -100"),
        (torch.full((3, 4), 99), "x must lie in 0..4, or be PAD = -1, but holds 99"),
        (ROW[:, :3], r"x must have shape \(B, 4\), not \(3, 3\)"),
    ],
)
def test_autoregression_writes_on_rows_only(x, says, unchecked):
    with pytest.raises(ValueError, match=says), torch.no_grad():
        AR.step(NET, x, torch.full((3,), 2), torch.full((3,), 1))
