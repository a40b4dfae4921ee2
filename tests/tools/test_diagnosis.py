"""The diagnosis: each sentence is said of the mistake that it names, and of nothing else."""

import contextlib
import math
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from course_lib import checks as C
from course_lib import edits
from course_lib import exercise as E
from course_lib import listed as L
from course_lib import slips as S
from course_lib.compare import Pair, close, same
from course_lib.factors import common, factor
from course_lib.quantities import tensor
from course_lib.relations import conditions, relation, where
from course_lib.trial import Trial
from course_lib.turns import TURNS

ROOT = Path(__file__).resolve().parents[2]


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


W = [double(0.3, 1.7, 0.4), double(2.5, 0.9, 1.2)]
M = [torch.arange(1, 7).reshape(2, 3).double() / 7, torch.arange(3, 15).reshape(3, 4).double().sqrt()]


def pairs(of, wanted=W, **factors):
    return [
        Pair(of(w), w, {name: values[i] for name, values in factors.items()}) for i, w in enumerate(wanted)
    ]


# --- comparing ---


def test_same_is_about_kind_shape_and_value():
    assert same(W[0], W[0].float()) and same(1, 1.0) and same(torch.tensor(2), 2.0)
    assert not same(W[0], W[0][None]) and not same("a", ["a"]) and same(["a"], ("a",))
    assert not same(True, 1) and same(double(math.nan), double(math.nan)) and not same(math.nan, 0.0)
    assert same(ValueError("a"), ValueError("b")) and not same(ValueError("a"), TypeError("a"))
    assert not same(W[0], "three") and not same([1, 2], [1]) and same(math.inf, math.inf)


def test_close_is_relative_to_the_largest_wanted_number():
    small = double(1e-9, 1e-8)
    assert close(small * (1 + 1e-5), small).all() and not close(0 * small + 1e-6, small).any()
    large = double(1000.0, 1.0)
    assert close(large * (1 + 5e-5), large).all() and not close(large + double(0, 1e-3), large).all()


# --- relations of one shape ---


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (lambda w: 2 * w, "your answer is 2 times what is expected"),
        (lambda w: w / math.log(2), "your answer is 1 / ln 2 = 1.443 times"),
        (lambda w: -w, "has the wrong sign"),
        (lambda w: -3 * w, "your answer is minus 3 times"),
        (lambda w: 1.23 * w, "your answer is 1.23 times"),
        (lambda w: 0 * w, "your answer is 0 everywhere"),
        (lambda w: w + 1, "1 too large"),
        (lambda w: w - math.log(2), "too small by ln 2, everywhere: a term of this size is missing"),
        (lambda w: w + 0.123, "too large by 0.123"),
        (torch.square, "is the square of what is expected"),
        (torch.sqrt, "is the root of what is expected"),
        (torch.reciprocal, "1 over what is expected"),
        (lambda w: 1 - w, "1 minus what is expected"),
        (torch.log, "is the logarithm of what is expected"),
        (torch.exp, "is the exponential of what is expected"),
        (lambda w: w.flip(0), "turned round along axis 0"),
        (lambda w: w.roll(1), "one place too late"),
        (lambda w: w.roll(-1), "one place too early"),
        (lambda w: w.cumsum(0), "a cumulative sum"),
        (lambda w: w.mean().expand(3), "the mean over axis 0, once for each entry"),
    ],
)
def test_a_relation_is_named(of, said):
    assert said in relation(pairs(of))


def test_a_factor_is_named_after_a_quantity_of_the_case_if_it_is_that_in_all_cases():
    assert "T times" in relation(pairs(lambda w: w * (5 if w is W[0] else 8), T=(5, 8)))
    assert "1 / T times" in relation(pairs(lambda w: w / (5 if w is W[0] else 8), T=(5, 8)))
    assert "sqrt(1 - a) times" in relation(pairs(lambda w: w * (0.6 if w is W[0] else 0.8), a=(0.64, 0.36)))
    rows = (double(2.0, 3.0), double(5.0, 7.0, 4.0))
    assert "n times" in relation([Pair(m * r[:, None], m, {"n": r}) for m, r in zip(M, rows, strict=True)])
    other = pairs(lambda w: w * (5 if w is W[0] else 9), T=(5, 8))
    assert relation(other) is None and "(5, 9 in the cases tried)" in common(other)


