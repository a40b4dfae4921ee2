"""Sentences chosen by their bound, and words read again, against enumeration of a toy language."""

import pytest
import torch

from course_lib.diffusion_lm import DiffusionLM
from course_lib.embeddings import embed
from course_lib.nets import Given
from course_lib.proofread import proofread, pseudo_log_likelihood, rerank
from course_lib.self_conditioning import SelfConditioned
from course_lib.sentences import PAD
from course_lib.word_nets import MixingNet
from tests.words import TABLE, K, L, T, W, ids, net, toy

# Chosen by the bound


def test_rerank_takes_the_draw_of_least_bound(monkeypatch):
    process, model = DiffusionLM(TABLE, L, W), net()
    draws, asked = torch.randint(0, K, (3, 4, L)), []

    def bound(network, data, t):
        assert network is model and not torch.is_grad_enabled() and not model.training
        asked.append(t.tolist())
        return data.double().square().sum(1) * t

    monkeypatch.setattr(process, "bound", bound)
    chosen, bounds = rerank(process, model, draws, levels=4)
    worth = draws.double().square().sum(-1)
    assert asked == [[t] * 4 for t in (5, 15, 25, 35) for _ in range(3)]
    torch.testing.assert_close(bounds, 20 * worth)
    assert chosen.equal(torch.stack([draws[worth[:, b].argmin(), b] for b in range(4)]))
    asked.clear()
    rerank(process, model, draws, levels=100)
    assert min(asked)[0] == 1 and max(asked)[0] == T
    rerank(process, model, draws[:1])
    assert len(asked) == 300 + 20 and model.training


def test_of_all_draws_the_oracle_takes_the_likelier():
    process, language, oracle = toy()
    X = torch.cartesian_prod(*[torch.arange(4)] * 3)
    order = X[language.log_prob(X).argsort()]
    pairs = torch.stack([order[:20], order[-20:]])
    swapped = torch.arange(20) % 2 == 1
    pairs[:, swapped] = pairs[:, swapped].flip(0)
    chosen, bounds = rerank(process, oracle, pairs)
    assert chosen.equal(order[-20:]) and bounds.shape == (2, 20) and bounds.dtype == torch.float64


@pytest.mark.parametrize(
    ("draws", "levels", "message"),
    [
        (torch.zeros(3, L).long(), 4, r"draws must have shape \(k >= 1, B >= 1, L\), not \(3, 5\)"),
        (torch.zeros(0, 3, L).long(), 4, r"not \(0, 3, 5\)"),
        (torch.zeros(2, 3, L).long(), 0, "levels must be"),
    ],
)
def test_rerank_checks_what_it_is_given(draws, levels, message, unchecked):
    with pytest.raises(ValueError, match=message):
        rerank(DiffusionLM(TABLE, L, W), net(), draws, levels)


# Reading it again


def everywhere(language, tokens):
    """ln p(w_i | all other words) by enumeration, (B, L, K)."""
    B, L = tokens.shape
    each = tokens[:, None, None].expand(B, L, language.K, L).clone()
    for i in range(L):
        each[:, i, :, i] = torch.arange(language.K)
    return language.log_prob(each.flatten(0, 2)).view(B, L, -1).log_softmax(-1)


def test_what_the_others_say_is_the_conditional():
    process, language, oracle = toy(400)
    X = torch.cartesian_prod(*[torch.arange(4)] * 3)
    mask, log_p = pseudo_log_likelihood(process, oracle, X, u=1 / 400)
    assert mask.all() and log_p.shape == (64 * 3, 4) and log_p.dtype == torch.float64
    torch.testing.assert_close(log_p.view(64, 3, 4), everywhere(language, X), atol=1e-3, rtol=0)
    blurred = pseudo_log_likelihood(process, oracle, X, u=0.8)[1]
    assert (blurred.view(64, 3, 4) - everywhere(language, X)).abs().mean() > 0.1


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_what_the_others_say_is_the_clue_of_the_network(normalised, tied):
    process, model, tokens = DiffusionLM(TABLE, L, W), net(MixingNet, normalised=normalised, tied=tied), ids()
    t, mask = 20, tokens != PAD
    r = TABLE[t].sqrt().float()
    h = model.features(r * embed(model, tokens), torch.full((4,), t / T), mask)
    g = model.leave(h) @ model.table.T + model.bias if tied else model.leave(h) + model.bias
    got, log_p = pseudo_log_likelihood(process, model, tokens, u=t / T)
    assert got.equal(mask) and not log_p.requires_grad
    torch.testing.assert_close(log_p, g.log_softmax(-1)[mask], atol=1e-4, rtol=1e-4)
    latest = pseudo_log_likelihood(process, model, tokens, u=1e-9)[1]
    torch.testing.assert_close(latest, pseudo_log_likelihood(process, model, tokens, u=1 / T)[1])
    assert not latest.allclose(log_p)


