"""Diffusion-LM against Bayes, enumeration and the entropy of a toy language: no training."""

import math

import pytest
import torch

from course_lib import diffusion_lm as D
from course_lib import embeddings as E
from course_lib import schedules as S
from course_lib import word_chain
from course_lib.clamping import ClampingTrick
from course_lib.ddim import DDIM
from course_lib.ddpm import DDPM
from course_lib.diffusion_lm import DiffusionLM
from course_lib.dpm_solver import DPMSolver
from course_lib.embeddings import nearest
from course_lib.nets import MLP, Given
from course_lib.optimal_variance import Analytic
from course_lib.oracle import DataOracle
from course_lib.process import last, sample
from course_lib.sde import VP
from course_lib.sentences import PAD, Labelled
from course_lib.word_nets import EmbeddingNet, MixingNet
from tests.helpers import I
from tests.words import F64, TABLE, K, L, T, W, ids, net, toy

# From words to vectors and back


def test_x0_is_the_embedding_and_a_first_step_of_noise():
    process, model = DiffusionLM(TABLE, L, W), net()
    assert process.sigma_0_squared == pytest.approx(1 - TABLE[1].item(), rel=1e-12)
    tokens = torch.randint(0, K, (1, L)).expand(5000, L)
    x0 = process.encode(model, tokens).detach()
    mean, var = x0.mean(0), x0.var(0)
    torch.testing.assert_close(mean, model.embedding.weight[tokens[0]].detach(), atol=0.03, rtol=0)
    torch.testing.assert_close(var, torch.full((L, W), process.sigma_0_squared), atol=0.01, rtol=0)


def test_nearest_is_the_nearest_whatever_the_chunk(monkeypatch):
    x, table = torch.randn(7, 9, 4, dtype=torch.float64), torch.randn(30, 4, dtype=torch.float64)
    want = torch.cdist(x, table.expand(7, -1, -1)).argmin(-1)
    assert nearest(x, table).equal(want)
    for chunk in (1, 60, 100, 10**6):
        monkeypatch.setattr(E, "CHUNK", chunk)
        assert nearest(x, table).equal(want)
    assert nearest(x[0, 0], table).equal(want[0, 0])
    longer = table.clone()
    longer[5] *= 10  # a long vector wins every plain dot product on its side
    x = longer + 0.01
    assert nearest(x, longer).equal(torch.arange(30)) and not (x @ longer.T).argmax(-1).equal(
        torch.arange(30)
    )


def test_nearest_holds_no_more_than_a_chunk_of_logits(monkeypatch):
    seen, nearness = [], E.nearness
    monkeypatch.setattr(E, "nearness", lambda *a: seen.append(nearness(*a)) or seen[-1])
    nearest(torch.randn(3000, 2), torch.randn(5000, 2))
    assert max(s.numel() for s in seen) <= E.CHUNK and sum(len(s) for s in seen) == 3000 and len(seen) == 4


def test_rounding_is_bayes_rule():
    """p(w | x_0) of equally frequent words under x_0 ~ N(Emb(w), sigma_0^2 I); 0 at PAD."""
    process, model, tokens = DiffusionLM(TABLE, L, W), net().double(), ids()
    x0 = torch.randn(4, L, W, dtype=torch.float64)
    e = model.embedding.weight
    log = -(x0[..., None, :] - e).square().sum(-1) / (2 * process.sigma_0_squared)
    want = -log.log_softmax(-1).gather(-1, tokens.clamp(min=0)[..., None])[..., 0] * (tokens != PAD)
    torch.testing.assert_close(process.rounding_nll(model, x0, tokens), want)
    soft = DiffusionLM(TABLE, L, W, temperature=1.0)
    want = -(x0 @ e.T - e.square().sum(-1) / 2).log_softmax(-1)
    want = want.gather(-1, tokens.clamp(min=0)[..., None])[..., 0] * (tokens != PAD)
    torch.testing.assert_close(soft.rounding_nll(model, x0, tokens), want)


