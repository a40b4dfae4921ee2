"""Chapter 9, after SEDD: the reference answers, what is asked of an answer, and the classic wrong ones.

Tokens are 0..V-1 and MASK is V. The truths go through positions, pairs of tokens and states one at a time.
A wrong answer in quotes is the reference with that text changed.
"""

import torch
import torch.nn.functional as F

from ..cases import laws, numbers, uniform
from ..checks import at_least, at_most, case, law
from ..exercise import define

# --- keep_the_likelier ---


def one_in_all(got, a):
    """All entries together sum to 1."""
    total = got.sum().item()
    if abs(total - 1) > 1e-6:
        return f"your probabilities of all pairs must sum to 1, but sum to {total:.3g}"
    return None


def keep_the_likelier(p, q):
    """The distribution (V, W) of two independent tokens, where both are drawn, the one of the higher probability stays
    (the first if equal), and the other is drawn again."""
    first_stays = p[:, None] >= q[None, :]
    # Of each first token: how often it wins.
    stays_1 = (q[None, :] * first_stays).sum(1)
    stays_2 = (p[:, None] * ~first_stays).sum(0)
    return p[:, None] * q[None, :] * (stays_1[:, None] + stays_2[None, :])


def all_draws(p, q):
    """Both draws and the second draw, every outcome added up."""
    out = torch.zeros(len(p), len(q), dtype=torch.float64)
    for a in range(len(p)):
        for b in range(len(q)):
            if p[a] >= q[b]:
                out[a] += p[a] * q[b] * q
            else:
                out[:, b] += p[a] * q[b] * p
    return out


define(
    keep_the_likelier,
    truth=all_draws,
    cases=lambda: [
        (laws(3), laws(4)),
        (laws(5), laws(2)),
        (numbers(0.5, 0.3, 0.2), numbers(0.5, 0.25, 0.25)),
    ],
    limits={
        "if the first token is certain it always stays, and the second keeps its distribution": {
            "p": lambda a: F.one_hot(torch.tensor(1), len(a.p)).double()
        },
        "with two flat distributions nothing is chosen twice: the product is left": {
            "p": lambda a: torch.full_like(a.p, 1 / len(a.p)),
            "q": lambda a: torch.full_like(a.q, 1 / len(a.q)),
        },
    },
    properties=(one_in_all,),
    mistakes="""
    the product
        * (stays_1[:, None] + stays_2[None, :]) ->
        this is p times q, the model's own distribution. It is what one gets if the position is chosen; here the
        drawn tokens choose it, and likely tokens win
    sharpened
        = (p ** 2)[:, None] * (q ** 2)[None, :] / ((p ** 2).sum() * (q ** 2).sum())
        you sharpen both distributions, as a temperature of 1/2 does. It goes the same way, but what wins depends
        on the other token, too: go through all pairs of draws
    the numbers compared
        p[:, None] >= q[None, :] -> torch.arange(len(p))[:, None] >= torch.arange(len(q))[None, :]
        you compare the numbers of the tokens; compare their probabilities
    the loser stays
        >= -> <
        you keep the less probable of the two drawn tokens
    """,
)


# --- how_many ---


def how_many(H, gamma):
    """The largest n such that the n smallest entropies of H have sum - max <= gamma; at least 1."""
    sure = H.sort().values  # the least uncertain first
    before = sure.cumsum(0) - sure  # the largest of the first n is the n-th
    return int((before <= gamma).sum())


def by_trying(H, gamma):
    """Every n from 1 on."""
    sure_first, best = sorted(H.tolist()), 1
    for n in range(1, len(sure_first) + 1):
        if sum(sure_first[:n]) - max(sure_first[:n]) <= gamma:
            best = n
    return best