def test_a_sign_is_told_only_if_it_is_the_sign_everywhere():
    assert "wrong sign" in relation(pairs(torch.neg))
    for other in (-3, 1):
        assert relation([Pair(-W[0], W[0]), Pair(other * W[1], W[1])]) is None
    assert "0 everywhere" not in str(relation([Pair(0 * W[0], W[0]), Pair(2 * W[1], W[1])]))


def test_nothing_is_named_where_one_number_alone_is_seen():
    one = [Pair(double(4.0), double(2.0)), Pair(double(4.0), double(2.0))]
    assert factor(one) is None and relation(one) is None


def test_what_holds_in_one_case_only_is_not_said():
    for of in (lambda w: 2 * w, torch.sqrt, lambda w: w + 1, lambda w: w.flip(0)):
        mixed = [*pairs(of)[:1], Pair(W[1] ** 3 + 2, W[1])]
        assert relation(mixed) is None


def test_normalisation_softmax_and_transposes():
    laws = [m / m.sum(-1, keepdim=True) for m in M]
    assert "divide by its sum" in relation([Pair(m, p) for m, p in zip(M, laws, strict=True)])
    logits = [p.log() + torch.arange(len(p)).double()[:, None] for p in laws]
    assert "softmax" in relation([Pair(g, p) for g, p in zip(logits, laws, strict=True)])
    squares = [torch.arange(9).reshape(3, 3).double(), torch.arange(16).reshape(4, 4).double().sqrt()]
    assert "axes 0 and 1 have changed places" in relation(pairs(torch.t, squares))


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (lambda m: m.sum(), "summed over all its numbers"),
        (lambda m: m.mean(), "averaged over all its numbers"),
        (lambda m: m.sum(1), "summed over axis 1"),
        (lambda m: m.mean(0), "averaged over axis 0"),
        (lambda m: m.T, "(1, 0)"),
        (lambda m: torch.stack([m, m + 1]), "begins with what is expected"),
        (lambda m: torch.stack([m / 4, 3 * m / 4]), "their sum over axis 0"),
        (lambda m: m[None] / 1, "right"),
    ],
)
def test_what_was_done_to_an_axis_is_named(of, said):
    assert said in relation(pairs(of, M))


def test_every_example_against_every_other():
    spread = [Pair(w[:, None] * w.sqrt()[None], w**1.5) for w in W]
    assert "(B,) and (B, 1)" in relation(spread)


def test_where_it_is_wrong():
    def last(m):
        return torch.cat([m[:-1], m[-1:] + 1])

    long = [torch.arange(20).reshape(5, 4).double(), torch.arange(12).reshape(4, 3).double()]
    assert "only in the last entry of axis 0" in where(pairs(last, long))
    squares = [torch.ones(3, 3).double(), torch.ones(4, 4).double()]
    assert "only on the diagonal" in where(pairs(lambda m: m + torch.eye(len(m)), squares))
    assert "wrong beside it" in where(pairs(lambda m: m + 1 - torch.eye(len(m)).double(), squares))


def test_conditions_that_hold_too_often_too_seldom_or_the_wrong_way_round():
    wanted = [torch.tensor([[True, False, True], [False, False, True]]), torch.tensor([[True, False]])]
    assert "opposite" in conditions(pairs(torch.logical_not, wanted))
    assert "some stand where False belongs" in conditions(pairs(torch.ones_like, wanted))
    assert "some are missing" in conditions(pairs(lambda w: w & (w.cumsum(1) == 1), wanted))
    assert conditions(pairs(lambda w: w.roll(1, 1), wanted)) is None and conditions(pairs(torch.neg)) is None


def test_lists():
    def said(of):
        return relation([Pair(of(w), w) for w in ([1, 2, 3], [4, 5, 6, 7])])

    assert "turned round" in said(lambda w: w[::-1]) and "as far as it goes" in said(lambda w: w[:-1])
    assert "goes on" in said(lambda w: [*w, 0]) and "at its beginning" in said(lambda w: w[1:])
    assert "in another order" in said(lambda w: [*w[1:], w[0]]) and "one entry short" in said(
        lambda w: [0, *w[2:]]
    )


