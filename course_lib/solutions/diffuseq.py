"""Chapter 5, DiffuSeq: the reference answers, their checks and the classic wrong answers.

A batch has B rows of L positions, vectors of D numbers; target (B, L) is True where the target stands; alpha_bar is
a table of T + 1 entries with alpha_bar[0] = 1, or its entries. The checks count by hand, put the mean on a grid, or let
samplers loose on an x_t whose x_0 and noise are known.
"""

import random
from itertools import zip_longest

import torch

from ..answers import overwritten
from ..checks import Mistakes, close, compare, diagnose
from ..exercise import define


def first_difference(fn, reference, mistakes, cases):
    """None when fn answers every case (a tuple of arguments) like the reference.

    Else the hint of the mistake that it answers like everywhere, or the first case with both answers.
    """
    got, want = ([f(*case) for case in cases] for f in (fn, reference))
    if got == want:
        return None
    for wrong, hint in mistakes.values():
        if got == [wrong(*case) for case in cases]:
            return hint
    return next(
        (case, a, b) for case, a, b in zip(cases, got, want, strict=True) if a != b
    )


# --- partial_noise ---


def partial_noise(x0, target, alpha_bar, noise):
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise on the target, x_0 elsewhere."""
    abar = alpha_bar[:, None, None]
    return torch.where(
        target[..., None], abar.sqrt() * x0 + (1 - abar).sqrt() * noise, x0
    )


def place_by_place(x0, target, alpha_bar, noise):
    """Python loops."""
    x_t = x0.clone()
    for b, i in target.nonzero().tolist():
        x_t[b, i] = (
            alpha_bar[b].sqrt() * x0[b, i] + (1 - alpha_bar[b]).sqrt() * noise[b, i]
        )
    return x_t


def _forward(
    signal=torch.sqrt,
    spread=torch.sqrt,
    axes=(slice(None), None, None),
    mask=lambda target: target[..., None],
):
    """The mistake of another factor, another axis or another mask."""

    def wrong(x0, target, alpha_bar, noise):
        abar = alpha_bar[axes]
        return torch.where(
            mask(target), signal(abar) * x0 + spread(1 - abar) * noise, x0
        )

    return wrong


def _into_x0(x0, target, alpha_bar, noise):
    x0[target] = partial_noise(x0, target, alpha_bar, noise)[target]
    return x0


PARTIAL_NOISE: Mistakes = {
    "all noised": (
        _forward(mask=lambda target: torch.ones_like(target)[..., None]),
        "the source is noised like the target. What is the network to read x from, if it learns p(y | x)?",
    ),
    "source zeroed": (
        lambda x0, target, a, noise: partial_noise(x0, target, a, noise) * target[..., None],
        "your source is all zeros: a product with a mask leaves 0 where the mask is False. What should stand there?",
    ),
    "only the noise is masked": (
        lambda x0, target, a, noise: partial_noise(x0, torch.ones_like(target), a, noise * target[..., None]),
        "no noise falls on your source, yet it shrinks as t grows: is the other factor for the source too?",
    ),
    "the mask the wrong way round": (
        _forward(mask=lambda target: ~target[..., None]),
        "your target is clean and your source is noise. Which of the two is to be generated?",
    ),
    "x_0 not scaled": (
        _forward(signal=torch.ones_like),
        "with alpha_bar near 0 your target still holds all of x_0: what should be left of it then?",
    ),
    "alpha_bar without its root": (
        _forward(signal=lambda a: a),
        "x_0 is multiplied by alpha_bar, which is a share of the variance. What is the factor of a vector then?",
    ),
    "the variance for the standard deviation": (
        _forward(spread=lambda a: a),
        "the noise is too small: its variance is to be 1 - alpha_bar, and yours is the square of that",
    ),
    "one time per number": (
        _forward(axes=()),
        "alpha_bar runs along the numbers of a vector, though each row has its own time: which axis holds the rows?",
    ),
    "the mask on the wrong axes": (
        _forward(mask=lambda target: target),
        "some vectors are half noised: your mask lies over (L, D). Which axis is it short of?",
    ),
    "written into x_0": (
        _into_x0,
        overwritten("x0"),
    ),
}  # fmt: skip


def check_partial_noise(fn):
    target = torch.tensor(
        [[0, 1, 1], [0, 0, 1], [0, 1, 0]]
    ).bool()  # B = L = D: a wrong axis raises no error
    x0, noise = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    alpha_bar = torch.tensor([0.9, 0.4, 0.1], dtype=torch.float64)
    return compare(fn, place_by_place, PARTIAL_NOISE, x0, target, alpha_bar, noise)


define(partial_noise, check_partial_noise, PARTIAL_NOISE)


# --- target_loss ---


def target_loss(loss, target):
    """Mean over each row's target positions, (B,)."""
    return (loss * target).sum(1) / target.sum(1)