define(
    how_many,
    truth=by_trying,
    cases=lambda: [
        (numbers(0.9, 0.1, 0.4, 0.35, 1.2), 0.55),
        (numbers(0.3, 0.2, 0.8, 0.25, 0.6, 0.1, 1.5), 1.5),
        (numbers(1.1, 0.7), 0.3),
        (numbers(0.5, 0.25, 1.0, 0.25), 0.5),  # exactly gamma
        (numbers(0.7, 0.9, 0.5, 0.6), 0.65),
        (numbers(0.2, 0.2, 0.2, 0.2, 0.2, 0.9), 0.7),
    ],
    limits={
        "at gamma = 0 one position opens, and nothing is lost": {"gamma": 0.0},
        "at a large gamma all of them open": {"gamma": 99.0},
    },
    ignores={
        "the order of the entropies has no say": {"H": lambda a: a.H.sort().values}
    },
    mistakes="""
    the largest entropy counted
        sure.cumsum(0) - sure -> sure.cumsum(0)
        you compare the whole sum with gamma. The largest entropy comes off: one position alone loses nothing,
        however uncertain it is
    not sorted
        sure = H.sort().values -> sure = H
        the entropies come in any order: open the least uncertain positions first
    the most uncertain first
        H.sort().values -> H.sort(descending=True).values
        you begin with the most uncertain positions, and open fewer than you may
    one too few
        return int((before <= gamma).sum()) -> return int((before <= gamma).sum()) - 1
        one less than possible: count the positions, not the steps between them
    sum less the smallest
        sure.cumsum(0) - sure -> sure.cumsum(0) - sure[0]
        you take the smallest entropy off. The bound takes the largest off, which allows more positions
    the largest of all
        sure.cumsum(0) - sure -> sure.cumsum(0) - H.max()
        you take off the largest of all entropies. The bound takes off the largest of the n that open
    below gamma
        before <= gamma -> before < gamma
        right but where sum - max is exactly gamma: that many may still open
    """,
)


# --- opens ---


def opens(alpha_t, alpha_s, sigma):
    """How likely a mask at t is a token at s, where a token is masked again with probability sigma."""
    stay = (1 - sigma) * alpha_t  # tokens at t that are still there at s
    return (alpha_s - stay) / (1 - alpha_t)


def balance(alpha_t, alpha_s, sigma):
    """By bisection: what keeps the share of tokens at alpha_s."""
    low, high = torch.full_like(alpha_t, -5.0), torch.full_like(alpha_t, 5.0)
    for _ in range(80):
        middle = (low + high) / 2
        share = (1 - sigma) * alpha_t + middle * (1 - alpha_t)
        low = torch.where(share < alpha_s, middle, low)
        high = torch.where(share < alpha_s, high, middle)
    return (low + high) / 2


def falling_alphas(n):
    """alpha_t < alpha_s, and a sigma that is allowed."""
    u = uniform(3, n)
    alpha_t = 0.1 + 0.6 * u[0]
    alpha_s = alpha_t + (0.95 - alpha_t) * u[1]
    return alpha_t, alpha_s, u[2] * torch.clamp((1 - alpha_s) / alpha_t, max=1.0)


define(
    opens,
    truth=balance,
    cases=lambda: [falling_alphas(4), falling_alphas(7)],
    limits={
        "at sigma = 0 this is masked diffusion, (alpha_s - alpha_t) / (1 - alpha_t)": {
            "sigma": lambda a: torch.zeros_like(a.sigma)
        },
        "at alpha_t = 0 there is nothing to mask again, and sigma has no say": {
            "alpha_t": lambda a: torch.zeros_like(a.alpha_t)
        },
    },
    properties=(at_least(0.0), at_most(1.0)),
    mistakes="""
    sigma forgotten
        (1 - sigma) * alpha_t -> alpha_t
        this is masked diffusion without remasking. What is masked again must be made up for: more masks have to
        open
    sigma for what stays
        (1 - sigma) * alpha_t -> sigma * alpha_t
        sigma is the probability that a token is lost; 1 - sigma of them are still there
    divided by what is there
        / (1 - alpha_t) -> / alpha_t
        a mask is asked for: divide by the share of masks, 1 - alpha_t, not by that of tokens
    sigma added, not weighed
        (1 - sigma) * alpha_t -> alpha_t - sigma
        only tokens are masked again: of the share alpha_t, sigma alpha_t is lost
    """,
)


# --- accept ---


def accept(w_x, w_y, i):
    """min(1, w_y[i] / w_x[i]): w (B, L), the probabilities of choosing each position in the old and the new state."""
    there = w_x.gather(1, i[:, None])[:, 0]
    back = w_y.gather(1, i[:, None])[:, 0]
    return (back / there).clamp(max=1)


def row_by_row(w_x, w_y, i):
    """One row after the other."""
    ratios = [
        min(1.0, (w_y[b, j] / w_x[b, j]).item()) for b, j in enumerate(i.tolist())
    ]
    return torch.tensor(ratios, dtype=torch.float64)