# --- slips ---


def formula(a, b, n):
    """A formula."""
    inner = 1 - a
    return inner.sqrt() * b / n + a**2


def test_slips_are_the_reference_with_one_change():
    found = S.slips(formula)
    texts = [slip.text for slip in found]
    assert len(texts) > 30 and all(texts)
    args = double(0.3, 0.6), double(1.0, 2.0), 4
    right, told = formula(*args), {}
    for slip in found:
        with contextlib.suppress(AttributeError):  # a root of a whole number
            told.setdefault(slip.text, slip.wrong(*args))
    assert same(told["the root of 1 - a is missing in one place"], (1 - args[0]) * args[1] / 4 + args[0] ** 2)
    assert same(told["nothing is divided by n"], (1 - args[0]).sqrt() * args[1] + args[0] ** 2)
    assert same(told["the term a ^ 2 is missing"], right - args[0] ** 2)
    assert same(told["minus stands where plus belongs before a ^ 2"], right - 2 * args[0] ** 2)
    assert sum(same(value, right) for value in told.values()) < 3


def branching(x, y):
    """A condition."""
    return torch.where(x > 0, x, y)


def test_slips_of_a_condition():
    x, y = double(-1.0, 2.0), double(5.0, 7.0)
    told = {slip.text: slip.wrong for slip in S.slips(branching)}
    assert same(told["everything is treated as if the condition held"](x, y), x)
    assert same(told["everything is treated as if the condition did not hold"](x, y), y)
    assert same(told["a condition is the wrong way round"](x, y), double(-1.0, 7.0))


def test_an_edit_must_fit_the_text():
    assert same(edits.edited(formula, "/ n -> / (n + 1) ; a**2 -> a")(0 * W[0], W[0], 1), W[0] / 2)
    for edit in ("/ k -> 1", "a -> b", "no arrow"):
        with pytest.raises(
            ValueError, match='an edit must be "old -> new" with an old that stands once in formula'
        ):
            edits.edited(formula, edit)


def test_a_loop_that_may_not_end_is_left_alone():
    def counts(n):
        while n > 1:
            n = n / 2
        return n

    assert S.slips(counts) == []


# --- the whole diagnosis ---


def drift(x, score, f, g2, dt, z):
    """One step back."""
    return x - dt * (f * x - g2 * score) + (g2 * dt).sqrt() * z


def cases():
    found = []
    for n, numbers in ((2, (-0.7, 1.6, 0.05)), (3, (0.2, 0.3, 0.4))):
        x, score, z = torch.randn(3, n, 2).double()
        found.append((x, score, *double(*numbers), z))
    return found


def defined(reference=drift, **parts):
    given = {
        "cases": cases,
        "linear_in": ("x", "score", "z"),
        "gradients": ("score", "z"),
        "mistakes": {
            "forwards": ("x - dt -> x + dt", "you walk forwards"),
            "half": ("g2 * score -> g2 * score / 2", "half of the score belongs to the ODE"),
            "no root": ("(g2 * dt).sqrt() -> g2.sqrt() * dt", "the noise is multiplied by dt"),
        },
    } | parts
    return C.Exercise("toy.step", reference, **given)


def told(fn, **parts):
    state, text = E.grade(defined(**parts), fn)
    assert state == "FAIL", text
    return text


def test_a_right_answer_in_another_form_passes():
    def other(x, score, f, g2, dt, z):
        return x * (1 - dt * f) + dt * g2 * score + g2**0.5 * dt**0.5 * z

    assert E.grade(defined(), other) == ("PASS", "")
    assert E.grade(defined(), lambda *a: other(*(v.float() for v in a))) == ("PASS", "")


