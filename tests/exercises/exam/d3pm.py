"""Answers to the exercises of chapter 6."""

import math

import torch
import torch.nn.functional as F

from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- uniform_marginal ---


@wrong("d3pm.uniform_marginal", "spread over the K - 1 others", r"K - 1|diagonal|itself|\bothers?\b")
def over_the_others(x0, alpha_bar, K):
    hot = F.one_hot(x0, K).double()
    return alpha_bar * hot + (1 - alpha_bar) / (K - 1) * (1 - hot)


@wrong(
    "d3pm.uniform_marginal",
    "the token itself gets none of the uniform share",
    r"\bsums?\b|itself|diagonal|normali",
)
def none_for_itself(x0, alpha_bar, K):
    hot = F.one_hot(x0, K).double()
    return torch.where(hot > 0, alpha_bar, (1 - alpha_bar) / K)


@right("d3pm.uniform_marginal", "scatter into a constant")
def scattered(x0, alpha_bar, K):
    p = torch.full((*x0.shape, K), (1 - alpha_bar) / K, dtype=torch.float64)
    return p.scatter_add(-1, x0[..., None], torch.full((*x0.shape, 1), alpha_bar, dtype=torch.float64))


@right("d3pm.uniform_marginal", "rows of a matrix")
def rows(x0, alpha_bar, K):
    return (alpha_bar * torch.eye(K).double() + (1 - alpha_bar) * torch.ones(K, K).double() / K)[x0]


# --- multinomial_posterior ---


@wrong(
    "d3pm.multinomial_posterior", "normalised over positions", r"\baxis|\bdim|\blast\b|tokens|positions|\bsum"
)
def wrong_axis(x_t, x0, alpha, alpha_bar_s, K):
    back = alpha * F.one_hot(x_t, K).double() + (1 - alpha) / K
    there = alpha_bar_s * F.one_hot(x0, K).double() + (1 - alpha_bar_s) / K
    return back * there / (back * there).sum(1, keepdim=True)


@wrong(
    "d3pm.multinomial_posterior",
    "alpha_bar_t stands in the second bracket",
    r"alpha_bar_s|alpha_bar_t|\bx_?0\b|from 0 to",
)
def abar_t_in_there(x_t, x0, alpha, alpha_bar_s, K):
    abar_t = alpha * alpha_bar_s
    back = alpha * F.one_hot(x_t, K).double() + (1 - alpha) / K
    there = abar_t * F.one_hot(x0, K).double() + (1 - abar_t) / K
    return back * there / (back * there).sum(-1, keepdim=True)


@right("d3pm.multinomial_posterior", "a softmax of logarithms")
def by_softmax(x_t, x0, alpha, alpha_bar_s, K):
    eye = torch.eye(K, dtype=torch.float64)
    back = torch.log(alpha * eye[x_t] + (1 - alpha) / K)
    return torch.softmax(back + torch.log(alpha_bar_s * eye[x0] + (1 - alpha_bar_s) / K), dim=2)


# --- absorbing_step ---


@wrong(
    "d3pm.absorbing_step",
    "MASK loses beta",
    r"MASK.{0,40}(row|stay)|row.{0,40}MASK|\brows?\b.{0,30}sum|stays",
)
def mask_leaks(K, beta):
    Q = (1 - beta) * torch.eye(K + 1, dtype=torch.float64)
    Q[:K, K] = beta
    return Q


@wrong("d3pm.absorbing_step", "MASK is token 0", r"\bMASK\b|last|first")
def mask_first(K, beta):
    Q = (1 - beta) * torch.eye(K + 1, dtype=torch.float64)
    Q[:, 0] += beta
    return Q


@right("d3pm.absorbing_step", "from blocks")
def from_blocks(K, beta):
    top = torch.cat([torch.diag(torch.full((K,), 1.0 - beta)), torch.full((K, 1), float(beta))], 1)
    bottom = torch.zeros(1, K + 1)
    bottom[0, -1] = 1
    return torch.cat([top, bottom]).double()


# --- gaussian_step ---


@wrong("d3pm.gaussian_step", "the 4 in the exponent is missing", r"\b4\b|exponent|\bbeta\b")
def no_four(K, beta):
    i = torch.arange(K, dtype=torch.float64)
    n = torch.arange(-(K - 1), K, dtype=torch.float64)
    scale = (K - 1) ** 2 * beta
    Q = torch.exp(-((i[:, None] - i) ** 2) / scale) / torch.exp(-(n**2) / scale).sum()
    Q.fill_diagonal_(0)
    return Q + torch.diag(1 - Q.sum(1))


@wrong("d3pm.gaussian_step", "the diagonal is left as the formula gives it", r"\brows?\b|diagonal|\bsums?\b")
def diagonal_left(K, beta):
    i = torch.arange(K, dtype=torch.float64)
    n = torch.arange(-(K - 1), K, dtype=torch.float64)
    scale = (K - 1) ** 2 * beta / 4
    return torch.exp(-((i[:, None] - i) ** 2) / scale) / torch.exp(-(n**2) / scale).sum()


