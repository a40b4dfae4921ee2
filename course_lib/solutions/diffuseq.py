"""Chapter 5, DiffuSeq: the reference answers, what is asked of an answer, and the classic wrong ones.

A batch has B rows of L positions, vectors of D numbers; target (B, L) is True where the target stands; alpha_bar is
a table of T + 1 entries with alpha_bar[0] = 1, or its entries. The truths count by hand, put the mean on a grid, or let
samplers loose on an x_t whose x_0 and noise are known. A wrong answer in quotes is the reference, changed like that.
"""

import random
from itertools import zip_longest

import torch

from ..cases import normal, numbers, uniform
from ..checks import at_least, at_most, case
from ..exercise import define


def targets(*rows):
    """Rows of . and x as a mask: True at x."""
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


# --- partial_noise ---


def partial_noise(x0, target, alpha_bar, noise):
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise on the target, x_0 elsewhere."""
    abar, where = alpha_bar[:, None, None], target[..., None]
    signal, spread = abar.sqrt(), (1 - abar).sqrt()
    return torch.where(where, signal * x0 + spread * noise, x0)


def place_by_place(x0, target, alpha_bar, noise):
    """Python loops."""
    x_t = x0.clone()
    for b, i in target.nonzero().tolist():
        a = alpha_bar[b]
        x_t[b, i] = a.sqrt() * x0[b, i] + (1 - a).sqrt() * noise[b, i]
    return x_t


define(
    partial_noise,
    truth=place_by_place,
    cases=lambda: [
        (normal(2, 4, 5), targets("..xx", ".x.x"), numbers(0.5, 0.2), normal(2, 4, 5)),
        # B = L = D: a wrong axis raises no error
        (
            normal(3, 3, 3),
            targets(".xx", "..x", ".x."),
            numbers(0.9, 0.4, 0.1),
            normal(3, 3, 3),
        ),
    ],
    limits={
        "at alpha_bar = 1, t is 0 and nothing has happened": {
            "alpha_bar": numbers(1.0, 1.0)
        },
        "at alpha_bar = 0 the target is noise, and the source what it was": {
            "alpha_bar": numbers(0.0, 0.0)
        },
    },
    ignores={
        "no noise falls on the source": {
            "noise": lambda a: torch.where(a.target[..., None], a.noise, a.noise + 1)
        }
    },
    linear_in=("x0", "noise"),
    mistakes="""
    all noised
        target[..., None] -> torch.ones_like(target)[..., None]
        the source is noised like the target. What is the network to read x from, if it learns p(y | x)?
    source zeroed
        signal * x0 + spread * noise, x0) -> signal * x0 + spread * noise, 0)
        your source is all zeros: a product with a mask leaves 0 where the mask is False. What should stand there?
    only the noise is masked
        spread * noise, x0) -> spread * noise, signal * x0)
        no noise falls on your source, yet it shrinks as t grows: is the other factor for the source too?
    the mask the wrong way round
        target[..., None] -> ~target[..., None]
        your target is clean and your source is noise. Which of the two is to be generated?
    x_0 not scaled
        signal * x0 + -> x0 +
        with alpha_bar near 0 your target still holds all of x_0: what should be left of it then?
    one time per number
        alpha_bar[:, None, None] -> alpha_bar
        alpha_bar runs along the numbers of a vector, though each row has its own time: which axis holds the rows?
    the mask on the wrong axes
        target[..., None] -> target
        some vectors are half noised: your mask lies over (L, D). Which axis is it short of?
    """,
)


# --- target_loss ---


def target_loss(loss, target):
    """Mean over each row's target positions, (B,)."""
    total, words = (loss * target).sum(1), target.sum(1)
    return total / words


def row_by_row(loss, target):
    """What stands at the target's positions, averaged."""
    means = [row[where].mean() for row, where in zip(loss, target, strict=True)]
    return torch.stack(means)


def _one_free(loss):
    """The second word of each row costs 0."""
    loss[:, 1] = 0
    return loss