define(
    accept,
    truth=row_by_row,
    cases=lambda: [
        (laws(4, 3), laws(4, 3), torch.tensor([2, 0, 1, 2])),
        (laws(7, 5), laws(7, 5), torch.randint(5, (7,))),
    ],
    limits={
        "where the choice does not depend on the state, every new token is accepted": {
            "w_y": lambda a: a.w_x
        }
    },
    properties=(at_least(0.0), at_most(1.0)),
    mistakes="""
    upside down
        (back / there) -> (there / back)
        the ratio is upside down: what is easy to reach and hard to leave must be accepted less often
    all positions
        = (w_y / w_x).clamp(max=1).prod(1)
        you multiply the ratios of all positions: only the position that was chosen was chosen
    always
        (back / there).clamp(max=1) -> torch.ones_like(back)
        you accept everything. Then p_t stays as it is only if the choice does not look at the state
    the new weight alone
        (back / there) -> (back)
        the way there was chosen with the probability w_x[i], the way back with w_y[i]: their ratio counts
    Barker's rule
        (back / there).clamp(max=1) -> back / (there + back)
        this is Barker's rule, w_y[i] / (w_x[i] + w_y[i]). It keeps p_t, too, but where both are equal it turns half
        of the new tokens away: which rule accepts as many as can be?
    """,
)


# --- who_sees ---


def who_sees(length, block):
    """(2 length, 2 length) bool, [i, j]: i sees j. Clean positions come first, then the noisy ones."""
    of = torch.arange(length) // block
    same = of[:, None] == of[None, :]
    earlier = of[:, None] > of[None, :]
    never = torch.zeros_like(same)
    of_clean = torch.cat([same | earlier, never], 1)
    of_noisy = torch.cat([earlier, same], 1)
    return torch.cat([of_clean, of_noisy])


def entry_by_entry(length, block):
    """The two sentences of the text, for every pair."""
    out = torch.zeros(2 * length, 2 * length, dtype=torch.bool)
    for i in range(2 * length):
        for j in range(2 * length):
            a, b = i % length // block, j % length // block
            looks_noisy, seen_noisy = i >= length, j >= length
            if looks_noisy:
                out[i, j] = a == b if seen_noisy else b < a
            else:
                out[i, j] = not seen_noisy and b <= a
    return out


define(
    who_sees,
    truth=entry_by_entry,
    cases=lambda: [(6, 2), (6, 3), (4, 1), (5, 5)],
    mistakes="""
    the answer is seen
        torch.cat([earlier, same], 1) -> torch.cat([earlier | same, same], 1)
        noisy positions see the clean tokens of their own block, that is, the answer. The loss would fall to 0,
        and the samples would be noise
    clean sees noisy
        torch.cat([same | earlier, never], 1) -> torch.cat([same | earlier, same], 1)
        clean positions see noisy ones. Then the keys and values of finished blocks depend on the noise, and
        cannot be kept
    causal inside a block
        of = torch.arange(length) // block -> of = torch.arange(length)
        you treat every position as a block of its own: that is autoregression. Inside a block all see each other
    later, not earlier
        of[:, None] > of[None, :] -> of[:, None] < of[None, :]
        your blocks see the blocks behind them: rows look, columns are looked at
    no clean block sees itself
        same | earlier, never -> earlier, never
        a clean position must see the clean tokens of its own block, itself among them
    clean from left to right
        cat([same | earlier, never] -> cat([torch.ones_like(same).tril(), never]
        your clean positions see no later one of their own block. A block is written at once: inside it all see
        each other
    earlier noise too
        torch.cat([earlier, same], 1) -> torch.cat([earlier, same | earlier], 1)
        your noisy positions see the noise of earlier blocks. When a block is written those before it are finished:
        it sees them clean, and only so
    noisy first
        torch.cat([of_clean, of_noisy]) -> torch.cat([of_clean, of_noisy]).roll((length, length), (0, 1))
        right, but your noisy positions come first: the clean ones are 0 to length - 1
    """,
)


# --- others_only ---


def others_only(posterior, x, alpha):
    """p(x_0 | the other tokens), (B, K), from the posterior p(x_0 | x_t) at one position under uniform noise."""
    K = posterior.shape[-1]
    said = alpha * F.one_hot(x, K) + (1 - alpha) / K  # q(x_t = x | x_0 = k)
    left = posterior / said
    return left / left.sum(-1, keepdim=True)


def by_elimination(posterior, x, alpha):
    """What, multiplied by q(x_t | x_0) and normalised, gives the posterior: by linear equations."""
    K, rows = posterior.shape[-1], []
    for p, token in zip(posterior, x.tolist(), strict=True):
        said = [alpha * (k == token) + (1 - alpha) / K for k in range(K)]
        # left_k said_k = c p_k for all k, and the left_k sum to 1: K + 1 unknowns.
        A = torch.zeros(K + 1, K + 1, dtype=torch.float64)
        A[range(K), range(K)] = torch.tensor(said, dtype=torch.float64)
        A[:K, K], A[K, :K] = -p, 1
        rows.append(
            torch.linalg.solve(A, F.one_hot(torch.tensor(K), K + 1).double())[:K]
        )
    return torch.stack(rows)