def test_listed_mistakes_come_first_and_two_are_told_as_two():
    assert (
        told(lambda x, s, f, g2, dt, z: x + dt * (f * x - g2 * s) + (g2 * dt) ** 0.5 * z)
        == "you walk forwards"
    )
    text = told(lambda x, s, f, g2, dt, z: x - dt * (f * x - g2 * s / 2) + g2**0.5 * dt * z)
    assert text.startswith("two mistakes at once.")
    assert "half of the score" in text and "multiplied by dt" in text and "forwards" not in text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, 1.26 * z), "x, score are right; z is 1.26 times"),
        (lambda x, s, f, g2, dt, z: drift(x, g2 * s, f, g2, dt, z), "x, z are right; score is g2 times"),
        (lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, 0 * z), "z has no part in your answer"),
        (
            lambda x, s, f, g2, dt, z: drift(x, -s, f, g2, dt, 2 * z),
            "score has the wrong sign; z is 2 times",
        ),
        (
            lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, z) + 0.1,
            "what remains when all of them are 0 is wrong",
        ),
        (lambda x, s, f, g2, dt, z: drift(s, x, f, g2, dt, z), "x and score have changed places"),
        (lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, x), "x stands twice"),
        (lambda x, s, f, g2, dt, z: drift(x, s, f, g2**2, dt, z), "g2^2 in the place of g2"),
        (lambda x, s, f, g2, dt, z: 3 * drift(x, s, f, g2, dt, z), "your answer is 3 times what is expected"),
        (
            lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, torch.randn_like(z)),
            "two calls with the same arguments",
        ),
        (lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, z).sum(0), "summed over axis 0"),
        (
            lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, z).tolist(),
            "it returned list, expected a tensor",
        ),
        (lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, z / 0), "your answer holds"),
        (lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, z)[:1].expand_as(x), "each example alone"),
        (lambda x, s, f, g2, dt, z: drift(x, s.detach(), f, g2, dt, z), "no gradient reaches score"),
        (lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, z).detach(), "carry no gradient"),
        (lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, z).tanh(), "it gives"),
    ],
)
def test_what_is_wrong_is_named(answer, said):
    assert said in told(answer), told(answer)


def test_the_state_of_the_answer_is_left_over_from_no_other_call():
    calls = []

    def grows(x, s, f, g2, dt, z):
        calls.append(1)
        return drift(x, s, f, g2, dt, z) * (1 + (len(calls) > 2))

    assert "left over from the last call" in told(grows)


def test_limits_are_told_where_they_are_missed_and_only_there():
    limits = {"at dt = 0 nothing moves": {"dt": double(0.0)[0]}}
    text = told(lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt.clamp(min=0.01), z), limits=limits)
    assert text.startswith("at dt = 0 nothing moves. There yours gives")
    assert "at dt = 0" not in told(lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, 1.26 * z), limits=limits)


def test_what_must_have_no_say_is_asked():
    def masked(x, where):
        return (x * where).sum(1) + 0 * x[:, 0]

    ignored = {"what stands where it is False has no say": {"x": lambda a: a.x + (~a.where)}}
    given = {
        "cases": lambda: [(torch.rand(2, 3).double() + 1, torch.tensor([[True, False, True]] * 2))],
        "mistakes": {k: (f"x[:, 0] -> x[:, {k}] + 9", k) for k in "012"},
        "ignores": ignored,
        "linear_in": (),
        "gradients": (),
    }
    text = told(lambda x, where: (x**2 * where).sum(1) + x[:, 1], reference=masked, **given)
    assert text.startswith("what stands where it is False has no say, and your answer moves with it")
    assert "has no say" not in told(lambda x, where: (x**2 * where).sum(1), reference=masked, **given)


def test_properties():
    a = types.SimpleNamespace()
    law = C.law()
    assert law(double(0.2, 0.8), a) is None and "sum to 1.2" in law(double(0.4, 0.8), a)
    assert "no probability is negative" in law(double(-0.2, 1.2), a)
    assert "cannot be below 0: it is a square" in C.at_least(0, "it is a square")(double(-1.0), a)
    assert C.at_least(0)(0.0, a) is None and C.at_most(1)(double(0.5), a) is None
    assert "cannot be above 1" in C.at_most(1)(double(1.5), a)
    assert C.falling(double(3, 2, 1), a) is None and "must fall" in C.falling(double(3, 3, 1), a)
    two, first = C.entries(lambda a: 2, "why"), C.stands_at(0, lambda a: 1, "why")
    assert two(double(1, 2), a) is None and "expected (2,): why" in two(double(1, 2, 3), a)
    assert "not all finite" in two(double(1, float("nan")), a)
    assert first(double(1, 2), a) is None and "it must be 1: why" in first(double(2, 1), a)
    assert "one of 'a', 'b'" in C.one_of("a", "b")("c", a) and C.one_of("a")("a", a) is None