define(
    target_loss,
    truth=row_by_row,
    cases=lambda: [
        (5 * torch.rand(2, 3).double(), targets(".xx", "..x")),
        (5 * torch.rand(3, 5).double(), targets("..xx.", "xxx..", "...x.")),
        # a word may cost nothing, and counts all the same
        (_one_free(5 * torch.rand(2, 4).double()), targets("xxx.", ".xxx")),
        # B = L: a wrong axis raises no error
        (5 * torch.rand(4, 4).double(), targets(".xx.", "..xx", "xxx.", "..x.")),
    ],
    limits={
        "where every target position costs 2, so does the row": {
            "loss": lambda a: 0 * a.loss + 2
        }
    },
    ignores={
        "what source and PAD cost has no say": {
            "loss": lambda a: torch.where(a.target, a.loss, a.loss + 1)
        }
    },
    factors={"the number of target positions": lambda a: a.target.sum(1)},
    gradients=("loss",),
    mistakes="""
    divided by L
        target.sum(1) -> loss.shape[1]
        let every target position cost 2: your row costs less than 2. How many zeros are in your mean?
    the same, for each row
        return total / words -> return loss[target].mean().expand(len(loss))
        all rows have the same loss, the mean over the targets of the batch: each row is to have its own
    one length for the batch
        target.sum(1) -> target.sum(1).double().mean()
        all your rows are divided by the same number, though their targets are not of one length
    the mask the wrong way round
        total, words = -> target = ~target; total, words =
        you average what is not the target: source and PAD
    down the columns
        (loss * target).sum(1), target.sum(1) -> (loss * target).sum(0), target.sum(0)
        your mean is over the rows at one position: it should be over the positions of one row
    what costs nothing does not count
        target.sum(1) -> ((loss * target) != 0).sum(1)
        you count the positions whose loss is not 0. A word may cost nothing and belongs to the mean all the same
    """,
)


# --- word_loss ---


def word_loss(reported, pad_loss, lengths, L):
    """All positions cost B L reported; less what the PADs cost, this is what the words cost; per word."""
    positions, words = len(lengths) * L, sum(lengths)
    pads = positions - words
    return (positions * reported - pads * pad_loss) / words


def a_log(lengths, L, pad_loss):
    """What a training run would report, and what its words cost: word losses drawn, the rest of each row PAD."""
    words = torch.arange(L) < torch.tensor(lengths)[:, None]
    costs = 1 + 6 * torch.rand(len(lengths), L, dtype=torch.float64)
    loss = torch.where(words, costs, pad_loss)
    return case(loss.mean().item(), pad_loss, lengths, L, want=loss[words].mean())


define(
    word_loss,
    cases=lambda: [
        a_log([3, 5], 6, 0.1),
        a_log([3, 9, 2, 12, 5], 16, 0.05),
        a_log([3, 9, 2], 128, 0.5),
    ],
    limits={
        "where PAD costs 0, words 4 and half of the positions are words, the log says 2, and words cost 4": {
            "reported": 2.0,
            "pad_loss": 0.0,
            "lengths": [2, 4],
            "L": 6,
        },
        "a batch without PAD has nothing to correct": {"lengths": [6, 6]},
    },
    linear_in=("reported", "pad_loss"),
    read=lambda got, a: torch.as_tensor(got, dtype=torch.float64),
    factors={
        "the number of words": lambda a: float(sum(a.lengths)),
        "the share of words": lambda a: sum(a.lengths) / len(a.lengths) / a.L,
    },
    mistakes="""
    as reported
        return (positions * reported - pads * pad_loss) / words -> return reported
        you believe the log. How many of the L positions that it averages hold a word?
    PAD for free
        positions * reported - pads * pad_loss -> positions * reported
        you divide by the number of words, but the sum that you divide was run up by more than words
    PAD's loss subtracted
        (positions * reported - pads * pad_loss) / words -> reported - pad_loss
        a batch without PAD has nothing to correct, and yours is corrected: how many positions pay pad_loss?
    not per word
        / words -> / positions
        let PAD cost 0, words 4 nats, and half of each row be words: the log says 2, and so do you. By which
        number is your sum divided?
    row by row
        return (positions -> return sum((L * reported - (L - n) * pad_loss) / n for n in lengths) /
            len(lengths); (positions
        you take reported for the mean of each single row, and it is the mean of all of them: of what do you
        know the sum?
    words and PAD exchanged
        pads = positions - words -> words, pads = max(positions - words, 1), words
        pad_loss is taken off once for each word, and what is left is divided by the number of PADs
    one row
        positions * reported -> L * reported
        you set the PADs and words of the whole batch against the sum of one row: of how many positions is
        reported the mean?
    as long as the longest
        words = len(lengths) * L, sum(lengths) -> words = len(lengths) * L, len(lengths) * max(lengths)
        you count every row as if it were as long as the longest: each has its own number of words
    as long as the first
        words = len(lengths) * L, sum(lengths) -> words = len(lengths) * L, len(lengths) * lengths[0]
        you count every row as if it were as long as the first: each has its own number of words
    """,
)