@right("d3pm.gaussian_step", "entry by entry")
def entries(K, beta):
    def weight(n):
        return torch.tensor(-4.0 * n * n / ((K - 1) ** 2 * beta), dtype=torch.float64).exp()

    Z = 1 + 2 * sum(weight(n) for n in range(1, K))
    Q = torch.zeros(K, K, dtype=torch.float64)
    for i in range(K):
        for j in range(K):
            if i != j:
                Q[i, j] = weight(i - j) / Z
        Q[i, i] = 1 - Q[i].sum()
    return Q


# --- absorbing_loss ---


@wrong("d3pm.absorbing_loss", "all positions count", r"\bmask|positions")
def everywhere(log_p0, x0, x_t, t, T):
    return -T / t * log_p0.gather(-1, x0[..., None]).squeeze(-1).sum(1)


@wrong("d3pm.absorbing_loss", "T / t upside down", r"T / t|t / T|upside|1 / t")
def weight_upside_down(log_p0, x0, x_t, t, T):
    nll = -log_p0.gather(-1, x0[..., None]).squeeze(-1)
    return t / T * torch.where(x_t == log_p0.shape[-1], nll, 0).sum(1)


@right("d3pm.absorbing_loss", "nll_loss, an example at a time")
def by_example(log_p0, x0, x_t, t, T):
    losses = []
    for lp, a, b, when in zip(log_p0, x0, x_t, t, strict=True):
        m = b == lp.shape[-1]
        losses.append(F.nll_loss(lp[m], a[m], reduction="sum") * T / when)
    return torch.stack(losses)


# --- leave_one_out ---


@wrong("d3pm.leave_one_out", "the seen token is struck out", r"\bx_t\b|divi|evidence|\bseen\b|q\(x_t")
def struck_out(post, x_t, alpha_bar_t):
    loo = post.scatter(-1, x_t[..., None], 0.0)
    return loo / loo.sum(-1, keepdim=True)


@wrong(
    "d3pm.leave_one_out", "the noise falls on K - 1 others", r"K - 1|/ K|evidence|q\(x_t|itself|\bothers?\b"
)
def over_the_others_loo(post, x_t, alpha_bar_t):
    K = post.shape[-1]
    hot = F.one_hot(x_t, K).to(post)
    loo = post / (alpha_bar_t * hot + (1 - alpha_bar_t) / (K - 1) * (1 - hot))
    return loo / loo.sum(-1, keepdim=True)


@right("d3pm.leave_one_out", "only the seen token is divided")
def seen_divided(post, x_t, alpha_bar_t):
    K = post.shape[-1]
    odds = 1 + K * alpha_bar_t / (1 - alpha_bar_t)
    at = x_t.unsqueeze(-1)
    loo = post.scatter(-1, at, post.gather(-1, at) / odds)
    return F.normalize(loo, p=1, dim=-1)


# --- hybrid ---


@wrong("d3pm.hybrid", "T on the KL alone", r"\bT\b|\bce\b")
def T_on_kl(kl, ce, ce_weight, T):
    return T * kl + ce_weight * ce


@wrong("d3pm.hybrid", "the mean of the batch", r"example|one number|shape|\bmean\b")
def one_number(kl, ce, ce_weight, T):
    return (T * (kl + ce_weight * ce)).mean()


@right("d3pm.hybrid", "multiplied out")
def multiplied_out(kl, ce, ce_weight, T):
    return torch.stack([kl, ce], 1) @ torch.tensor([T, T * ce_weight], dtype=kl.dtype)


# --- fault ---


@wrong("d3pm.fault", "rows must sum to exactly 1", r"1e-6|exact|round|toler|equal")
def exact_rows(Q, uniform_in_the_end):
    if (Q < 0).any():
        return "negative"
    if (Q.sum(1) != 1).any():
        return "rows"
    if uniform_in_the_end and ((Q.sum(0) - 1).abs() > 1e-6).any():
        return "law"
    return "none"


@wrong("d3pm.fault", "uniform_in_the_end is not read", r"uniform_in_the_end|meant|absorbing")
def flag_ignored(Q, uniform_in_the_end):
    if Q.min() < 0:
        return "negative"
    if not torch.allclose(Q.sum(1), torch.ones(len(Q), dtype=Q.dtype), atol=1e-6):
        return "rows"
    return "none" if torch.allclose(Q.sum(0), torch.ones(len(Q), dtype=Q.dtype), atol=1e-6) else "law"


@right("d3pm.fault", "the uniform distribution times Q")
def by_law(Q, uniform_in_the_end):
    u = torch.full((len(Q),), 1 / len(Q), dtype=Q.dtype)
    faults = [
        ("negative", bool((Q < 0).any())),
        ("rows", bool((Q.sum(1) - 1).abs().max() > 1e-6)),
        ("law", uniform_in_the_end and bool((u @ Q - u).abs().max() > 1e-6 / len(Q))),
    ]
    return next((name for name, found in faults if found), "none")


# --- reveal ---


@wrong("d3pm.reveal", "the likeliest token in place of a draw", r"\bdraw|argmax|likeliest|random|chance|p0")
def likeliest(p0, x_t, chance, mask):
    opens = (x_t == mask) & (torch.rand(x_t.shape) < chance)
    return torch.where(opens, p0.argmax(-1), x_t)