def row_by_row(loss, target):
    """What stands at the target's positions, averaged."""
    return torch.stack(
        [row[where].mean() for row, where in zip(loss, target, strict=True)]
    )


TARGET_LOSS: Mistakes = {
    "all positions": (
        lambda loss, target: loss.mean(1),
        "your loss changes with what stands at the source and at PAD: `target` is not used",
    ),
    "a sum": (
        lambda loss, target: (loss * target).sum(1),
        "a target twice as long, each word said equally well, costs twice as much in yours: what is asked is a mean",
    ),
    "divided by L": (
        lambda loss, target: (loss * target).mean(1),
        "let every target position cost 2: your row costs less than 2. How many zeros are in your mean?",
    ),
    "one mean for the batch": (
        lambda loss, target: loss[target].mean(),
        "you return one number for the batch, and each row is to have its own: which axis goes, and which stays?",
    ),
    "one length for the batch": (
        lambda loss, target: (loss * target).sum(1) / target.sum(1).double().mean(),
        "all your rows are divided by the same number, though their targets are not of one length",
    ),
    "the mask the wrong way round": (
        lambda loss, target: target_loss(loss, ~target),
        "you average what is not the target: source and PAD",
    ),
    "down the columns": (
        lambda loss, target: (loss * target).sum(0) / target.sum(0),
        "your mean is over the rows at one position: it should be over the positions of one row",
    ),
}  # fmt: skip


def check_target_loss(fn):
    target = torch.tensor(
        [[0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 1, 0]]
    ).bool()  # B = L
    loss = 5 * torch.rand(4, 4, dtype=torch.float64)
    mistakes, got = dict(TARGET_LOSS), fn(loss.clone(), target.clone())
    one, hint = mistakes.pop("one mean for the batch")
    mistakes["the same, for each row"] = (lambda *probe: one(*probe).expand(4), hint)
    if getattr(got, "shape", None) == ():
        return hint
    return compare(lambda *_: got, row_by_row, mistakes, loss, target)


define(target_loss, check_target_loss, TARGET_LOSS)


# --- word_loss ---


def word_loss(reported, pad_loss, lengths, L):
    """All positions cost B L reported; less what the PADs cost, this is what the words cost; per word."""
    positions, words = len(lengths) * L, sum(lengths)
    return (positions * reported - (positions - words) * pad_loss) / words


def a_log(lengths, L, pad_loss):
    """What a training run would report, and what its words cost: word losses drawn, the rest of each row PAD."""
    words = torch.arange(L) < torch.tensor(lengths)[:, None]
    loss = torch.where(
        words, 1 + 6 * torch.rand(len(lengths), L, dtype=torch.float64), pad_loss
    )
    return loss.mean(1).mean().item(), loss[words].mean()


def _counts(lengths, L):
    return len(lengths) * L, sum(lengths)


def _shared(reported, pad_loss, lengths, L):
    """reported less the PADs' share of it, still per position."""
    positions, words = _counts(lengths, L)
    return reported - pad_loss * (positions - words) / positions


def _turned(reported, pad_loss, lengths, L):
    positions, words = _counts(lengths, L)
    return (positions * reported - words * pad_loss) / max(positions - words, 1)


def _one_row(reported, pad_loss, lengths, L):
    positions, words = _counts(lengths, L)
    return (L * reported - (positions - words) * pad_loss) / words