# --- misaligned ---


def misaligned(samplers, alpha_bar):
    """The one whose step from x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps misses x_s, made of the same x_0 and eps.

    The gap is above 1 and s above 0.
    """
    t, s = 3 * len(alpha_bar) // 4, len(alpha_bar) // 4
    x0, eps = normal(2, 50)
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
    "a sampler that goes to t - 1": {"signal": _before, "noise": _before},
    "a sampler that reads the noise of t - 1": {"read": lambda t, s: max(t - 1, 1)},
    "a sampler that goes to s + 1": {"signal": _after, "noise": _after},
    "a sampler that goes to s - 1": {"signal": _beyond, "noise": _beyond},
    "a sampler with the noise of s + 1": {"noise": _after},
    "a sampler with the signal of s + 1": {"signal": _after},
    "the one of two that goes to s + 1": {"signal": _after, "noise": _after},
}
NAMES = ("amber", "birch", "cedar", "dune", "ember")


class Asked:
    """The times that samplers are asked about, until the first answer is given."""

    def __init__(self):
        self.times, self.open = [], True

    def heard(self, step):
        """The same sampler; it notes from where to where it is asked to go."""

        def same(x, x0, t, s):
            if self.open:
                self.times.append([float(torch.as_tensor(k).max()) for k in (t, s)])
            return step(x, x0, t, s)

        same.asked = self
        return same


def _answered(got, a):
    """The answer; what is asked from now on others ask."""
    asked_of(a).open = False
    return got


def asked_of(a):
    return next(iter(a.samplers.values())).asked


def too_easy(got, a):
    """Steps in which one of the wrong samplers is right."""
    times = asked_of(a).times
    if not times:
        return "you name one and have called none: which step would show that a sampler is wrong?"
    if all(t - s == 1 for t, s in times):
        return (
            "all your steps go from t to t - 1, and there a sampler that goes to t - 1, "
            "whatever s is, does right: what if the grid has gaps?"
        )
    if all(s == 0 for _, s in times):
        return (
            "all your steps end at s = 0, where no noise is left: with which noise x_t "
            "was read does not show there"
        )
    return None


def line_ups():
    """Samplers, alpha_bar and the culprit, three times of each kind, in random order under random names."""
    found = []
    for i, kind in enumerate(3 * list(KINDS)):
        a = 0.99 - 0.96 * torch.linspace(0, 1, 25 + i, dtype=torch.float64).sqrt()
        a[0] = 1.0
        names = random.sample(NAMES, 2 if "of two" in kind else 5)
        # Never always the first or the last
        culprit = 1 + i % (len(names) - 1) if i < 2 * len(KINDS) else 0
        steps = random.sample(ways(a), len(names))
        steps[culprit] = wrong_times(a, **KINDS[kind])
        room = dict(zip(names, map(Asked().heard, steps), strict=True))
        found.append(case(room, a, name=kind, want=names[culprit]))
    return found


def _probe(times, x0=1.0, eps=1.0):
    """The mistake of too easy a test, with these times and this much x_0 and noise: the first to fail, or the first."""

    def wrong(samplers, a):
        t, s = times(len(a) - 1)
        clean = x0 * torch.linspace(-2, 1, 9).double()
        noise = eps * torch.linspace(1, 2, 9).double()
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