def test_decode_finds_the_words_and_leaves_PAD_where_nothing_is():
    process, model, tokens = DiffusionLM(TABLE, L, W), net(), ids()
    x = E.embed(model, tokens)
    assert (x[1, 2:] == 0).all() and (x[tokens != PAD] == model.embedding.weight[tokens[tokens != PAD]]).all()
    assert process.decode(Given(model, mask=tokens != PAD), x).equal(tokens)
    assert process.decode(model, x)[tokens != PAD].equal(tokens[tokens != PAD])


# Given the word, x_0 can be integrated out


def test_known_word_is_bayes():
    """q(x_0 | x_t, w) by quadrature over x_0."""
    process = DiffusionLM(TABLE, 1, 1)
    grid = torch.linspace(-6, 6, 40001, dtype=torch.float64)
    for t in (1, 2, 7, T):
        a = process.alpha_bar[t]
        for word, x in ((0.8, 1.3), (-1.0, 0.1)):
            log = -(grid - word).square() / (2 * process.sigma_0_squared) - (x - a.sqrt() * grid).square() / (
                2 * (1 - a)
            )
            p = log.softmax(0)
            mean, var = process.known_word(F64([[[word]]]), F64([[[x]]]), I([t]))
            assert mean.item() == pytest.approx((p @ grid).item(), abs=1e-9)
            assert var.item() == pytest.approx((p @ grid.square() - (p @ grid) ** 2).item(), rel=1e-6)


def test_word_variance_is_that_of_the_step_when_the_word_is_known():
    """q(x_s | x_t, w): x_s and x_t are jointly Gaussian given w; the mean comes from E[x_0 | x_t, w]."""
    process = DiffusionLM(TABLE, 1, 1)
    word = F64([[[0.7]]])
    for t, s in ((2, 1), (9, 4), (T, 1), (T, T - 1)):
        a_t, a_s = process.alpha_bar[t], process.alpha_bar[s]
        var_s, var_t = a_s * process.sigma_0_squared + 1 - a_s, a_t * process.sigma_0_squared + 1 - a_t
        cov = (a_t / a_s).sqrt() * var_s
        x_t = F64([[[1.1]]])
        want = a_s.sqrt() * word + cov / var_t * (x_t - a_t.sqrt() * word)
        mean, _ = process.posterior(process.known_word(word, x_t, I([t]))[0], x_t, I([t]), I([s]))
        torch.testing.assert_close(mean, want)
        var = process.transition(I([t]), I([s]))[3]
        torch.testing.assert_close(var, (var_s - cov**2 / var_t)[None])
        small = DiffusionLM(TABLE, 1, 1, variance="small").transition(I([t]), I([s]))[3]
        large = DiffusionLM(TABLE, 1, 1, variance="large").transition(I([t]), I([s]))[3]
        assert small < var < large
        torch.testing.assert_close(small, DDPM(TABLE, (1,)).transition(I([t]), I([s]))[3])
    assert process.transition(I([5]), I([0])).p_var == 0


def test_a_perfect_network_for_one_sentence_has_a_bound_of_zero():
    """Nothing is uncertain, so -log p(w) = 0, and the bound is that, but for the paper's variance."""
    tokens = torch.zeros(64, L, dtype=torch.long)
    for options, gap in (({}, 0.0), ({"variance": "small"}, None), ({"decoder_var": 0.00556}, None)):
        process, _, oracle = toy(200, K=1, L=L, width=2, **options)
        t = torch.arange(1, 201)
        values = process.bound(oracle, torch.zeros(200, L, dtype=torch.long), t)
        rest = process.prior_term(oracle.embed(tokens[:1])).item()
        assert 0 < rest < 1e-4
        if gap is not None:
            assert (values - rest).abs().max() < 1e-6
        elif "variance" in options:  # 0.0125 nats per number, whatever T is
            want = closed_gap(process) * L * 2
            assert values.mean().item() - rest == pytest.approx(want, rel=1e-6) and want / (
                2 * L
            ) == pytest.approx(0.0125, abs=2e-4)
        else:
            v, s2 = process.known_word(oracle.embed(tokens[:1, :1]), torch.zeros(1, 1, 2), I([1]))[1], 0.00556
            kl = (v / s2 - 1 - (v / s2).log()) / 2
            assert values[0].item() - rest == pytest.approx(200 * 2 * L * kl.item(), rel=1e-6)