WORD_LOSS: Mistakes = {
    "as reported": (
        lambda reported, pad_loss, lengths, L: reported,
        "you believe the log. How many of the L positions that it averages hold a word?",
    ),
    "PAD for free": (
        lambda reported, pad_loss, lengths, L: reported * len(lengths) * L / sum(lengths),
        "you divide by the number of words, but the sum that you divide was run up by more than words",
    ),
    "PAD's loss subtracted": (
        lambda reported, pad_loss, lengths, L: reported - pad_loss,
        "a batch without PAD has nothing to correct, and yours is corrected: how many positions pay pad_loss?",
    ),
    "not per word": (
        _shared,
        "let PAD cost 0, words 4 nats, and half of each row be words: the log says 2, and so do you. "
        "By which number is your sum divided?",
    ),
    "row by row": (
        lambda reported, pad_loss, lengths, L: (
            sum((L * reported - (L - n) * pad_loss) / n for n in lengths) / len(lengths)
        ),
        "you take `reported` for the mean of each single row, and it is the mean of all of them: "
        "of what do you know the sum?",
    ),
    "words and PAD exchanged": (
        _turned,
        "pad_loss is taken off once for each word, and what is left is divided by the number of PADs",
    ),
    "one row": (
        _one_row,
        "you set the PADs and words of the whole batch against the sum of one row: of how many positions is "
        "`reported` the mean?",
    ),
}  # fmt: skip


def check_word_loss(fn):
    batches = (
        ([3, 9, 2, 12, 5], 16, 0.05),
        ([3, 9, 2], 128, 0.5),
        ([4, 1], 9, 0.0),
        ([6, 6, 6], 6, 0.2),
    )
    for lengths, L, pad_loss in batches:
        reported, want = a_log(lengths, L, pad_loss)
        probe = (reported, pad_loss, lengths, L)
        got = torch.as_tensor(
            fn(reported, pad_loss, list(lengths), L), dtype=torch.float64
        )
        if not close(got, want):
            return diagnose(
                got,
                want,
                {h: torch.as_tensor(f(*probe)) for f, h in WORD_LOSS.values()},
            )
    return None


define(word_loss, check_word_loss, WORD_LOSS)


# --- misaligned ---


def misaligned(samplers, alpha_bar):
    """The one whose step from x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps misses x_s, made of the same x_0 and eps.

    The gap is above 1 and s above 0.
    """
    t, s = 3 * len(alpha_bar) // 4, len(alpha_bar) // 4
    x0, eps = torch.randn(2, 50, dtype=torch.float64)
    x_t, x_s = (
        alpha_bar[k].sqrt() * x0 + (1 - alpha_bar[k]).sqrt() * eps for k in (t, s)
    )
    off = {
        name: (step(x_t, x0, t, s) - x_s).abs().max() for name, step in samplers.items()
    }
    return max(off, key=off.get)


def ways(a):
    """One DDIM step of eta = 0, written in five ways."""

    def through_noise(x, x0, t, s):
        return (
            a[s].sqrt() * x0
            + (1 - a[s]).sqrt() * (x - a[t].sqrt() * x0) / (1 - a[t]).sqrt()
        )

    def two_factors(x, x0, t, s):
        kept = ((1 - a[s]) / (1 - a[t])).sqrt()
        return kept * x + (a[s].sqrt() - kept * a[t].sqrt()) * x0

    def euler(x, x0, t, s):  # of x / sqrt(a), noise-to-signal for time
        far, near = ((1 - a[k]).sqrt() / a[k].sqrt() for k in (t, s))
        x = x / a[t].sqrt()
        return a[s].sqrt() * (x + (near - far) * (x - x0) / far)

    def solver(x, x0, t, s):  # DPM-Solver++ of order 1; ratio = exp(-h)
        ratio = ((1 - a[s]) * a[t] / (a[s] * (1 - a[t]))).sqrt()
        return ((1 - a[s]) / (1 - a[t])).sqrt() * x + a[s].sqrt() * (1 - ratio) * x0

    def turn(x, x0, t, s):  # by an angle, with the velocity
        angle = a[s].sqrt().acos() - a[t].sqrt().acos()
        v = (a[t].sqrt() * x - x0) / (1 - a[t]).sqrt()
        return angle.cos() * x + angle.sin() * v

    return [through_noise, two_factors, euler, solver, turn]


def wrong_times(a, signal=lambda t, s: s, noise=lambda t, s: s, read=lambda t, s: t):
    """A DDIM step with the factors of other times: of x_0, of the noise, or those with which the noise is read."""

    def step(x, x0, t, s):
        i, j, k = signal(t, s), noise(t, s), read(t, s)
        eps = (x - a[k].sqrt() * x0) / (1 - a[k]).sqrt()
        return a[i].sqrt() * x0 + (1 - a[j]).sqrt() * eps

    return step


def _before(t, s):
    return t - 1


def _after(t, s):
    return s + 1


def _beyond(t, s):
    return abs(s - 1)