define(
    misaligned,
    cases=line_ups,
    draws=None,
    properties=(
        lambda got, a: (
            None
            if got in a.samplers
            else f"it returned {got!r}, which is none of the names {', '.join(a.samplers)}"
        ),
        too_easy,
    ),
    read=_answered,
    mistakes="""
    the first
        = next(iter(samplers))
        in every line-up you name the first: do its steps say so? For which x_t would you know what x_s must be?
    the last
        = list(samplers)[-1]
        in every line-up you name the last: do its steps say so?
    from t to t - 1
        _probe(lambda T: (T // 2, T // 2 - 1))
        you let one get away that misses s only where the grid has gaps. Which steps did you try?
    the last step
        _probe(lambda T: (T // 2, 0))
        you let one get away that reads the wrong noise out of x_t. Would that show in a step that ends at s = 0?
    the mean
        _probe(lambda T: (3 * T // 4, T // 4), eps=0.0)
        you let one get away whose x_0 has the right factor, and whose noise has not. Was there noise in your x_t?
    the noise
        _probe(lambda T: (3 * T // 4, T // 4), x0=0.0)
        you let one get away whose noise has the right factor, and whose x_0 has not. Was your x_0 more than 0?
    the odd one out
        _odd_one_out
        of two samplers each is as far from the other, and you are lost: what can you say of x_s without asking
        another sampler?
    the largest
        = _by_size(samplers, alpha_bar, 1)
        you name the one with the largest x_s. Would a step with too little noise be found like this?
    the smallest
        = _by_size(samplers, alpha_bar, -1)
        you name the one with the smallest x_s. Would a step that leaves too much noise be found like this?
    """,
)


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
    if a_s == 1:
        return x0  # nothing is left to guess
    grid, kept = torch.linspace(-12, 12, 20001, dtype=torch.float64), a_t / a_s
    x0, x_t, m = (v[..., None] for v in torch.broadcast_tensors(x0, x_t, m))
    near = (grid - m - a_s.sqrt() * (x0 - m)).square() / (2 * (1 - a_s))
    far = (x_t - m - kept.sqrt() * (grid - m)).square() / (2 * (1 - kept))
    return (-near - far).softmax(-1) @ grid


define(
    shifted_mean,
    truth=on_a_grid,
    cases=lambda: [
        (normal(B, D), normal(B, D), normal(D), *numbers(*a))
        for B, D, a in ((2, 3, (0.3, 0.7)), (4, 2, (0.05, 0.1)), (3, 5, (0.9, 0.95)))
    ],
    limits={
        "at s = 0, where a_s = 1, the mean is x_0 itself": {"a_s": numbers(1.0)[0]},
        "let x_0 and x_t both be m: x_s lies around m, too": {
            "x0": lambda a: a.m.expand_as(a.x0),
            "x_t": lambda a: a.m.expand_as(a.x_t),
        },
    },
    linear_in=("x0", "x_t", "m"),
    mistakes="""
    without m
        m + c0 * (x0 - m) + c1 * (x_t - m) -> c0 * x0 + c1 * x_t
        let x_0 and x_t both be m: x_s lies around m too, but yours is pulled to 0. m does not enter
    m on top
        c0 * (x0 - m) + c1 * (x_t - m) -> c0 * x0 + c1 * x_t
        let x_0 and x_t both be m: you land beyond m. From which point are x_0 and x_t measured in this forward
        process?
    m not put back
        return m + -> return
        let x_0 and x_t both be m: yours is 0. You have the mean of x_s - m
    only x_t from m
        (x0 - m) -> x0
        at s = 0 nothing is left to guess, and yours is x_0 + m: one of the two is still measured from 0
    only x_0 from m
        (x_t - m) -> x_t
        right at s = 0, where x_t has no say, and off before: from where is x_t measured?
    DDIM's
        c0, c1 = factors(a_t, a_s) -> c1 = ((1 - a_s) / (1 - a_t)) ** 0.5; c0 = a_s**0.5 - c1 * a_t**0.5
        m is where it belongs, but all the noise of x_t is kept and only rescaled: that is the step with eta = 0.
        In q some of it is new, so what is left of x_t in the mean?
    """,
)


# --- least_risk ---


def least_risk(risk, weights):
    """argmin_i sum_j risk[i, j] weights[j], the first if equal."""
    expected = risk @ weights
    return int(expected.argmin())


