"""Chapter 5's exercises: other right answers pass, and what the library says is what the references say."""

from itertools import zip_longest

import pytest
import torch

from course_lib import schedules as S
from course_lib import text_metrics
from course_lib.ddim import DDIM
from course_lib.ddpm import DDPM
from course_lib.diffuseq import DiffuSeq
from course_lib.exercise import find, grade
from course_lib.learned_variance import LossAware
from course_lib.pairs import END, SEP, pack
from course_lib.recipes.target_measures import Misaligned
from course_lib.sentences import PAD, Pairs, Vocabulary
from course_lib.solutions import diffuseq as D
from course_lib.word_chain import average

SQRT = S.table(S.sqrt(), 2000)


def graded(name, fn):
    return grade(find(f"diffuseq.{name}"), fn)


def passes(name, fn):
    return graded(name, fn) == ("PASS", "")


def test_other_right_answers_pass():
    def masked(x0, target, a, noise):
        a, on = a.reshape(-1, 1, 1), target.unsqueeze(-1).to(x0)
        return (1 - on) * x0 + on * (a**0.5 * x0 + (1 - a) ** 0.5 * noise)

    assert passes("partial_noise", masked) and passes("partial_noise", D.place_by_place)
    assert passes("target_loss", D.row_by_row) and passes("target_loss", average)
    assert passes("target_loss", lambda loss, on: loss.masked_fill(~on, torch.nan).nanmean(1))

    def shares(reported, pad_loss, lengths, L):
        share = torch.tensor(lengths).double().mean() / L
        return (reported - (1 - share) * pad_loss) / share

    assert passes("word_loss", shares) and passes("word_loss", lambda *given: float(D.word_loss(*given)))

    def regression(x0, x_t, m, a_t, a_s):
        at_s, at_t = (m + a.sqrt() * (x0 - m) for a in (a_s, a_t))
        return at_s + (a_t / a_s).sqrt() * (1 - a_s) / (1 - a_t) * (x_t - at_t)

    assert passes("shifted_mean", regression)
    assert passes("least_risk", D.summed) and passes("least_risk", lambda r, w: (r @ (w / w.sum())).argmin())
    assert passes("least_risk", lambda r, w: torch.einsum("ij,j->i", r, w).min(0).indices)
    assert passes("importance", lambda p, T: p.reciprocal() / T) and passes("importance", D.one_at_a_time)
    assert passes("interleave", D.by_places)

    def walk(x, y, end):
        row = []
        for a, b in zip_longest(x, y):
            row += [end if a is None else a, end if b is None else b]
        return row

    assert passes("interleave", walk)


def finder(times, dtype=torch.float32, x0=1.0, eps=1.0):
    """The property with random x_0 and noise at times (t, s) of 0..T."""

    def find_it(samplers, a):
        t, s = times(len(a) - 1)
        clean, noise = x0 * torch.randn(20, dtype=dtype), eps * torch.randn(20, dtype=dtype)
        x_t, x_s = (a[k].sqrt() * clean + (1 - a[k]).sqrt() * noise for k in (t, s))
        off = {name: (step(x_t, clean, t, s) - x_s).norm() for name, step in samplers.items()}
        return max(off, key=off.get)

    return find_it


def test_any_honest_test_finds_the_misaligned():
    for times in (lambda T: (T, T // 2), lambda T: (10, 2), lambda T: (T - 3, 1)):
        assert passes("misaligned", finder(times)) and passes("misaligned", finder(times, torch.float64))

    def first_that_fails(samplers, a):
        for name, step in samplers.items():
            x0, eps = torch.randn(2, 8)
            x_t, x_s = (a[k].sqrt() * x0 + (1 - a[k]).sqrt() * eps for k in (20, 6))
            if not torch.allclose(step(x_t, x0, 20, 6), x_s, atol=1e-4):
                return name

    assert passes("misaligned", first_that_fails)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (finder(lambda T: (9, 8)), "all your steps go from t to t - 1"),
        (finder(lambda T: (T, 0)), "all your steps end at s = 0"),
        (
            finder(lambda T: (20, 8), eps=0.0),
            "for a sampler with the noise of s + 1, and only there, it gives",
        ),
        (
            finder(lambda T: (20, 8), x0=0.0),
            "for a sampler with the signal of s + 1, and only there, it gives",
        ),
    ],
)
def test_too_easy_a_test_is_told_what_it_overlooks(wrong, said):
    state, text = graded("misaligned", wrong)
    assert state == "FAIL" and said in text