KINDS = {  # what a line-up's culprit does: the times that are wrong in it
    "to t - 1": {"signal": _before, "noise": _before},
    "from t - 1": {"read": lambda t, s: max(t - 1, 1)},
    "to s + 1": {"signal": _after, "noise": _after},
    "to s - 1": {"signal": _beyond, "noise": _beyond},
    "noise of s + 1": {"noise": _after},
    "signal of s + 1": {"signal": _after},
    "one of two": {"signal": _after, "noise": _after},
}
NAMES = ("amber", "birch", "cedar", "dune", "ember")


def line_ups():
    """(kind, samplers, alpha_bar, the culprit's name), three of each kind, in random order under random names."""
    found = []
    for i, kind in enumerate(3 * list(KINDS)):
        a = 0.99 - 0.96 * torch.linspace(0, 1, 25 + i, dtype=torch.float64).sqrt()
        a[0] = 1.0
        names = random.sample(NAMES, 2 if kind == "one of two" else 5)
        culprit = (
            1 + i % (len(names) - 1) if i < 2 * len(KINDS) else 0
        )  # never always the first or the last
        steps = random.sample(ways(a), len(names))
        steps[culprit] = wrong_times(a, **KINDS[kind])
        found.append((kind, dict(zip(names, steps, strict=True)), a, names[culprit]))
    return found


def _probe(times, x0=1.0, eps=1.0):
    """The mistake of too easy a test, with these times and this much x_0 and noise: the first to fail, or the first."""

    def wrong(samplers, a):
        t, s = times(len(a) - 1)
        clean, noise = (
            x0 * torch.linspace(-2, 1, 9).double(),
            eps * torch.linspace(1, 2, 9).double(),
        )
        x_t, x_s = (a[k].sqrt() * clean + (1 - a[k]).sqrt() * noise for k in (t, s))
        bad = [
            n
            for n, step in samplers.items()
            if (step(x_t, clean, t, s) - x_s).abs().max() > 1e-6
        ]
        return (bad or list(samplers))[0]

    return wrong


def _by_size(samplers, a, sign):
    """The largest or the smallest answer; right steps agree to six digits, and the first of them counts."""
    x, t, s = torch.linspace(-1, 2, 9).double(), 3 * len(a) // 4, len(a) // 4
    size = {
        name: round(step(x, x.flip(0), t, s).norm().item(), 6)
        for name, step in samplers.items()
    }
    return max(size, key=lambda name: sign * size[name])


def _odd_one_out(samplers, a):
    """Far from the other samplers; the first of equals."""
    x, t, s = torch.linspace(-1, 2, 9).double(), 3 * len(a) // 4, len(a) // 4
    said = [step(x, x.flip(0), t, s) for step in samplers.values()]
    far = [round(sum((v - w).norm().item() for w in said), 6) for v in said]
    return list(samplers)[far.index(max(far))]


