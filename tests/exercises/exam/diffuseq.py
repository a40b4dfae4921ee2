"""Answers to the exercises of chapter 5."""

import torch

from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- partial_noise ---


@wrong("diffuseq.partial_noise", "the source becomes 0", r"source|elsewhere|outside|not the target")
def source_lost(x0, target, alpha_bar, noise):
    a = alpha_bar[:, None, None]
    return target[..., None] * (a.sqrt() * x0 + (1 - a).sqrt() * noise)


@wrong("diffuseq.partial_noise", "the first row's alpha_bar for all rows", r"\brow|each|batch of one|first")
def first_row(x0, target, alpha_bar, noise):
    a = alpha_bar[0]
    return torch.where(target[..., None], a.sqrt() * x0 + (1 - a).sqrt() * noise, x0)


@right("diffuseq.partial_noise", "alpha_bar is 1 on the source")
def one_on_the_source(x0, target, alpha_bar, noise):
    a = torch.where(target, alpha_bar[:, None].expand(target.shape), torch.ones((), dtype=alpha_bar.dtype))
    return torch.einsum("bl,bld->bld", a.sqrt(), x0) + torch.einsum("bl,bld->bld", (1 - a).sqrt(), noise)


# --- target_loss ---


@wrong("diffuseq.target_loss", "divided by L", r"\bL\b|divi|length|number of target")
def over_L(loss, target):
    return (loss * target).mean(1)


@wrong("diffuseq.target_loss", "one mean for all rows", r"\brow|each|batch of one")
def mean_of_all(loss, target):
    return ((loss * target).sum() / target.sum()).expand(len(loss))


@right("diffuseq.target_loss", "row by row, by selection")
def by_selection(loss, target):
    return torch.stack([row[where].mean() for row, where in zip(loss, target, strict=True)])


# --- word_loss ---


@wrong("diffuseq.word_loss", "PAD is taken to cost nothing", r"\bpad")
def pad_is_free(reported, pad_loss, lengths, L):
    return reported * L * len(lengths) / sum(lengths)


@wrong("diffuseq.word_loss", "all rows as long as the first", r"lengths|\brow|as long|first")
def one_length(reported, pad_loss, lengths, L):
    n = lengths[0]
    return (L * reported - (L - n) * pad_loss) / n


@right("diffuseq.word_loss", "shares of words and PADs")
def by_shares(reported, pad_loss, lengths, L):
    share = sum(lengths) / (L * len(lengths))
    return pad_loss + (reported - pad_loss) / share


# --- misaligned ---


@wrong("diffuseq.misaligned", "tries neighbouring times alone", r"neighbour|t - 1|adjacent|gap|next to|apart")
def neighbours(samplers, alpha_bar):
    t, s = len(alpha_bar) // 2, len(alpha_bar) // 2 - 1
    x0, eps = torch.randn(2, 40, dtype=torch.float64)
    x_t = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps
    x_s = alpha_bar[s].sqrt() * x0 + (1 - alpha_bar[s]).sqrt() * eps
    off = {name: float((step(x_t, x0, t, s) - x_s).abs().max()) for name, step in samplers.items()}
    return max(off, key=off.get)


@wrong(
    "diffuseq.misaligned",
    "names the one that lands best",
    r"\bbest\b|right one|nearest|smallest|most|largest|\bmin",
)
def the_best(samplers, alpha_bar):
    t, s = 3 * len(alpha_bar) // 4, len(alpha_bar) // 4
    x0, eps = torch.randn(2, 40, dtype=torch.float64)
    x_t = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps
    x_s = alpha_bar[s].sqrt() * x0 + (1 - alpha_bar[s]).sqrt() * eps
    off = {name: float((step(x_t, x0, t, s) - x_s).abs().max()) for name, step in samplers.items()}
    return min(off, key=off.get)