def test_what_the_others_say_needs_a_network_that_mixes_and_sentences_that_fit():
    process, model = DiffusionLM(TABLE, L, W), net()
    mask = torch.ones(4, L, dtype=torch.bool)
    for network in (model, Given(model, mask=mask), SelfConditioned(Given(model, mask=mask))):
        with pytest.raises(
            TypeError, match="model must mix words, as MixingNet does, not be an EmbeddingNet"
        ):
            pseudo_log_likelihood(process, network, ids())
    long = torch.zeros(2, L + 1, dtype=torch.long)
    with pytest.raises(ValueError, match=f"tokens must have at most {L} places, not {L + 1}"):
        pseudo_log_likelihood(process, net(MixingNet), long)


def test_proofreading_climbs_the_law_of_sentences():
    process, language, oracle = toy(400)
    X = torch.cartesian_prod(*[torch.arange(4)] * 3)
    for gain in (0.0, 0.7):
        x = X
        for _ in range(3):
            law = everywhere(language, x)
            gains = law.amax(-1) - law.gather(2, x[..., None])[..., 0]
            most, place = gains.max(1)
            want = x.clone()
            rows = (most > gain).nonzero()[:, 0]
            want[rows, place[rows]] = law.argmax(-1)[rows, place[rows]]
            kept, x = x, proofread(process, oracle, x, gain=gain, rounds=1, u=1 / 400)
            assert x.equal(want)
            rise = language.log_prob(x) - language.log_prob(kept)
            torch.testing.assert_close(rise, most * (most > gain), atol=1e-8, rtol=0)
        assert proofread(process, oracle, X, gain=gain, rounds=3, u=1 / 400).equal(x)
        done = proofread(process, oracle, X, gain=gain, u=1 / 400)
        law = everywhere(language, done)
        assert (law.amax(-1) - law.gather(2, done[..., None])[..., 0]).max() <= gain + 1e-3
        assert not done.equal(X)


def test_proofreading_leaves_PAD_and_what_it_was_given():
    process, model, tokens = DiffusionLM(TABLE, L, W), net(MixingNet), ids()
    model.bias.data[3] += 9
    before = tokens.clone()
    read = proofread(process, model, tokens)
    assert tokens.equal(before) and read.equal(torch.where(tokens == PAD, PAD, 3))
    assert proofread(process, model, tokens, gain=99.0).equal(tokens)
    assert ((proofread(process, model, tokens, rounds=2) != tokens).sum(1) <= 2).all()


def test_proofreading_checks_its_settings():
    given = DiffusionLM(TABLE, L, W), net(MixingNet), ids()
    for u in (0.0, 1.1):
        with pytest.raises(ValueError, match=rf"u must lie in \(0, 1\], not {u}"):
            proofread(*given, u=u)
    with pytest.raises(ValueError, match="gain must not be negative, but is -1.0"):
        proofread(*given, gain=-1.0)
    with pytest.raises(ValueError, match="rounds must be"):
        proofread(*given, rounds=0)


def test_reading_works_in_eval_mode_and_gives_the_mode_back():
    process, model = DiffusionLM(TABLE, L, W), net(MixingNet)
    model.trunk.register_forward_hook(lambda *_: modes.append(model.training))
    for training in (True, False):
        modes = []
        model.train(training)
        proofread(process, model, ids(), rounds=2)
        rerank(process, model, ids()[None], levels=2)
        assert len(modes) == 4 and not any(modes) and model.training is training


def test_a_law_of_nan_replaces_no_word(unchecked):
    process, model = DiffusionLM(TABLE, L, W), net(MixingNet)
    model.bias.data[2] = float("nan")
    with pytest.raises(FloatingPointError, match="must be finite"):
        proofread(process, model, ids())
    with pytest.raises(FloatingPointError, match="must be finite"):
        rerank(process, model, ids()[None])


def test_reading_takes_integers_of_any_width():
    process, model, tokens = DiffusionLM(TABLE, L, W), net(MixingNet), ids()
    read = proofread(process, model, tokens.int(), gain=0.0)
    assert read.dtype == torch.int32 and read.equal(proofread(process, model, tokens, gain=0.0).int())