MISALIGNED: Mistakes = {
    "the first": (
        lambda samplers, a: next(iter(samplers)),
        "you always name the first, whatever its steps do: for which x_t would you know what x_s must be?",
    ),
    "the last": (
        lambda samplers, a: list(samplers)[-1],
        "you always name the last, and never ask where a step has led",
    ),
    "from t to t - 1": (
        _probe(lambda T: (T // 2, T // 2 - 1)),
        "you let one get away that misses s only where the grid has gaps. Which steps did you try?",
    ),
    "the last step": (
        _probe(lambda T: (T // 2, 0)),
        "you let one get away that reads the wrong noise out of x_t. Would that show in a step that ends at s = 0?",
    ),
    "the mean": (
        _probe(lambda T: (3 * T // 4, T // 4), eps=0.0),
        "you let one get away whose x_0 has the right factor, and whose noise has not. Was there noise in your x_t?",
    ),
    "the noise": (
        _probe(lambda T: (3 * T // 4, T // 4), x0=0.0),
        "you let one get away whose noise has the right factor, and whose x_0 has not. Was your x_0 more than 0?",
    ),
    "the odd one out": (
        _odd_one_out,
        "of two samplers each is as far from the other, and you are lost: "
        "what can you say of x_s without asking another sampler?",
    ),
    "the largest": (
        lambda samplers, a: _by_size(samplers, a, 1),
        "you name the one with the largest x_s. Would a step with too little noise be found like this?",
    ),
    "the smallest": (
        lambda samplers, a: _by_size(samplers, a, -1),
        "you name the one with the smallest x_s. Would a step that leaves too much noise be found like this?",
    ),
}  # fmt: skip

OVERLOOKS = {  # which mistake misses only this kind
    "to t - 1": "from t to t - 1",
    "from t - 1": "the last step",
    "noise of s + 1": "the mean",
    "signal of s + 1": "the noise",
    "one of two": "the odd one out",
}


def check_misaligned(fn):
    rooms = line_ups()
    said = [fn(dict(samplers), a.clone()) for _, samplers, a, _ in rooms]
    for answer, (_, samplers, _, _) in zip(said, rooms, strict=True):
        if answer not in samplers:
            return f"it returned {answer!r}, which is none of the names {', '.join(samplers)}"
    for label in ("the first", "the last", "the largest", "the smallest"):
        wrong, hint = MISALIGNED[label]
        if said == [wrong(samplers, a) for _, samplers, a, _ in rooms]:
            return hint
    missed = [
        (room, answer)
        for room, answer in zip(rooms, said, strict=True)
        if answer != room[3]
    ]
    kinds = {room[0] for room, _ in missed}
    if not missed:
        return None
    if len(kinds) == 1 and (label := OVERLOOKS.get(kinds.pop())):
        return MISALIGNED[label][1]
    (_, samplers, _, _), answer = missed[0]
    return f"of {', '.join(samplers)} you name {answer}, and its steps all end where they should"


define(misaligned, check_misaligned, MISALIGNED)


# --- shifted_mean ---


def factors(a_t, a_s):
    """c_0 and c_1 of DDPM's posterior mean c_0 x_0 + c_1 x_t, for any s < t."""
    lost = 1 - a_t / a_s
    return a_s**0.5 * lost / (1 - a_t), (a_t / a_s) ** 0.5 * (1 - a_s) / (1 - a_t)


def shifted_mean(x0, x_t, m, a_t, a_s):
    """E[x_s | x_t, x_0] = m + c_0 (x_0 - m) + c_1 (x_t - m): plain diffusion of x - m, moved back."""
    c0, c1 = factors(a_t, a_s)
    return m + c0 * (x0 - m) + c1 * (x_t - m)


def on_a_grid(x0, x_t, m, a_t, a_s):
    """Bayes' rule at 20,001 values of x_s: q(x_s | x_0) q(x_t | x_s), for each number on its own."""
    grid, kept = torch.linspace(-12, 12, 20001, dtype=torch.float64), a_t / a_s
    x0, x_t, m = (v[..., None] for v in torch.broadcast_tensors(x0, x_t, m))
    near = (grid - m - a_s.sqrt() * (x0 - m)).square() / (2 * (1 - a_s))
    far = (x_t - m - kept.sqrt() * (grid - m)).square() / (2 * (1 - kept))
    return (-near - far).softmax(-1) @ grid


def _mean(combine):
    """A wrong way to put x_0, x_t and m together with the right factors."""
    return lambda x0, x_t, m, a_t, a_s: combine(x0, x_t, m, *factors(a_t, a_s))


SHIFTED_MEAN: Mistakes = {
    "without m": (
        _mean(lambda x0, x_t, m, c0, c1: c0 * x0 + c1 * x_t),
        "let x_0 and x_t both be m: x_s lies around m too, but yours is pulled to 0. m does not enter",
    ),
    "m on top": (
        _mean(lambda x0, x_t, m, c0, c1: m + c0 * x0 + c1 * x_t),
        "let x_0 and x_t both be m: you land beyond m. From which point are x_0 and x_t measured in this forward "
        "process?",
    ),
    "m not put back": (
        _mean(lambda x0, x_t, m, c0, c1: c0 * (x0 - m) + c1 * (x_t - m)),
        "let x_0 and x_t both be m: yours is 0. You have the mean of x_s - m",
    ),
    "only x_t from m": (
        _mean(lambda x0, x_t, m, c0, c1: m + c0 * x0 + c1 * (x_t - m)),
        "at s = 0 nothing is left to guess, and yours is x_0 + m: one of the two is still measured from 0",
    ),
    "only x_0 from m": (
        _mean(lambda x0, x_t, m, c0, c1: m + c0 * (x0 - m) + c1 * x_t),
        "right at s = 0, where x_t has no say, and off before: from where is x_t measured?",
    ),
    "factors exchanged": (
        _mean(lambda x0, x_t, m, c0, c1: m + c1 * (x0 - m) + c0 * (x_t - m)),
        "as s goes to 0 your mean goes to x_t. Which of the two should x_s be close to then?",
    ),
    "DDIM's": (
        lambda x0, x_t, m, a_t, a_s: m + a_s**0.5 * (x0 - m)
        + ((1 - a_s) / (1 - a_t)) ** 0.5 * (x_t - m - a_t**0.5 * (x0 - m)),
        "m is where it belongs, but all the noise of x_t is kept and only rescaled: that is the step with eta = 0. "
        "In q some of it is new, so what is left of x_t in the mean?",
    ),
}  # fmt: skip


def check_shifted_mean(fn):
    x0, x_t = torch.randn(2, 4, 3, dtype=torch.float64)
    m = torch.tensor([0.8, -1.3, 2.0], dtype=torch.float64)
    for a in ((0.3, 0.7), (0.05, 0.1), (0.9, 0.95)):
        a_t, a_s = torch.tensor(a, dtype=torch.float64)
        if hint := compare(fn, on_a_grid, SHIFTED_MEAN, x0, x_t, m, a_t, a_s):
            return hint
    a_t, one = torch.tensor([0.4, 1.0], dtype=torch.float64)
    return (
        None
        if close(fn(x0, x_t, m, a_t, one), x0)
        else "at s = 0, where a_s = 1, the mean is x_0 itself"
    )


define(shifted_mean, check_shifted_mean, SHIFTED_MEAN)


# --- least_risk ---


def least_risk(risk, weights):
    """argmin_i sum_j risk[i, j] weights[j], the first if equal."""
    return int((risk @ weights).argmin())


def summed(risk, weights):
    """Python loops."""
    cost = [
        sum(r * w for r, w in zip(row, weights.tolist(), strict=True))
        for row in risk.tolist()
    ]
    return cost.index(min(cost))


LEAST_RISK: Mistakes = {
    "the most frequent": (
        lambda risk, weights: int(weights.argmax()),
        "you choose what was drawn most often and never look at the costs",
    ),
    "the greatest risk": (
        lambda risk, weights: int((risk @ weights).argmax()),
        "nothing costs more on average than what you choose: which end of a risk do you want?",
    ),
    "columns for rows": (
        lambda risk, weights: int((weights @ risk).argmin()),
        "risk is not symmetric, and you add up what it costs to say the others when yours is right. "
        "Which index is what you say?",
    ),
    "weights forgotten": (
        lambda risk, weights: int(risk.sum(1).argmin()),
        "a candidate that was drawn five times has no more say in your choice than one that was drawn once",
    ),
    "its own weight": (
        lambda risk, weights: int((risk * weights[:, None]).sum(1).argmin()),
        "you multiply what a candidate costs by how often it was drawn itself, so rare ones look cheap. "
        "Of which candidate do you ask how likely it is to be right?",
    ),
    "the worst case": (
        lambda risk, weights: int(risk.max(1).values.argmin()),
        "you guard against the worst case, however seldom it was drawn: what does 'expected' ask for?",
    ),
    "the last of equals": (
        lambda risk, weights: len(weights) - 1 - int((risk @ weights).flip(0).argmin()),
        "right but for ties: of two that cost the same you take the later one",
    ),
}  # fmt: skip


def candidates():
    """(risk, weights): whole numbers, so that there are ties; the weights sum to 8, so that no division breaks them."""
    found = []
    for _ in range(30):
        risk = torch.randint(1, 5, (4, 4)).double().fill_diagonal_(0)
        found.append((risk, 1 + torch.randint(4, (4,)).bincount(minlength=4).double()))
    return found


def check_least_risk(fn):
    cases = candidates()
    found = first_difference(
        lambda *case: int(fn(*(v.clone() for v in case))), summed, LEAST_RISK, cases
    )
    if not isinstance(found, tuple):
        return found
    (risk, weights), got, want = found
    table = f"risk {risk.int().tolist()} and weights {weights.int().tolist()}"
    return f"with {table} you choose number {got}, and number {want} has the least expected risk"


define(least_risk, check_least_risk, LEAST_RISK)


# --- importance ---


def importance(p, T):
    """w_t = 1 / (T p_t), so that sum_t p_t w_t L_t = (1 / T) sum_t L_t whatever L is."""
    return 1 / (T * p)


def one_at_a_time(p, T):
    """L = 1 at one t and 0 elsewhere: p_t w_t must be the mean of such an L."""
    return torch.stack([torch.eye(T, dtype=p.dtype)[t].mean() / p[t] for t in range(T)])


IMPORTANCE: Mistakes = {
    "the sum over t": (
        lambda p, T: 1 / p,
        "let every L_t be 1: their mean is 1, and what you expect is T",
    ),
    "the wrong way round": (
        lambda p, T: T * p,
        "times that are drawn often get large weights in yours: they would count for more twice over",
    ),
    "no weights": (
        lambda p, T: torch.ones_like(p),
        "without weights the mean is that under p, where large losses count for more: what undoes that?",
    ),
    "summing to 1": (
        lambda p, T: (1 / p) / (1 / p).sum(),
        "let p be uniform, where nothing needs correcting: what are your weights then, and what should they be?",
    ),
    "a mean of 1": (
        lambda p, T: (1 / p) / (1 / p).mean(),
        "right for a uniform p. For another one let every L_t be 1 and expect: "
        "which mean should be 1, the plain one of the weights or the one under p?",
    ),
    "a root": (
        lambda p, T: 1 / (T * p.sqrt()),
        "your weights undo half of it: p_t came from the root of a squared loss, but it is p_t that t is drawn with",
    ),
}  # fmt: skip


def check_importance(fn):
    for T in (6, 40):
        p = torch.rand(T, dtype=torch.float64) + 0.1
        if hint := compare(fn, one_at_a_time, IMPORTANCE, p / p.sum(), T):
            return hint
    return None


define(importance, check_importance, IMPORTANCE)


# --- braid ---


def braid(source, target, end):
    """x_1 y_1 x_2 y_2 ..., the shorter filled up with `end`."""
    return [
        word for pair in zip_longest(source, target, fillvalue=end) for word in pair
    ]


def by_places(source, target, end):
    """Even places for the source, odd ones for the target, `end` where nothing was put."""
    row = [end] * (2 * max(len(source), len(target)))
    row[0 : 2 * len(source) : 2], row[1 : 2 * len(target) : 2] = source, target
    return row


def _tail(fill):
    """x_1 y_1 ... as long as both have words, then something else."""

    def wrong(source, target, end):
        n = min(len(source), len(target))
        return [*braid(source[:n], target[:n], end), *fill(source[n:], target[n:], end)]

    return wrong


BRAID: Mistakes = {
    "one behind the other": (
        lambda source, target, end: [*source, *target],
        "your target begins where the source ends: how far is x_1 from y_1 in a braid?",
    ),
    "cut at the shorter": (
        _tail(lambda x, y, end: []),
        "words are lost: where does zip stop?",
    ),
    "target first": (
        lambda source, target, end: braid(target, source, end),
        "your rows begin with the target: whose word is the first?",
    ),
    "not filled up": (
        _tail(lambda x, y, end: [*x, *y]),
        "after the end of the shorter one, the words of the longer stand side by side. "
        "How would one tell from its place which of the two a word belongs to?",
    ),
    "one end": (
        _tail(lambda x, y, end: [*x[:1], end, *x[1:]] if x else [end, *y] if y else []),
        "the shorter one ends once, and then the braid does too: what stands between the words that are left?",
    ),
    "only the target filled up": (
        _tail(lambda x, y, end: braid(x, [], end) or y),
        "right where the source is the longer one: what stands beside a target that goes on?",
    ),
    "pairs": (
        lambda source, target, end: list(zip_longest(source, target, fillvalue=end)),
        "yours is a list of pairs: a row is a list of words",
    ),
    "None for the end": (
        lambda source, target, end: braid(source, target, None),
        "the filling is None, which is no word: the network is to say `end`",
    ),
}  # fmt: skip

ROWS = (
    ("abc", "xyz"),
    ("abcd", "x"),
    ("a", "xyzuv"),
    ("ab", ""),
    ("abc", "xy"),
    ("ab", "xyz"),
)


def check_braid(fn):
    for source, target in ROWS:
        got = fn(list(source), list(target), ".")
        if not isinstance(got, list):
            return f"it returned {type(got).__name__}, expected a list"
    cases = [(list(source), list(target), ".") for source, target in ROWS]
    found = first_difference(
        lambda x, y, end: fn([*x], [*y], end), by_places, BRAID, cases
    )
    if not isinstance(found, tuple):
        return found
    (source, target, _), got, want = found
    return f"of {source} and {target} with '.' for the end you make {got}, and {want} is expected"


define(braid, check_braid, BRAID)