def test_a_network_that_says_nothing_has_the_bound_log_K():
    """Without context every word is equally likely; the evidence is used exactly, so nothing is lost on the way."""
    A = S.table(S.sqrt(), 400)
    process, model = DiffusionLM(A, 2, 8), MixingNet(K, 8, A, 16, 2, 1, normalised=True).double()
    model.trunk.forward = lambda h, u, mask=None: h  # its last layer is zero whatever comes before
    model.enter = model.leave = torch.nn.Linear(8, 8, dtype=torch.float64)
    torch.nn.init.zeros_(model.leave.weight), torch.nn.init.zeros_(model.leave.bias)
    tokens = torch.randint(0, K, (40000, 2))
    with torch.no_grad():
        values = process.bound(model, tokens, process.sample_t(40000))
    assert abs(values.mean() - 2 * math.log(K)) < 3 * values.std() / 200 + 0.02 and values.std() / 200 < 0.05


def closed_gap(process):
    """Sum over t of KL(q(x_{t-1} | x_t, w) || the same mean with beta-tilde), per number."""
    t = torch.arange(2, process.T + 1)
    from_x0, _, small, _ = process.transition(t, t - 1)
    snr = process.alpha_bar[t] / (1 - process.alpha_bar[t])
    extra = from_x0**2 * process.sigma_0_squared / (1 + process.sigma_0_squared * snr) / small
    return ((extra - torch.log1p(extra)) / 2).sum().item()


def test_term_is_the_paper_s_sum_in_expectation():
    """The paper's form, with E[log q(x_0 | w) - log p(x_0 | x_1)], KLs from q(x_{t-1} | x_t, x_0) and L_T(x_0), is the
    same number as ours, for a network that is affine in one dimension: all moments are exact."""
    process = DiffusionLM(S.table(S.sqrt(), 12), 1, 1, decoder_var=0.1)
    a, e, v0 = process.alpha_bar, 0.9, process.sigma_0_squared
    slope, shift = 0.55, 0.1  # f(x) = slope x + shift

    def squared(ca, c0, cz):  # E (ca + c0 z_0 + cz z)^2
        return ca**2 + c0**2 + cz**2

    paper = ours = 0.0
    for t in range(1, 13):
        r, sd, s0 = math.sqrt(a[t]), math.sqrt(1 - a[t]), math.sqrt(v0)
        k_mean, k_0, k_z = (
            slope * r * e + shift,
            slope * r * s0,
            slope * sd,
        )  # f(x_t) = k_mean + k_0 z_0 + k_z z
        from_x0, _, small, var = (x.item() for x in process.transition(I([t]), I([t - 1])))
        gain, left = (r * v0 / (1 - a[t] + a[t] * v0)).item(), process.var_given_word(a[t].log()).item()
        known = (e, gain * r * s0, gain * sd)  # E[x_0 | x_t, w]
        if t == 1:
            hat = ((1 - gain * r) * k_mean + gain * r * e, (1 - gain * r) * k_0 + gain * r * s0,
                   (1 - gain * r) * k_z + gain * sd)  # fmt: skip
            error = squared(e - hat[0], s0 - hat[1], -hat[2])
            paper += -(1 + math.log(2 * math.pi * v0)) / 2 + math.log(2 * math.pi * 0.1) / 2 + error / 0.2
            var, q_var = 0.1, left
        else:
            hat = (k_mean, k_0, k_z)
            error = squared(e - hat[0], s0 - hat[1], -hat[2])
            paper += (small / var - 1 - math.log(small / var)) / 2 + from_x0**2 * error / (2 * var)
            q_var = small + from_x0**2 * left
        error = squared(*(p - q for p, q in zip(known, hat, strict=True)))
        ours += (q_var / var - 1 - math.log(q_var / var)) / 2 + from_x0**2 * error / (2 * var)
        if t in (1, 6):  # and this is what `term` estimates
            found = process.term(
                Affine(slope, shift, e), torch.zeros(200000, 1, dtype=torch.long), I([t]).expand(200000)
            )
            each = (q_var / var - 1 - math.log(q_var / var)) / 2 + from_x0**2 * error / (2 * var)
            assert abs(found.mean().item() - each) < 5 * found.std().item() / 200000**0.5 + 1e-6
    A = a[-1].item()
    paper += (A * (e**2 + v0) - A - math.log1p(-A)) / 2
    ours += process.prior_term(F64([[[e]]])).item()
    assert ours == pytest.approx(paper, rel=1e-9)


