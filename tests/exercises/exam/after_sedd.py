"""Answers to the exercises of chapter 9."""

import torch
import torch.nn.functional as F

from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- keep_the_likelier ---


@wrong("after_sedd.keep_the_likelier", "the second stays where both are equal", r"\bequal|\btie|first")
def second_if_equal(p, q):
    first = p[:, None] > q[None, :]
    one, two = (q * first).sum(1), (p[:, None] * ~first).sum(0)
    return p[:, None] * q * (one[:, None] + two)


@wrong("after_sedd.keep_the_likelier", "nothing is drawn again", r"again|stays|independent|p q|product")
def both_stay(p, q):
    return p[:, None] * q[None, :]


@right("after_sedd.keep_the_likelier", "pairs in a loop")
def by_pairs(p, q):
    out = torch.zeros(len(p), len(q), dtype=p.dtype)
    for a in range(len(p)):
        for b in range(len(q)):
            if p[a] >= q[b]:
                out[a] += p[a] * q[b] * q
            else:
                out[:, b] += p[a] * q[b] * p
    return out


# --- how_many ---


@wrong(
    "after_sedd.how_many",
    "the largest is not taken off",
    r"\bmax\b|largest|taken off|comes off|least 1|at least one",
)
def sum_alone(H, gamma):
    return int((H.sort().values.cumsum(0) <= gamma).sum())


@wrong("after_sedd.how_many", "in the order given", r"sort|order|smallest")
def unsorted(H, gamma):
    return int((H.cumsum(0) - H <= gamma).sum())


@right("after_sedd.how_many", "a loop that stops")
def counted(H, gamma):
    n, total = 0, 0.0
    for h in sorted(H.tolist()):
        if total > gamma:
            break
        n, total = n + 1, total + h
    return n


# --- opens ---


@wrong("after_sedd.opens", "divided by the masks at s", r"alpha_s|alpha_t|divi")
def over_masks_at_s(alpha_t, alpha_s, sigma):
    return (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_s)


@wrong("after_sedd.opens", "tokens all stay", r"\bsigma\b")
def all_stay(alpha_t, alpha_s, sigma):
    return (alpha_s - alpha_t) / (1 - alpha_t)


@right("after_sedd.opens", "new tokens and those to be replaced")
def two_flows(alpha_t, alpha_s, sigma):
    return (alpha_s - alpha_t + sigma * alpha_t) / (1 - alpha_t)


# --- accept ---


@wrong("after_sedd.accept", "all positions' weights multiplied", r"position|chosen|\bi\b")
def all_positions(w_x, w_y, i):
    return (w_y.prod(1) / w_x.prod(1)).clamp(max=1)


@wrong("after_sedd.accept", "above 1", r"\b1\b|cut|probability")
def not_cut(w_x, w_y, i):
    rows = torch.arange(len(i))
    return w_y[rows, i] / w_x[rows, i]


@right("after_sedd.accept", "differences of logarithms")
def by_logs(w_x, w_y, i):
    rows = torch.arange(len(i))
    return torch.exp((w_y[rows, i].log() - w_x[rows, i].log()).clamp(max=0))


# --- who_sees ---


@wrong("after_sedd.who_sees", "noisy positions see their own block's answer", r"own block|answer|clean")
def sees_the_answer(length, block):
    of = torch.arange(length) // block
    past, same = of[:, None] >= of, of[:, None] == of
    return torch.cat([torch.cat([past, torch.zeros_like(past)], 1), torch.cat([past, same], 1)])


@wrong(
    "after_sedd.who_sees",
    "noisy positions see all earlier noise",
    r"noisy|noise|earlier|same block|own block",
)
def sees_noise(length, block):
    of = torch.arange(length) // block
    past, before = of[:, None] >= of, of[:, None] > of
    return torch.cat([torch.cat([past, torch.zeros_like(past)], 1), torch.cat([before, past], 1)])


@right("after_sedd.who_sees", "pair by pair")
def pair_by_pair(length, block):
    def sees(i, j):
        bi, bj = i % length // block, j % length // block
        if i < length:
            return j < length and bj <= bi
        return bj < bi if j < length else bj == bi

    return torch.tensor([[sees(i, j) for j in range(2 * length)] for i in range(2 * length)])


# --- others_only ---


@wrong("after_sedd.others_only", "multiplied", r"multipl|divi|second time|twice")
def multiplied(posterior, x, alpha):
    K = posterior.shape[-1]
    left = posterior * (alpha * F.one_hot(x, K) + (1 - alpha) / K)
    return left / left.sum(-1, keepdim=True)


@wrong("after_sedd.others_only", "the noise over K - 1", r"K - 1|/ K|\bK\b|itself|q\(x_t")
def over_others(posterior, x, alpha):
    K = posterior.shape[-1]
    left = posterior / (alpha * F.one_hot(x, K) + (1 - alpha) / (K - 1))
    return left / left.sum(-1, keepdim=True)


@right("after_sedd.others_only", "the seen token's odds lowered")
def odds(posterior, x, alpha):
    K = posterior.shape[-1]
    at = x[:, None]
    left = posterior.scatter(1, at, posterior.gather(1, at) / (1 + K * alpha / (1 - alpha)))
    return left / left.sum(1, keepdim=True)


# --- mask_rates ---


@wrong("after_sedd.mask_rates", "the last column is 0", r"last|MASK|\brows?\b|sums? to 0")
def no_way_out(p, kappa, slope, eta):
    rate = (slope + eta * kappa) / (1 - kappa)
    return torch.cat([rate * p, 0 * p[:, :1]], 1)


@wrong("after_sedd.mask_rates", "eta without kappa", r"\bkappa\b|\beta\b")
def eta_alone(p, kappa, slope, eta):
    into = (slope + eta) / (1 - kappa) * p
    return torch.cat([into, -into.sum(1, keepdim=True)], 1)


@right("after_sedd.mask_rates", "padded")
def padded(p, kappa, slope, eta):
    rate = slope / (1 - kappa) + eta * kappa / (1 - kappa)
    full = F.pad(p * rate, (0, 1))
    full[:, -1] = -rate * p.sum(1)
    return full


# --- residual ---


@wrong("after_sedd.residual", "not normalised", r"\bsums?\b|normali")
def not_normalised(p, q):
    return (p - q).clamp(min=0)


@wrong("after_sedd.residual", "what q has more than p", r"q has|p has|swap|places|wrong way|exchang|turned")
def other_way(p, q):
    more = (q - p).clamp(min=0)
    return more / more.sum(-1, keepdim=True)


@right("after_sedd.residual", "p less the smaller of both, over the rejections")
def less_the_accepted(p, q):
    kept = torch.minimum(p, q)
    return (p - kept) / (1 - kept.sum(1, keepdim=True))