def summed(risk, weights):
    """Python loops."""
    w = weights.tolist()
    cost = [sum(r * v for r, v in zip(row, w, strict=True)) for row in risk.tolist()]
    return cost.index(min(cost))


def _candidates(N):
    """Whole numbers, so that there are ties; the weights sum to 8, so that no division breaks them."""
    risk = torch.randint(1, 5, (N, N)).double().fill_diagonal_(0)
    return risk, 1 + torch.randint(N, (8 - N,)).bincount(minlength=N).double()


define(
    least_risk,
    truth=summed,
    cases=lambda: [_candidates(N) for N in (2, 3, 5, *30 * [4])],
    read=lambda got, a: int(got),
    mistakes="""
    the most frequent
        expected.argmin -> weights.argmax
        you choose what was drawn most often and never look at the costs
    the greatest risk
        expected.argmin -> expected.argmax
        nothing costs more on average than what you choose: which end of a risk do you want?
    columns for rows
        risk @ weights -> weights @ risk
        risk is not symmetric, and you add up what it costs to say the others when yours is right. Which index is
        what you say?
    its own weight
        risk @ weights -> (risk * weights[:, None]).sum(1)
        you multiply what a candidate costs by how often it was drawn itself, so rare ones look cheap. Of which
        candidate do you ask how likely it is to be right?
    the worst case
        risk @ weights -> risk.max(1).values
        you guard against the worst case, however seldom it was drawn: what does 'expected' ask for?
    the last of equals
        expected.argmin() -> len(weights) - 1 - expected.flip(0).argmin()
        right but for ties: of two that cost the same you take the later one
    """,
)


# --- wrong_share ---


def wrong_share(p, power):
    """Share of wrong answers: the truth is drawn from p (B, N), the answer from q ~ p^power; 1 - sum_y p q, (B,)."""
    q = p**power
    q = q / q.sum(-1, keepdim=True)
    return 1 - (p * q).sum(-1)


def pair_by_pair(p, power):
    """All pairs of a truth and another answer."""
    shares = []
    for row in p.tolist():
        raised = [v**power for v in row]
        said = [v / sum(raised) for v in raised]
        pairs = [(i, j) for i in range(len(row)) for j in range(len(row)) if i != j]
        shares.append(sum(row[i] * said[j] for i, j in pairs))
    return torch.tensor(shares, dtype=p.dtype)


def _answers(B, N):
    p = uniform(B, N) + 0.1
    return p / p.sum(-1, keepdim=True)


define(
    wrong_share,
    truth=pair_by_pair,
    cases=lambda: [(_answers(2, 3), 1.7), (_answers(5, 4), 0.6), (_answers(3, 6), 3.0)],
    limits={
        "at power 1 answers are fair draws, as the truth is: 1 - sum p^2": {
            "power": 1.0
        },
        "at power 0 all N answers are as likely: 1 - 1 / N": {"power": 0.0},
        "at a large power only the likeliest answer is given: 1 - max p": {
            "power": 300.0
        },
    },
    properties=(
        at_least(0, "it is a share"),
        at_most(1, "it is a share"),
    ),
    mistakes="""
    fair draws
        q = p**power -> q = p
        the power changes nothing in yours: who answers, and from which distribution?
    the likeliest
        return 1 - (p * q).sum(-1) -> return 1 - p.amax(-1)
        you always give the likeliest answer. That is the limit of a large power, and at power 1 answers are drawn
    the truth sharpened, too
        1 - (p * q).sum(-1) -> 1 - (q * q).sum(-1)
        you draw the truth from the sharpened distribution, too. How people speak does not change with the sampler
    not normalised
        q = q / q.sum(-1, keepdim=True) -> q = q * 1.0
        p to a power does not add up to 1: it is no distribution yet
    a temperature
        p**power -> p ** (1 / max(power, 1e-2))
        the larger your power the flatter the answers: a power is one over a temperature
    the right ones
        return 1 - (p * q) -> return (p * q)
        that is the share of right answers
    """,
)


# --- importance ---