def test_line_ups_have_one_culprit_and_the_others_agree():
    """At all times, the last step too; at neighbouring times the released mistake is none."""
    rooms = [(room.name, *room.args, room.want) for room in D.line_ups()]
    places = {list(samplers).index(culprit) for _, samplers, _, culprit in rooms}
    assert len(rooms) == 3 * len(D.KINDS) and places == {0, 1, 2, 3, 4}
    x, x0 = torch.randn(2, 6, dtype=torch.float64)
    for kind, samplers, a, culprit in rooms:
        T = len(a) - 1
        steps = [step for name, step in samplers.items() if name != culprit]
        for t, s in ((T, 3), (9, 4), (7, 0), (1, 0)):
            want = DDIM(a, (6,), eta=0.0).transition(torch.tensor([t]), torch.tensor([s]))
            for step in steps:
                torch.testing.assert_close(step(x, x0, t, s), want[0] * x0 + want[1] * x)
        assert not torch.allclose(samplers[culprit](x, x0, 9, 4), steps[0](x, x0, 9, 4), atol=1e-3)
        same = torch.allclose(samplers[culprit](x, x0, 9, 8), steps[0](x, x0, 9, 8))
        assert same == (kind == "a sampler that goes to t - 1")


@pytest.mark.parametrize("name, answer, hint", [
    ("partial_noise", lambda x0, on, a, z: D.partial_noise(x0, on, a, -z), "x0 is right; noise has the wrong sign"),
    ("partial_noise", lambda x0, on, a, z: D.partial_noise(x0, on, 1 - a, z), "1 - alpha_bar in the place of"),
    ("target_loss", lambda loss, on: loss, "the shape is"),
    ("target_loss", lambda loss, on: D.target_loss(loss, on) * on.sum(1) / 2, "it is [2, 2]"),
    ("target_loss", lambda loss, on: D.target_loss(loss.detach(), on), "no gradient"),
    ("word_loss", lambda *given: 7.0, "reported has no part in your answer"),
    ("word_loss", lambda r, p, n, L: D.word_loss(r, p, n, L) * len(n), "times what is expected"),
    ("misaligned", lambda samplers, a: "nobody", "none of the names"),
    ("misaligned", lambda samplers, a: min(samplers), "have called none"),
    ("shifted_mean", lambda x0, x_t, m, t, s: D.shifted_mean(x0, x_t, m, t, s.clamp(max=0.99)), "at s = 0"),
    ("shifted_mean", lambda x0, x_t, m, t, s: D.shifted_mean(x0, x_t, m, t**0.5, s**0.5), "x0"),
    ("least_risk", lambda risk, w: 2, "does not change when risk does"),
    ("least_risk", lambda risk, w: "the first", "cannot use the str"),
    ("importance", lambda p, T: 1 / (p * (T - 1)), "T - 1 in the place of T"),
    ("interleave", lambda x, y, end: "".join(x), "it returned str, expected a list"),
    ("interleave", lambda x, y, end: D.interleave(x, y, end)[::-1], "turned round"),
    ("interleave", lambda x, y, end: [end], "does not change when source does"),
])  # fmt: skip
def test_mistakes_that_no_list_holds_are_described(name, answer, hint):
    state, text = graded(name, answer)
    assert state == "FAIL" and hint in text, text