define(
    others_only,
    truth=by_elimination,
    cases=lambda: [
        (laws(3, 4), torch.tensor([1, 3, 0]), 0.6),
        (laws(2, 5), torch.tensor([4, 2]), 0.25),
    ],
    limits={
        "at alpha = 0 the token at hand says nothing, and both are the same": {
            "alpha": 0.0
        },
        "a flat posterior: what is there is believed, so the others must have spoken against it": {
            "posterior": lambda a: torch.full_like(
                a.posterior, 1 / a.posterior.shape[-1]
            )
        },
    },
    properties=(law(),),
    mistakes="""
    counted twice
        posterior / said -> posterior * said
        you multiply by q(x_t | x_0) once more: the token at hand is counted twice. Divide by it
    the posterior as it is
        posterior / said -> posterior
        this is the posterior, which has counted the token at hand. The reverse step of chapter 6 would count it
        again
    the token at hand struck out
        posterior / said -> posterior * (1 - F.one_hot(x, K))
        you give x_0 = x_t the probability 0. The others may well say that it is this token
    without the random share of x itself
        alpha * F.one_hot(x, K) + (1 - alpha) / K -> torch.where(F.one_hot(x, K).bool(), alpha, (1 - alpha) / K)
        x_t = x_0 has the probability alpha + (1 - alpha) / K: the random token may be the same one
    """,
)


# --- mask_rates ---


def mask_rates(p, kappa, slope, eta):
    """Rates out of MASK, (B, V + 1), MASK last: kappa and slope = kappa' are numbers, p (B, V)."""
    opens_at = (slope + eta * kappa) / (1 - kappa)
    into = opens_at * p
    return torch.cat([into, -into.sum(-1, keepdim=True)], -1)


def by_flow(p, kappa, slope, eta):
    """What makes the mass of masks fall at the rate kappa' while tokens come back to MASK at the rate eta."""
    rows = []
    for law_of_row in p:
        out = [(slope + eta * kappa) * a / (1 - kappa) for a in law_of_row.tolist()]
        rows.append([*out, -sum(out)])
    return torch.tensor(rows, dtype=torch.float64)


define(
    mask_rates,
    truth=by_flow,
    cases=lambda: [(laws(2, 3), 0.4, 1.0, 0.5), (laws(3, 5), 0.7, 0.6, 2.0)],
    limits={
        "at eta = 0 this is masked diffusion backwards, kappa' / (1 - kappa) p": {
            "eta": 0.0
        },
        "at kappa = 0 nothing can be masked again, and eta has no say": {"kappa": 0.0},
    },
    mistakes="""
    rows that do not sum to 0
        -into.sum(-1, keepdim=True) -> 0 * into.sum(-1, keepdim=True)
        the entry at MASK itself is minus the sum of the others: rows of rates sum to 0
    divided by kappa
        / (1 - kappa) -> / kappa
        1 - kappa is the share of masks: fewer of them must open faster for the same flow
    eta not weighed by kappa
        eta * kappa -> eta
        what comes back to MASK is eta times the share of tokens, kappa; as much must open again
    eta in the wrong direction
        slope + eta * kappa -> slope - eta * kappa
        tokens that are masked again must be replaced: more masks open, not fewer
    """,
)


# --- residual ---


def residual(p, q):
    """What a rejected token is drawn from, (B, V): what p has more than q, normalised. p and q differ in every row."""
    more = (p - q).clamp(min=0)
    return more / more.sum(-1, keepdim=True)


def what_is_missing(p, q):
    """p less what accepted drafts give, min(p, q), over the probability of a rejection."""
    rows = []
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        accepted = [min(x, y) for x, y in zip(a, b, strict=True)]
        rows.append(
            [(x - y) / (1 - sum(accepted)) for x, y in zip(a, accepted, strict=True)]
        )
    return torch.tensor(rows, dtype=torch.float64)


define(
    residual,
    truth=what_is_missing,
    cases=lambda: [
        case(laws(2, 4), laws(2, 4)),
        case(laws(3, 5), laws(3, 5), name="three rows of five tokens"),
    ],
    properties=(law(),),
    mistakes="""
    the model itself
        more / more.sum(-1, keepdim=True) -> p
        this is p. Accepted drafts have given the tokens of min(p, q) already: drawn from p again they come too
        often
    the draft's excess
        (p - q) -> (q - p)
        you draw what the draft has too much of: it is what the model has more that is missing
    not cut at 0
        (p - q).clamp(min=0) -> (p - q).abs()
        tokens that the draft has too much of are in yours: where q is above p nothing is missing
    """,
)