def test_what_the_truth_refuses_is_not_asked():
    """Neither in float64, nor with an argument that is 0."""

    def picky(x, y):
        if x.dtype != torch.float32 or not y.any():
            raise TypeError("float32, and a y that is not 0")
        return x + y

    given = {
        "cases": lambda: [(torch.rand(n, 2), torch.rand(n, 2) + 1) for n in (2, 3)],
        "mistakes": {k: (f"x + y -> x + {k} * y", k) for k in "789"},
        "linear_in": ("x", "y"),
        "gradients": (),
    }
    assert told(lambda x, y: (x + y).tanh(), reference=picky, **given).startswith("for x = ")


def test_mistakes_are_written_as_text():
    text = """
        the other sign
            = a - b
            the sign of b
                is the other one
        twice
            a + b ->
                a + 2 * b
            b counts twice

        a function
            _times(3)
            three times
    """
    found = L.listed(text)
    assert found == {
        "the other sign": ("= a - b", "the sign of b is the other one"),
        "twice": ("a + b -> a + 2 * b", "b counts twice"),
        "a function": ("_times(3)", "three times"),
    }
    spec = C.Exercise("toy.added", added, text)
    assert [wrong(5, 2) for wrong in spec.wrong.values()] == [3, 9, 21]
    assert L.wrong_answer(added, "a + ->")(5, 2) == 2 and L.wrong_answer(added, math.hypot) is math.hypot
    for broken, said in (
        ("a\n  = a\n  one\na\n  = b\n  two", "two mistakes have the label 'a'"),
        ("a\n  = a", "'a' must have a wrong answer and a hint"),
    ):
        with pytest.raises(ValueError, match=said):
            L.listed(broken)


def added(a, b):
    return a + b


def _times(n):
    return lambda a, b: n * (a + b)


def test_a_crash_in_a_later_case_says_so():
    def small(x, s, f, g2, dt, z):
        return drift(x, s, f, g2, dt, z) + torch.zeros(2, 2)

    assert "it is right in the case before, and stops for" in told(small)


def weighted(loss, weights):
    """A loss for each example."""
    return loss.square() * weights


WEIGHTED = {
    "cases": lambda: [(torch.randn(n).double(), torch.rand(n).double() + 0.5) for n in (3, 4)],
    "mistakes": {k: (f"loss.square() * weights -> {k} * loss", k) for k in "789"},
    "linear_in": ("weights",),
    "gradients": ("loss",),
}