def test_noise_and_loss_are_the_library_s():
    torch.manual_seed(0)
    process, table, t = DiffuSeq(SQRT, 5, 3), torch.randn(7, 3), torch.tensor([1, 3, 700, 2000])
    target = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]).bool()
    data = Pairs(torch.randint(7, (4, 5)), target)

    class Net:
        def __call__(self, x, u):
            return x

        def embed(self, tokens):
            return table[tokens]

    torch.manual_seed(3)
    _, clean, x0, x_t = process.diffuse(Net(), data, t)
    torch.manual_seed(3)
    torch.randn(4, 5, 3)  # the noise of x_0
    want = D.partial_noise(x0, target, SQRT[t].float(), torch.randn(4, 5, 3))
    torch.testing.assert_close(x_t, want)
    assert x_t[~target].equal(clean[~target])
    loss = torch.rand(4, 5)
    torch.testing.assert_close(average(loss, target), D.target_loss(loss, target))


def test_the_released_sampler_is_found_among_the_library_s():
    def as_step(process):
        def step(x_t, x0_hat, t, s):
            times = (torch.full((len(x_t),), k) for k in (t, s))
            return process.step(lambda x, u: x0_hat, x_t, *times)

        return step

    settings = {"shape": (50,), "eta": 0.0, "predicts": "x0"}
    kinds = {"mine": DDIM, "released": Misaligned, "yours": DDIM}
    samplers = {name: as_step(kind(SQRT, **settings)) for name, kind in kinds.items()}

    def on_rows(step):  # the reference feeds one vector
        return lambda x, x0, t, s: step(x[None], x0[None], t, s)[0]

    assert D.misaligned({name: on_rows(step) for name, step in samplers.items()}, SQRT) == "released"


def test_the_shift_is_the_library_s_posterior_seen_from_m():
    torch.manual_seed(1)
    x0, x_t, m = torch.randn(3, 6, dtype=torch.float64)
    for t, s in ((900, 500), (2000, 1999), (2, 1), (1, 0)):
        c0, c1 = DDPM(SQRT, (6,)).transition(torch.tensor([t]), torch.tensor([s]))[:2]
        want = m + c0 * (x0 - m) + c1 * (x_t - m)
        torch.testing.assert_close(D.shifted_mean(x0, x_t, m, SQRT[t], SQRT[s]), want)


def test_risk_by_hand_is_the_library_s_choice():
    """100 - BLEU of what is said against what is right; a candidate drawn twice has weight 2."""
    pool = [
        s.split() for s in ("a b c d f", "x y z u v", "a b c g h", "a b c d e", "x y z u v", "a b c d e w")
    ]
    best = text_metrics.mbr(pool)[0]
    once = [s for i, s in enumerate(pool) if s not in pool[:i]]
    weights = torch.tensor([pool.count(s) for s in once]).double()
    assert weights.max() == 2
    assert once[D.least_risk(100 - text_metrics.bleu_table(once), weights)] == pool[best]


def test_importance_is_the_library_s_weight():
    process = LossAware(DDPM(SQRT[:7], (1,)), history=1)
    process.remember(torch.arange(1, 7), torch.rand(6) + 0.1)
    p = process.p()
    process.process.loss = lambda model, data, t: torch.ones(len(t), dtype=torch.float64)
    assert p.std() > 0.01
    torch.testing.assert_close(process.loss(lambda x, u: x, None, torch.arange(1, 7)), D.importance(p, 6))


def test_interleave_is_the_library_s():
    v = Vocabulary([list("abcxyz"), [SEP, END]])
    for x, y in (("abc", "xy"), ("a", "xyz"), ("ab", "")):
        row = pack([(x, y)], v, 10, 5, interleaved=True)
        words = D.interleave(list(x), [*y, *[END] * (5 - len(y))], END)
        assert v.decode(row.tokens[0]) == words and len(words) == (row.tokens != PAD).sum()