@wrong("d3pm.reveal", "other tokens are drawn anew as well", r"\bmask|stays?|other tokens|open")
def anything_opens(p0, x_t, chance, mask):
    opens = torch.rand(x_t.shape) < chance
    tokens = torch.multinomial(p0.flatten(0, 1), 1).reshape(x_t.shape)
    return torch.where(opens, tokens, x_t)


@right("d3pm.reveal", "torch.bernoulli and inverse of the cumulative sum")
def by_inverse(p0, x_t, chance, mask):
    coin = torch.bernoulli(torch.full(x_t.shape, float(chance))).bool()
    u = torch.rand(*x_t.shape, 1, dtype=p0.dtype)
    tokens = (u > p0.cumsum(-1)).sum(-1).clamp(max=p0.shape[-1] - 1)
    out = x_t.clone()
    out[coin & (x_t == mask)] = tokens[coin & (x_t == mask)]
    return out


# --- independence ---


@wrong("d3pm.independence", "the marginals exchanged", r"marginal|exchang|transpos|second|first|axis|axes")
def marginals_exchanged(p):
    product = p.sum(0)[:, None] * p.sum(1)
    return (
        (p * (p.T / product).T.log()).sum() if p.shape[0] != p.shape[1] else (p * (p / product).log()).sum()
    )


@wrong(
    "d3pm.independence", "the entropy of one token", r"entrop|pair|joint|independen|marginal|nothing is lost"
)
def one_entropy(p):
    q = p.sum(1)
    return -(q * q.log()).sum()


@right("d3pm.independence", "conditional entropy taken off")
def by_conditionals(p):
    first, second = p.sum(1), p.sum(0)
    inside = -(p * (p / first[:, None]).log()).sum()
    return -(second * second.log()).sum() - inside


# --- two_steps ---


@wrong("d3pm.two_steps", "x_s = x_t in both brackets", r"alpha|mixture|plug|bracket")
def alpha_bar_for_alpha(post, x_t, alpha, alpha_bar_s):
    K = post.shape[-1]
    back = alpha_bar_s * F.one_hot(x_t, K) + (1 - alpha_bar_s) / K
    there = alpha_bar_s * torch.eye(K).double() + (1 - alpha_bar_s) / K
    joint = there * back[..., None, :]
    plug = (post[..., None] * joint).sum(-2)
    return (post[..., None] * joint / joint.sum(-1, keepdim=True)).sum(-2), plug / plug.sum(-1, keepdim=True)


@wrong(
    "d3pm.two_steps",
    "the posterior sharpened by a softmax",
    r"softmax|exponent|\bsums?\b|normali|mixture|posterior",
)
def softmaxed(post, x_t, alpha, alpha_bar_s):
    return two_right(post.softmax(-1), x_t, alpha, alpha_bar_s)


@right("d3pm.two_steps", "matrices")
def two_right(post, x_t, alpha, alpha_bar_s):
    K = post.shape[-1]

    def matrix(a):
        return a * torch.eye(K).double() + (1 - a) / K

    column = matrix(alpha).T[x_t]
    seen = matrix(alpha * alpha_bar_s).T[x_t]
    mixture = ((post / seen) @ matrix(alpha_bar_s)) * column
    plug = (post @ matrix(alpha_bar_s)) * column
    return mixture, plug / plug.sum(-1, keepdim=True)


# --- ce_weight ---


@wrong("d3pm.ce_weight", "the inverse", r"invers|reciprocal|upside|1 /|T")
def upside_down(bound, ce, T, share):
    return (1 - share) * T * ce / (share * bound)


@wrong("d3pm.ce_weight", "T counted twice", r"\bT\b")
def twice(bound, ce, T, share):
    return share / (1 - share) * bound / (T * T * ce)


@right("d3pm.ce_weight", "odds")
def by_odds(bound, ce, T, share):
    return bound / ((1 / share - 1) * ce * T)


# --- count_weights ---


@wrong("d3pm.count_weights", "one more", r"\bn\b|n = |shift|masks")
def from_zero(alpha_bar, L):
    s, t = alpha_bar[:-1, None], alpha_bar[1:, None]
    n = torch.arange(0, L)
    ways = torch.tensor([math.comb(L, k) for k in n.tolist()])
    return ((s - t) / (1 - t) * ways * (1 - t) ** n * t ** (L - n)).sum(0)


@wrong("d3pm.count_weights", "per mask", r"\bn\b|masks|1 / n|ways|comb")
def per_mask(alpha_bar, L):
    return weights_right(alpha_bar, L) / torch.arange(1, L + 1)


@right("d3pm.count_weights", "the binomial of torch")
def weights_right(alpha_bar, L):
    t = alpha_bar[1:]
    r = (alpha_bar[:-1] - t) / (1 - t)
    rows = []
    for n in range(1, L + 1):
        rows.append((r * math.comb(L, n) * (1 - t) ** n * t ** (L - n)).sum())
    return torch.stack(rows)