class Affine:
    """f(x) = slope x + shift, and one word at e."""

    recall, classes = False, 0

    def __init__(self, slope, shift, e):
        self.slope, self.shift, self.table = slope, shift, torch.tensor([[e]])

    def __call__(self, x, u, mask=None):
        return self.slope * x + self.shift

    def embed(self, tokens):
        return self.table[tokens]

    def logits(self, x):
        return x @ self.table.T - self.table.square().sum(-1) / 2


def test_bound_meets_the_entropy():
    """Oracle bounds stay above the entropy of the language and come down to it as T grows."""
    n, gaps = 40000, []
    for steps in (50, 400):
        torch.manual_seed(0)
        process, language, oracle = toy(steps)
        tokens = language.sample(n)
        values = process.bound(oracle, tokens, process.sample_t(n))
        gap = values + language.log_prob(tokens)
        assert values.dtype == torch.float64
        gaps.append(gap.mean().item())
        assert gaps[-1] > -3 * gap.std().item() / n**0.5
    assert gaps[1] < 0.08 and gaps[0] > gaps[1] + 0.05


def test_length_is_part_of_the_bound_and_can_be_drawn():
    counts = I([0, 3, 0, 4, 0, 0])
    process, plain, model = DiffusionLM(TABLE, L, W, lengths=counts), DiffusionLM(TABLE, L, W), net()
    tokens, t = ids(), I([1, 7, 20, T])
    torch.manual_seed(1)
    longer = process.bound(model, tokens, t)
    torch.manual_seed(1)
    law = I([0, 4, 1, 5, 1, 1]) / 12  # each length once more
    extra = -law.double().log()[[5, 2, 1, 5]]
    torch.testing.assert_close(longer - plain.bound(model, tokens, t), extra, atol=1e-4, rtol=1e-6)
    mask = process.draw_lengths(20000)
    seen = mask.sum(1).bincount(minlength=6) / 20000
    assert (
        (seen - law).abs().max() < 0.02 and (mask[:, 1:] <= mask[:, :-1]).all() and mask.shape == (20000, L)
    )
    with pytest.raises(ValueError, match="lengths must be given"):
        plain.draw_lengths(3)


# Training


def test_loss_restated(monkeypatch):
    process, model, tokens = DiffusionLM(TABLE, L, W, temperature=1.0), net(), ids()
    t = I([1, 1, 20, T])
    torch.manual_seed(3)
    got = process.loss(model, tokens, t)
    torch.manual_seed(3)
    mask, clean = tokens != PAD, E.embed(model, tokens)
    x0 = clean + math.sqrt(process.sigma_0_squared) * torch.randn_like(clean)
    x_t = process.corrupt(x0, t)
    said = model(x_t, t / T, mask)
    target = torch.cat([clean[:2], x0[2:]])
    nll = process.rounding_nll(model, x0, tokens)
    each = (target - said).square().mean(-1) + nll + process.alpha_bar[-1].float() * x0.square().mean(-1)
    want = torch.stack([each[i][mask[i]].mean() for i in range(4)])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", [EmbeddingNet, MixingNet])
