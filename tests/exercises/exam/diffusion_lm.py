"""Answers to the exercises of chapter 4."""

import torch
import torch.nn.functional as F

from tests.exercises.exam.paper import paper

wrong, right, ANSWERS = paper()


# --- rounding ---


@wrong("diffusion_lm.rounding", "the cosine is compared", r"length|cosine|norm|\bdot\b|\|e")
def cosine(x, table):
    return (F.normalize(x, dim=-1) @ F.normalize(table, dim=-1).T).argmax(-1)


@wrong(
    "diffusion_lm.rounding",
    "the whole square is taken off, not half of it",
    r"half|twice|/ 2|\b2\b.{0,20}(too|times)",
)
def whole_square(x, table):
    return (x @ table.T - table.square().sum(-1)).argmax(-1)


@right("diffusion_lm.rounding", "torch.cdist")
def by_cdist(x, table):
    return torch.cdist(x, table).min(dim=1).indices


@right("diffusion_lm.rounding", "one vector at a time")
def one_by_one(x, table):
    return torch.stack([((table - v) ** 2).sum(1).argmin() for v in x])


# --- known_word ---


@wrong("diffusion_lm.known_word", "the word is not weighted by its precision", r"\be\b|spread")
def word_unweighted(e, x_t, abar, spread):
    var = 1 / (1 / spread + abar / (1 - abar))
    return var * (e + abar.sqrt() * x_t / (1 - abar)), var


@wrong("diffusion_lm.known_word", "alpha_bar without its root before x_t", r"\bx_t\b|\broot\b")
def no_root(e, x_t, abar, spread):
    var = 1 / (1 / spread + abar / (1 - abar))
    return var * (e / spread + abar * x_t / (1 - abar)), var


@right("diffusion_lm.known_word", "Kalman's gain")
def by_gain(e, x_t, abar, spread):
    gain = spread * abar.sqrt() / (abar * spread + 1 - abar)
    return e + gain * (x_t - abar.sqrt() * e), spread * (1 - gain * abar.sqrt())


# --- variance_cost ---


@wrong("diffusion_lm.variance_cost", "the logarithm is missing", r"\blog")
def no_log(true, used):
    return (true / used - 1) / 2


@wrong("diffusion_lm.variance_cost", "the half is missing", r"half|twice|\b2\b|/ 2")
def no_half(true, used):
    r = true / used
    return r - 1 - r.log()


@right("diffusion_lm.variance_cost", "torch.distributions")
def by_torch(true, used):
    zero, normal = torch.zeros_like(true), torch.distributions.Normal
    return torch.distributions.kl_divergence(normal(zero, true.sqrt()), normal(zero, used.sqrt()))


# --- collapsed_loss ---


@wrong("diffusion_lm.collapsed_loss", "the mean leaves out t = 1", r"T - 1|t = 1|mean|divi")
def mean_of_the_rest(alpha_bar):
    spread, a = 1 - alpha_bar[1], alpha_bar[2:]
    return (1 / (1 / spread + a / (1 - a))).mean()


@wrong("diffusion_lm.collapsed_loss", "t = 1 is counted with an error", r"t = 1|first")
def counts_the_first(alpha_bar):
    spread, a = 1 - alpha_bar[1], alpha_bar[1:]
    return (1 / (1 / spread + a / (1 - a))).mean()


@right("diffusion_lm.collapsed_loss", "a loop over t")
def looped(alpha_bar):
    T, spread = len(alpha_bar) - 1, 1 - alpha_bar[1]
    total = 0.0
    for t in range(2, T + 1):
        a = alpha_bar[t]
        total = total + spread * (1 - a) / (1 - a + spread * a)
    return total / T


# --- e2e_loss ---


@wrong("diffusion_lm.e2e_loss", "the words are read from x_t", r"\bx_t\b|logits|\bx0\b")
def reads_x_t(model, tokens, x0, x_t, t, T):
    target = torch.where((t == 1)[:, None, None], model.embed(tokens), x0)
    error = (target - model(x_t, t / T)).square().mean((1, 2))
    return error + F.cross_entropy(model.logits(x_t).transpose(1, 2), tokens, reduction="none").mean(1)