def importance(p, T):
    """w_t = 1 / (T p_t), so that sum_t p_t w_t L_t = (1 / T) sum_t L_t whatever L is."""
    return 1 / (T * p)


def one_at_a_time(p, T):
    """L = 1 at one t and 0 elsewhere: p_t w_t must be the mean of such an L."""
    return torch.stack([torch.eye(T, dtype=p.dtype)[t].mean() / p[t] for t in range(T)])


def unbiased(got, a):
    """Every L_t = 1 has the mean 1, under p and with the weights."""
    mean = (got.double() * a.p).sum().item()
    return (
        None
        if abs(mean - 1) < 1e-4
        else f"let every L_t be 1: their mean is 1, and what you expect under p is {mean:.4g}"
    )


def _chances(T):
    p = uniform(T) + 0.1
    return p / p.sum(), T


define(
    importance,
    truth=one_at_a_time,
    cases=lambda: [_chances(T) for T in (3, 6, 40)],
    limits={
        "where p is uniform nothing needs correcting": {"p": lambda a: 0 * a.p + 1 / 3}
    },
    properties=(at_least(0), unbiased),
    mistakes="""
    the wrong way round
        1 / (T * p) -> T * p
        times that are drawn often get large weights in yours: they would count for more twice over
    no weights
        1 / (T * p) -> torch.ones_like(p)
        without weights the mean is that under p, where large losses count for more: what undoes that?
    summing to 1
        1 / (T * p) -> (1 / p) / (1 / p).sum()
        let p be uniform, where nothing needs correcting: what are your weights then, and what should they be?
    a mean of 1
        1 / (T * p) -> (1 / p) / (1 / p).mean()
        right for a uniform p. For another one let every L_t be 1 and expect: which mean should be 1, the plain
        one of the weights or the one under p?
    """,
)


# --- interleave ---


def interleave(source, target, end):
    """x_1 y_1 x_2 y_2 ..., the shorter filled up with `end`."""
    pairs = zip_longest(source, target, fillvalue=end)
    return [word for pair in pairs for word in pair]


def by_places(source, target, end):
    """Even places for the source, odd ones for the target, `end` where nothing was put."""
    row = [end] * (2 * max(len(source), len(target)))
    row[0 : 2 * len(source) : 2], row[1 : 2 * len(target) : 2] = source, target
    return row


def _tail(fill):
    """x_1 y_1 ... as long as both have words, then something else."""

    def wrong(source, target, end):
        n = min(len(source), len(target))
        return [
            *interleave(source[:n], target[:n], end),
            *fill(source[n:], target[n:], end),
        ]

    return wrong


define(
    interleave,
    truth=by_places,
    cases=lambda: [
        (list(source), list(target), ".")
        for source, target in (
            ("a", "xy"),
            ("abc", "xyz"),
            ("abcd", "x"),
            ("a", "xyzuv"),
            ("abc", "xy"),
            ("ab", "xyz"),
        )
    ],
    limits={
        "where there is no target its places are filled up": {
            "source": list("ab"),
            "target": [],
        }
    },
    mistakes="""
    one behind the other
        return [word -> return [*source, *target] or [word
        your target begins where the source ends: how far is x_1 from y_1 in the interleaved row?
    cut at the shorter
        zip_longest(source, target, fillvalue=end) -> zip(source, target)
        words are lost: where does zip stop?
    target first
        zip_longest(source, target, -> zip_longest(target, source,
        your rows begin with the target: whose word is the first?
    not filled up
        _tail(lambda x, y, end: [*x, *y])
        after the end of the shorter one, the words of the longer stand side by side. How would one tell from its
        place which of the two a word belongs to?
    one end
        _tail(lambda x, y, end: [*x[:1], end, *x[1:]] if x else [end, *y] if y else [])
        the shorter one ends once, and then the row does too: what stands between the words that are left?
    only the target filled up
        _tail(lambda x, y, end: interleave(x, [], end) or y)
        right where the source is the longer one: what stands beside a target that goes on?
    pairs
        [word for pair in pairs for word in pair] -> list(pairs)
        yours is a list of pairs: a row is a list of words
    None for the end
        fillvalue=end -> fillvalue=None
        the filling is None, which is no word: the network is to say end
    """,
)