def test_what_is_added_for_the_words(kind):
    model, tokens, t = net(kind), ids(), I([1, 5, 20, T])
    values = {}
    for rounding in ("none", "gold", "prediction"):
        torch.manual_seed(3)
        values[rounding] = DiffusionLM(TABLE, L, W, rounding=rounding).loss(model, tokens, t)
    torch.manual_seed(3)
    process = DiffusionLM(TABLE, L, W)
    mask, _, x0, x_t = process.diffuse(model, tokens, t)
    gold = D.average(process.rounding_nll(model, x0, tokens), mask)
    torch.testing.assert_close(values["gold"] - values["none"], gold, atol=1e-4, rtol=1e-4)
    said, log_p = model.explain(x_t, process.u(t), mask)
    if kind is EmbeddingNet:
        torch.testing.assert_close(log_p, model.logits(said).log_softmax(-1))
    nll = -log_p.gather(-1, tokens.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(
        values["prediction"] - values["none"], D.average(nll, mask), atol=1e-4, rtol=1e-4
    )


def test_detach_stops_the_target_only():
    tokens, t = ids(), I([1, 5, 20, T])
    grads = {}
    for detach in (False, True):
        model = net()
        process = DiffusionLM(TABLE, L, W, rounding="none", detach=detach)
        torch.manual_seed(3)
        loss = process.loss(model, tokens, t).mean()
        loss.backward()
        grads[detach] = loss.item(), model.embedding.weight.grad.clone(), model.leave.weight.grad.clone()
        torch.manual_seed(0)
    assert DiffusionLM(TABLE, L, W).detach is False
    torch.manual_seed(5)
    model = net()
    values = [[], []]
    for detach in (False, True):
        model.zero_grad()
        torch.manual_seed(3)
        DiffusionLM(TABLE, L, W, rounding="none", detach=detach).loss(model, tokens, t).mean().backward()
        values[detach] = [model.embedding.weight.grad.clone(), model.leave.weight.grad.clone()]
    assert values[1][0].any() and not values[0][0].allclose(values[1][0])
    torch.testing.assert_close(values[0][1], values[1][1])


@pytest.mark.parametrize("kind", [EmbeddingNet, MixingNet])
def test_PAD_is_nowhere_seen(kind):
    process, model, tokens = (
        DiffusionLM(TABLE, L, W, lengths=torch.ones(6, dtype=torch.long)),
        net(kind),
        ids(),
    )
    t = I([1, 5, 20, T])
    for function in (process.loss, process.bound, process.term):
        torch.manual_seed(2)
        one = function(model, tokens[1:2, :2], t[1:2])
        torch.manual_seed(2)
        assert function(model, tokens[1:2, :2], t[1:2]).equal(one)
    x = torch.randn(4, L, W)
    other = torch.where((tokens != PAD)[..., None], x, 100.0)
    mask = tokens != PAD
    a, b = model(x, t / T, mask), model(other, t / T, mask)
    torch.testing.assert_close(a[mask], b[mask])
    v = torch.where(mask, 1.0, math.nan)
    assert (
        word_chain.total(v, mask).tolist() == [5, 2, 1, 5] and word_chain.average(v, mask).tolist() == [1] * 4
    )


def test_labels_are_hidden_now_and_then():
    model, process = net(classes=3), DiffusionLM(TABLE, L, W)
    seen = []
    explain = model.explain
    model.explain = lambda x, u, mask=None, before=None, label=None, at=None: (
        seen.append(label) or explain(x, u, mask, before, label, at)
    )
    tokens = torch.randint(0, K, (4000, L))
    process.loss(model, Labelled(tokens, torch.arange(4000) % 3), process.sample_t(4000))
    hidden = (seen[0] == 3).float().mean().item()
    assert abs(hidden - 0.1) < 0.02 and (seen[0][seen[0] < 3] == (torch.arange(4000) % 3)[seen[0] < 3]).all()
    process.loss(model, tokens[:5], process.sample_t(5))
    assert seen[1] is None


def test_a_network_that_recalls_is_trained_with_its_own_estimate_half_of_the_time():
    model, process = net(recall=True), DiffusionLM(TABLE, L, W)
    tokens, t = torch.randint(0, K, (2000, L)), torch.full((2000,), 30)
    seen, explain = [], model.explain
    model.explain = lambda x, u, mask=None, before=None, label=None, at=None: (
        seen.append((x, before)) or explain(x, u, mask, before, label, at)
    )
    process.loss(model, tokens, t)
    x, before = seen[0]
    own = model(x, t / T, tokens != PAD, torch.zeros_like(x)).detach()
    used = before.flatten(1).any(1)
    assert abs(used.float().mean() - 0.5) < 0.05 and not before.requires_grad
    torch.testing.assert_close(before[used], own[used])


# A network that is asked for some positions


class Asked(MixingNet):
    """Remembers which positions it was asked for."""

    def estimate_and_law(self, h, x, u, at):
        self.rows = [*getattr(self, "rows", []), at]
        return super().estimate_and_law(h, x, u, at)


@pytest.mark.parametrize("rounding", ["gold", "prediction", "none"])
def test_loss_and_bound_ask_for_words_only_and_are_the_same(rounding):
    torch.manual_seed(0)
    model = Asked(K, W, TABLE, 16, 2, 1, normalised=True, recall=True)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    process, tokens, t = DiffusionLM(TABLE, L, W, rounding), ids(), I([1, 5, 20, T])
    mask = tokens != PAD
    found = {}
    for takes in (True, False):
        model.takes_at = takes
        for name in ("loss", "bound", "term"):
            torch.manual_seed(2)
            value = getattr(process, name)(model, tokens, t)
            model.zero_grad()
            value.sum().backward()
            grad = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            found[name, takes] = [value.detach(), *grad]
    for name in ("loss", "bound", "term"):
        torch.testing.assert_close(found[name, True], found[name, False])
    asked = [r for r in model.rows if r is not None]
    assert len(asked) == 4 and all(r.equal(mask) for r in asked if len(r) == 4)


# Sampling


@pytest.mark.parametrize("steps", [10, 40, 400])
def test_samples_of_the_oracle_are_sentences_of_the_language(steps):
    """Every sampler of chapters 1 to 3 brings the words back; with many steps also their law."""
    torch.manual_seed(1)
    process, language, oracle = toy(400, K=3, L=2, width=2)
    oracle.table = torch.tensor([[3.0, 0], [-3, 0], [0, 4]], dtype=torch.float64)
    n, A = (500 if steps == 400 else 2000), process.alpha_bar
    law = torch.stack([language.log_prob(I([[i, j]])) for i in range(3) for j in range(3)]).exp().flatten()
    kinds = [process] + (
        [DDIM(A, (2, 2), eta=0.0, predicts="x0"), DDPM(A, (2, 2), "x0")] if steps == 40 else []
    )
    if steps == 40:
        kinds.append(DPMSolver(VP(S.sqrt(), (2, 2), predicts="x0")))
        kinds.append(Analytic(A, (2, 2), eta=1.0, conditional_variance=torch.zeros(401), predicts="x0"))
    for kind in kinds:
        tokens = process.decode(oracle, last(sample(kind, oracle, n, steps))[1])
        found = (tokens[:, 0] * 3 + tokens[:, 1]).bincount(minlength=9) / n
        assert (found - law).abs().sum() / 2 < 0.1


def test_codebook_is_drawn_whole_at_any_number_of_steps():
    """With the exact network of 8 random sentences every sample is one of them, from 20 steps on."""
    book = torch.randint(0, 20, (8, 6))
    table = torch.randn(20, 4)
    process = DiffusionLM(S.table(S.sqrt(), 2000), 6, 4)
    for steps in (20, 100, 2000):
        ddim = DDIM(process.alpha_bar, (6, 4), eta=0.0, predicts="x0")
        x = last(sample(ddim, DataOracle(ddim, table[book]), 100, steps))[1]
        tokens = nearest(x, table)
        assert (tokens[:, None] == book).all(-1).any(1).all()


def test_rounded_sampling_ends_on_embeddings():
    process, model = DiffusionLM(TABLE, L, W), net()
    mask = torch.ones(6, L, dtype=torch.bool)
    x = last(sample(process, ClampingTrick(Given(model, mask=mask)), 6, 10))[1]
    assert x.equal(model.embedding.weight[process.decode(model, x)].detach())


def test_infilling_keeps_what_is_known(unchecked):
    process, model, tokens = DiffusionLM(TABLE, L, W), net(), torch.randint(0, K, (6, L))
    known = torch.rand(6, L) < 0.5
    with pytest.raises(ValueError, match="clamp is not exact for DiffusionLM"):
        sample(process, model, 6, 5, clamp=D.anchor(model, tokens, known))
    clamp = D.anchor(model, tokens, known, approximate=True)
    for _, x in sample(process, model, 6, 5, clamp=clamp):
        assert x[known].equal(model.embedding.weight[tokens][known]) and not x[~known].isnan().any()
    assert process.decode(model, x)[known].equal(tokens[known])
    with pytest.raises(ValueError, match="known and tokens must have one shape"):
        D.anchor(model, tokens, known[:, :2])


# Bad input


@pytest.mark.parametrize(
    "options, message",
    [
        ({"length": 0}, "length must be at least 1, not 0"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"rounding": "silver"}, "rounding must be one of gold, prediction, none, not 'silver'"),
        ({"variance": "tiny"}, "variance must be one of word, small, large, not 'tiny'"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"decoder_var": -1.0}, "decoder_var must be > 0, not -1.0"),
        ({"lengths": torch.ones(3, dtype=torch.long)}, "lengths must be 6 counts"),
        ({"lengths": -torch.ones(6, dtype=torch.long)}, "lengths must be 6 counts"),
    ],
)
def test_settings_are_checked(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        DiffusionLM(TABLE, **{"length": L, "width": W} | options)


def test_states_and_sentences_are_checked(unchecked):
    process, model = DiffusionLM(TABLE, L, W), net()
    t = I([1, 2])
    for shape in ((2, L + 1, W), (2, L, W + 1), (0, L, W), (2, 0, W), (2, L)):
        with pytest.raises(ValueError, match=r"x0 must have shape \(B >= 1, 1 <= L <= 5, 3\)"):
            process.corrupt(torch.zeros(shape), t)
    with pytest.raises(TypeError, match="x0 must be a float tensor, not torch.int64"):
        process.corrupt(torch.zeros(2, L, W, dtype=torch.long), t)
    assert process.corrupt(torch.zeros(2, 2, W), t).shape == (2, 2, W)
    for bad in (I([[PAD, 1]]), I([[1, PAD, 2]]), I([[PAD, PAD]])):
        with pytest.raises(ValueError, match="tokens must have a word in each row, and PAD only at its end"):
            process.loss(model, bad, I([3]))
    with pytest.raises(ValueError, match="t must lie in"):
        process.loss(model, ids(), I([1, 2, 3, T + 1]))
    with pytest.raises(ValueError, match="before needs a network with recall"):
        model(torch.zeros(2, L, W), torch.rand(2), None, torch.zeros(2, L, W))
    with pytest.raises(ValueError, match="label one with classes"):
        model(torch.zeros(2, L, W), torch.rand(2), None, None, I([0, 1]))


# Networks and numbers that are none


@pytest.mark.parametrize("call, missing", [
    (lambda p, m: p.loss(m, ids(), I([1, 2, 3, 4])), "embed"),
    (lambda p, m: p.bound(m, ids(), I([1, 2, 3, 4])), "embed"),
    (lambda p, m: p.encode(m, ids()), "embed"),
    (lambda p, m: p.decode(m, torch.zeros(4, L, W)), "table"),
    (lambda p, m: p.loss_at(m, ids(), *torch.zeros(2, 4, L, W), I([1, 2, 3, 4])), "embed, (explain, )?table, logits"),
])  # fmt: skip
def test_a_network_without_words_is_named(call, missing, unchecked):
    for model in (MLP((L, W)), Given(MLP((L, W)), mask=None)):
        name = type(model).__name__
        with pytest.raises(TypeError, match=f"such as EmbeddingNet, but {name} has no {missing}: course_lib"):
            call(DiffusionLM(TABLE, L, W), model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_tokens_of_any_width_are_the_same_tokens(dtype, unchecked):
    process, model, tokens, t = DiffusionLM(TABLE, L, W), net(recall=True), ids(), I([1, 5, 20, T])
    for name in ("loss", "bound", "term"):
        found = []
        for given in (tokens, tokens.to(dtype)):
            torch.manual_seed(1)
            found.append(getattr(process, name)(model, given, t))
        assert found[0].equal(found[1])
    with pytest.raises(TypeError, match="tokens must be integers"):
        process.loss(model, tokens.float(), t)


def test_nothing_that_is_not_finite_becomes_a_word():
    process, model = DiffusionLM(TABLE, L, W), net()
    for bad in (float("nan"), float("inf")):
        x = torch.zeros(4, L, W)
        x[2, 1, 0] = bad
        with pytest.raises(
            FloatingPointError, match="x must be finite to become words, but is not at 1 of 20"
        ):
            process.decode(model, x)
        told = Given(model, mask=torch.arange(L).expand(4, L) < 1)  # there is padding
        assert process.decode(told, x)[:, 1:].eq(PAD).all()


@pytest.mark.parametrize("kind", [EmbeddingNet, MixingNet])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reaches_the_network_and_not_the_loss(kind, dtype):
    """With self-conditioning, too: by weights of that precision, and under autocast."""
    process, tokens, t = DiffusionLM(TABLE, L, W), ids(), I([1, 5, 20, T])
    model = net(kind, recall=True)
    x0 = process.encode(model, tokens)
    rounding = process.rounding_nll(model, x0, tokens)
    torch.manual_seed(1)
    want = process.loss(model, tokens, t)
    with torch.autocast("cpu", dtype):
        assert process.rounding_nll(model, x0, tokens).equal(rounding)
        assert nearest(x0, model.table).equal(nearest(x0.double(), model.table.double()))
        torch.manual_seed(1)
        found = process.loss(model, tokens, t)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want, rtol=0.05, atol=0.05)
    found.mean().backward()
    torch.manual_seed(1)
    torch.testing.assert_close(process.loss(model.to(dtype), tokens, t).float(), want, rtol=0.1, atol=0.1)
    assert process.bound(model, tokens, t).isfinite().all()


def test_answers_of_another_shape_are_refused(unchecked):
    process, model, tokens, t = DiffusionLM(TABLE, L, W), net(MixingNet), ids(), I([1, 5, 20, T])
    explain = model.explain
    for change, words in (
        (lambda x0, log_p: (x0[..., :1], log_p), r"model must return shape \(4, 5, 3\), not \(4, 5, 1\)"),
        (lambda x0, log_p: (x0, log_p[:, :1]), r"model must return shape \(13, 6\), not \(13, 1\)"),
        (lambda x0, log_p: (x0, log_p[:1]), r"model must return shape \(13, 6\), not \(1, 6\)"),
    ):
        model.explain = lambda *a, change=change, **k: change(*explain(*a, **k))
        with pytest.raises(ValueError, match=words):
            process.loss(model, tokens, t)
    model.explain = lambda *a, **k: explain(*a, **k)[0]
    with pytest.raises(TypeError, match=r"model.explain must return \(x_0, log law of words\)"):
        process.loss(model, tokens, t)
    model.explain = lambda *a, **k: (explain(*a, **k)[0], explain(*a, **k)[1] * float("nan"))
    with pytest.raises(FloatingPointError, match="the model's law of words must be finite"):
        process.loss(model, tokens, t)


def test_loss_and_bound_at_a_draw_are_those_of_that_draw(unchecked):
    process, model, tokens, t = DiffusionLM(TABLE, L, W), net(), ids(), I([1, 5, 20, T])
    torch.manual_seed(2)
    _, _, x0, x_t = process.diffuse(model, tokens, t)
    for name in ("loss", "bound"):
        torch.manual_seed(2)
        whole = getattr(process, name)(model, tokens, t)
        assert getattr(process, f"{name}_at")(model, tokens, x0, x_t, t).equal(whole)
        with pytest.raises(ValueError, match="x_t must have a vector for each of the"):
            getattr(process, f"{name}_at")(model, tokens, x0, x_t[:, :2], t)