class Turned(torch.autograd.Function):
    """x itself, whose gradients have changed places: their sum is right."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g.flip(0)


def test_a_gradient_is_compared_entry_by_entry_and_with_uneven_weights():
    assert E.grade(defined(weighted, **WEIGHTED), lambda v, w: v * v * w) == ("PASS", "")
    text = told(lambda v, w: Turned.apply(v.square() * w), reference=weighted, **WEIGHTED)
    assert "the gradient by loss is another" in text
    same_sum = {
        **WEIGHTED,
        "cases": lambda: [(torch.ones(n).double(), torch.ones(n).double()) for n in (3, 4)],
    }
    text = told(lambda v, w: Turned.apply(v.square() * w), reference=weighted, **same_sum)
    assert "the gradient by loss" in text


def test_a_listed_mistake_that_writes_into_its_arguments_spoils_no_other():
    def wipes(loss, weights):
        return loss.square() * weights.zero_()

    listed = {
        "wiped": (wipes, "all weights are 0"),
        "cut": (lambda v, w: v.detach() * v * w, "half of the gradient is cut off"),
        "other": ("* weights -> * 2", "other"),
    }
    given = {**WEIGHTED, "mistakes": listed}
    assert (
        told(lambda v, w: v * w * v.detach(), reference=weighted, **given)
        == "half of the gradient is cut off"
    )


def test_a_mistake_that_is_right_where_it_is_finite_is_not_told():
    """An answer that is wrong elsewhere: the mistake must explain a case that is wrong."""

    def root(x):
        return (x.square() + 1).sqrt()

    given = {
        "cases": lambda: [(double(1.0, 2.0),), (double(0.0, 3.0, 4.0),), (double(5.0, -1.0),)],
        "mistakes": {
            "no root of what is negative": ("x.square() + 1 -> x.square() + 1 + 0 * x.log()", "not finite"),
            "a": ("+ 1 -> + 2", "a"),
            "b": ("+ 1 -> + 3", "b"),
        },
        "linear_in": (),
        "gradients": (),
    }
    text = told(lambda x: torch.where(x < 0.5, 7.0, root(x)), reference=root, **given)
    assert "not finite" not in text


def test_an_exchange_is_told_once_and_as_one():
    def ratio(a, b):
        return a / (a + 2 * b)

    given = {
        "cases": lambda: [(torch.rand(n).double() + 1, torch.rand(n).double() + 1) for n in (2, 3)],
        "mistakes": {k: (f"2 * b -> {k} * b", k) for k in "789"},
        "linear_in": (),
        "gradients": (),
    }
    assert told(lambda a, b: b / (b + 2 * a), reference=ratio, **given).startswith(
        "a and b have changed places"
    )
    text = told(lambda a, b: b / (b + 2 * b), reference=ratio, **given)
    assert "the one for b in the place of a: a is not used, and b stands twice" in text


@pytest.mark.filterwarnings("default")
def test_what_is_tried_in_the_answer_s_place_warns_nobody(recwarn):
    """The product with a vector transposed is a slip, and torch warns of it."""

    def product(M, v):
        return M @ v

    given = {
        "cases": lambda: [(torch.rand(n, n).double(), torch.rand(n).double()) for n in (2, 3)],
        "mistakes": {k: (f"M @ v -> {k} * M @ v", k) for k in "789"},
        "linear_in": (),
        "gradients": (),
    }
    told(lambda M, v: (M @ v).tanh(), reference=product, **given)
    assert not recwarn.list


def test_an_argument_that_matters_to_neither_is_not_spoken_of():
    def first(x, y):
        return x.exp() + 0 * y

    given = {
        "cases": lambda: [(torch.rand(n).double(), torch.rand(n).double()) for n in (2, 3)],
        "mistakes": {k: (f"x.exp() -> {k} * x", k) for k in "789"},
        "linear_in": (),
        "gradients": (),
    }
    assert "does not change when" not in told(lambda x, y: (3 * x.exp()).tanh(), reference=first, **given)
    assert "when x does, and it should" in told(lambda x, y: y.tanh() + 0.3, reference=first, **given)


def test_a_slip_is_told_only_if_it_is_that_slip():
    """An exercise with room for other methods has no room for coincidences."""

    def rough(x, y):
        return x + 0.01 * y

    given = {
        "cases": lambda: [(torch.rand(n).double() + 5, torch.rand(n).double()) for n in (2, 3)],
        "mistakes": {k: (f"x + 0.01 -> {k} * x + 0.01", k) for k in "789"},
        "linear_in": (),
        "gradients": (),
        "tol": 1e-2,
    }
    assert "the factor" not in told(lambda x, y: x.square() * 1.03 + y, reference=rough, **given)

    def total(x, y):
        return 2 * x + 3 * y

    given |= {"cases": lambda: [(torch.rand(n).double(), torch.rand(n).double() + 1) for n in (2, 3)]}
    given |= {"tol": 0.02, "mistakes": {k: (f"2 * x -> {k} * x", k) for k in "789"}}
    text = told(lambda x, y: 1.008 * (2 * x + 2 * y), reference=total, **given)
    assert "what comes out when" not in text
    assert "2 stands where 3 belongs" in told(lambda x, y: 2 * x + 2 * y, reference=total, **given)


def test_two_equal_mistakes_do_not_hide_a_third():
    hints = {hint for _, hint in defined().mistakes.values()}
    text = told(lambda x, s, f, g2, dt, z: x + dt * (f * x - g2 * s / 3) + g2**0.5 * dt * z)
    assert text not in hints and not any(hint in text for hint in hints)


TIMED = """
import time, torch
from tests.exercises.test_every_exercise import SPECS
from course_lib.exercise import grade
def odd(spec):
    def fn(*args):
        got = spec.reference(*args)
        return got.tanh() if isinstance(got, torch.Tensor) and got.is_floating_point() else got
    return fn