@right("diffuseq.misaligned", "sums of squares over many pairs of times")
def many_pairs(samplers, alpha_bar):
    T = len(alpha_bar) - 1
    off = dict.fromkeys(samplers, 0.0)
    for t, s in [(T, T // 3), (2 * T // 3, T // 3), (T // 2, 1)]:
        x0, eps = torch.randn(64, dtype=torch.float64), torch.randn(64, dtype=torch.float64)
        x_t = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps
        x_s = alpha_bar[s].sqrt() * x0 + (1 - alpha_bar[s]).sqrt() * eps
        for name, step in samplers.items():
            off[name] += float((step(x_t, x0, t, s) - x_s).square().sum())
    return sorted(off, key=lambda name: off[name])[-1]


# --- shifted_mean ---


@wrong("diffuseq.shifted_mean", "m is added and never taken off", r"\bm\b")
def m_added(x0, x_t, m, a_t, a_s):
    c0 = a_s.sqrt() * (1 - a_t / a_s) / (1 - a_t)
    c1 = (a_t / a_s).sqrt() * (1 - a_s) / (1 - a_t)
    return c0 * x0 + c1 * x_t + m


@wrong("diffuseq.shifted_mean", "c1 without its root", r"\bx_t\b|\bc_?1\b|\broot\b")
def c1_no_root(x0, x_t, m, a_t, a_s):
    c0 = a_s.sqrt() * (1 - a_t / a_s) / (1 - a_t)
    c1 = a_t / a_s * (1 - a_s) / (1 - a_t)
    return m + c0 * (x0 - m) + c1 * (x_t - m)


@right("diffuseq.shifted_mean", "three weights that sum to 1")
def three_weights(x0, x_t, m, a_t, a_s):
    c0 = (a_s - a_t) / (a_s.sqrt() * (1 - a_t))
    c1 = a_t.sqrt() * (1 - a_s) / (a_s.sqrt() * (1 - a_t))
    return c0 * x0 + c1 * x_t + (1 - c0 - c1) * m


# --- least_risk ---


@wrong("diffuseq.least_risk", "the weights are not read", r"weights")
def unweighted(risk, weights):
    return int(risk.sum(1).argmin())


@wrong("diffuseq.least_risk", "the largest risk", r"least|largest|greatest|argmax|argmin|\bmost\b|highest")
def largest(risk, weights):
    return int((risk @ weights).argmax())


@right("diffuseq.least_risk", "lists and min")
def by_lists(risk, weights):
    costs = [sum(r * w for r, w in zip(row, weights.tolist(), strict=True)) for row in risk.tolist()]
    return min(range(len(costs)), key=costs.__getitem__)


# --- importance ---


@wrong("diffuseq.importance", "T is missing", r"\bT\b")
def no_T(p, T):
    return 1 / p


@wrong("diffuseq.importance", "upside down", r"upside|reciprocal|inverse|turned|1 / ")
def upside_down(p, T):
    return T * p


@right("diffuseq.importance", "logarithms")
def by_logs(p, T):
    return torch.exp(-torch.log(p) - torch.log(torch.tensor(float(T), dtype=p.dtype)))


# --- interleave ---


@wrong("diffuseq.interleave", "zip stops with the shorter", r"\bend\b|short|\bzip|missing|lost|long")
def zipped(source, target, end):
    return [word for pair in zip(source, target, strict=False) for word in pair]


@wrong("diffuseq.interleave", "the rest of the longer follows without end between", r"\bend\b|fill")
def rest_appended(source, target, end):
    n = min(len(source), len(target))
    both = [word for pair in zip(source[:n], target[:n], strict=True) for word in pair]
    return both + source[n:] + target[n:]


@right("diffuseq.interleave", "slices")
def by_slices(source, target, end):
    n = max(len(source), len(target))
    out = [end] * (2 * n)
    out[: 2 * len(source) : 2] = source
    out[1 : 2 * len(target) + 1 : 2] = target
    return out