@wrong("diffusion_lm.e2e_loss", "the cross-entropy is summed over words", r"\bsum|\bmean\b|times L|per word")
def sum_of_words(model, tokens, x0, x_t, t, T):
    target = torch.where((t == 1)[:, None, None], model.embed(tokens), x0)
    error = (target - model(x_t, t / T)).square().mean((1, 2))
    return error + F.cross_entropy(model.logits(x0).transpose(1, 2), tokens, reduction="none").sum(1)


@wrong(
    "diffusion_lm.e2e_loss", "no gradient reaches the embeddings through the target", r"gradient|detach|embed"
)
def target_cut(model, tokens, x0, x_t, t, T):
    target = torch.where((t == 1)[:, None, None], model.embed(tokens).detach(), x0.detach())
    error = (target - model(x_t, t / T)).square().mean((1, 2))
    return error + F.cross_entropy(model.logits(x0).transpose(1, 2), tokens, reduction="none").mean(1)


@right("diffusion_lm.e2e_loss", "log_softmax and gather, an example at a time")
def by_example(model, tokens, x0, x_t, t, T):
    guess, log_p, e = model(x_t, t / T), model.logits(x0).log_softmax(-1), model.embed(tokens)
    losses = []
    for b in range(len(tokens)):
        target = e[b] if int(t[b]) == 1 else x0[b]
        nll = -log_p[b].gather(1, tokens[b][:, None])
        losses.append(F.mse_loss(guess[b], target) + nll.mean())
    return torch.stack(losses)


# --- clamped_step ---


@wrong("diffusion_lm.clamped_step", "eps is taken out with alpha_bar of s", r"\beps\b|abar_s|abar_t")
def eps_at_s(x0_hat, x_t, abar_s, abar_t, table):
    x0 = table[(x0_hat @ table.T - table.square().sum(-1) / 2).argmax(-1)]
    eps = (x_t - abar_s.sqrt() * x0) / (1 - abar_s).sqrt()
    return abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * eps


@wrong("diffusion_lm.clamped_step", "the nearest by dot product", r"length|nearest|\bdot\b|rounding|\|e")
def by_dot(x0_hat, x_t, abar_s, abar_t, table):
    x0 = table[(x0_hat @ table.T).argmax(-1)]
    eps = (x_t - abar_t.sqrt() * x0) / (1 - abar_t).sqrt()
    return abar_s.sqrt() * x0 + (1 - abar_s).sqrt() * eps


@right("diffusion_lm.clamped_step", "sorted by x0 and x_t, torch.cdist")
def by_ratio(x0_hat, x_t, abar_s, abar_t, table):
    x0 = table[torch.cdist(x0_hat, table).argmin(1)]
    c = ((1 - abar_s) / (1 - abar_t)) ** 0.5
    return c * x_t + (abar_s**0.5 - c * abar_t**0.5) * x0


# --- free ---


@wrong("diffusion_lm.free", "the pull starts from told and is 1 + weight strong", r"weight|told")
def from_told(told, untold, weight):
    return told + (1 + weight) * (told - untold)


@wrong("diffusion_lm.free", "untold is added", r"untold|sign")
def untold_added(told, untold, weight):
    return (1 + weight) * told + weight * untold


@right("diffusion_lm.free", "torch.lerp")
def by_lerp(told, untold, weight):
    return torch.lerp(untold, told, 1 + weight)


# --- mbr ---


@wrong(
    "diffusion_lm.mbr", "candidate and reference in the wrong order", r"order|argument|swap|turned|reference"
)
def turned(candidates, similarity):
    n = len(candidates)
    scores = [sum(similarity(candidates[j], candidates[i]) for j in range(n) if j != i) for i in range(n)]
    return scores.index(max(scores))


@wrong(
    "diffusion_lm.mbr",
    "of equals, the last",
    r"\bfirst\b|\blast\b|equal|\btie",
    untrue=r"is most like the others",
)
def the_last(candidates, similarity):
    best, chosen = float("-inf"), 0
    for i, a in enumerate(candidates):
        score = sum(similarity(a, b) for j, b in enumerate(candidates) if i != j)
        if score >= best:
            best, chosen = score, i
    return chosen


@right("diffusion_lm.mbr", "a matrix, its diagonal taken off")
def by_matrix(candidates, similarity):
    S = torch.tensor([[float(similarity(a, b)) for b in candidates] for a in candidates], dtype=torch.float64)
    S.fill_diagonal_(0)
    return int(S.mean(1).argmax())