def span(what):
    start = time.process_time()
    what()
    return time.process_time() - start
# Counting to a million: some 0.03 s of a quiet core. A machine that is slow or busy is so for both.
count = lambda: sum(i * i for i in range(10**6))
slow, late = {}, []
for name, spec in SPECS.items():
    for fn in (spec.reference, odd(spec)):
        spans = []
        for _ in range(3):
            spans.append(span(lambda: grade(spec, fn)) / span(count))
        slow[name] = max(min(spans), slow.get(name, 0))
        late += [f"{name} at first {spans[0]:.1f}"] * (spans[0] > 18)
print(*(f"{name} {counts:.1f}" for name, counts in slow.items() if counts > 7), *late)
"""


def test_a_check_takes_no_longer_than_counting_to_seven_million():
    """As the reader runs it: without the shape checks of the tests. Eighteen million for the first of a process."""
    done = subprocess.run([sys.executable, "-c", TIMED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_hint_is_printed_of_a_number_that_was_not_seen():
    text = told(lambda x, s, f, g2, dt, z: drift(x, s, f, g2, dt, z).tanh())
    torch.manual_seed(0)
    seen = [drift(*case) for case in cases()]
    first = "[" + ", ".join("[" + ", ".join(f"{v:.4g}" for v in row) + "]" for row in seen[0].tolist()) + "]"
    assert f"where {first} is expected" in text
    assert tensor("x") is None


def test_what_stands_in_an_arguments_place_is_what_its_name_says():
    x, turns = double(0.25, 4.0, 9.0), dict(TURNS)
    said = {
        "sqrt({})": x**0.5,
        "{}^2": x * x,
        "1 - {}": 1 - x,
        "1 / {}": 1 / x,
        "log({})": x.log(),
        "exp({})": x.exp(),
    }
    said |= {
        "-{}": -x,
        "2 {}": x + x,
        "{} / 2": x / 2,
        "{} - 1": x - 1,
        "{} + 1": x + 1,
        "{} turned round": x.flip(0),
    }
    for text, value in said.items():
        assert same(turns[text](x), value), text
    law = double(0.2, 0.8)
    assert turns["2 {}"](law)[1] == 1.6
    with pytest.raises(TypeError):
        turns["-{}"](law)
    assert turns["sqrt({})"](4.0) == 2.0 and not turns["not {}"](torch.tensor([True])).any()


def test_what_is_nowhere_finite_is_no_answer_to_compare_with():
    def tried(*got, wrong):
        cases = [types.SimpleNamespace(args=(x,)) for x in double(1.0, 2.0)]
        return types.SimpleNamespace(
            spec=types.SimpleNamespace(tol=1e-9),
            cases=cases,
            got=list(got),
            wrong=list(wrong),
            outcome=lambda fn, args: fn(*args),
        )

    def late(x):
        return torch.where(x > 1, x.square(), math.nan)

    def nowhere(x):
        return x * math.nan

    one, four = double(1.0, 4.0)
    square = torch.square
    answer = tried(one, four, wrong=[1])
    assert Trial.equals(answer, square)
    assert Trial.equals(answer, square, loose=True)
    assert Trial.equals(answer, late, loose=True)  # what is not finite does not count
    assert not Trial.equals(answer, late)
    assert not Trial.equals(answer, nowhere, loose=True)
    # Seen where the answer is right only: nothing is known of the mistake.
    assert not Trial.equals(tried(one, four, wrong=[0]), late, loose=True)
    assert Trial.equals(tried(one, four, wrong=[]), square)
