"""Uniform noise against diffusers: DiscreteDDIMScheduler's step and corrector, EntropyBoundScheduler's acceptance.

Its step draws x_0 first: the same laws to 1e-12. What its switches say unless told otherwise is tested with them.
"""

import pytest
import torch
import torch.nn.functional as F

from course_lib import correctors as C
from course_lib import decoding
from course_lib.categorical import draw
from course_lib.d3pm import D3PM
from course_lib.schedules import log_linear, table
from course_lib.stationary import Uniform

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
if not hasattr(diffusers, "DiscreteDDIMScheduler"):
    pytest.skip("needs diffusers 0.39", allow_module_level=True)

K, T, B, L = 5, 7, 3, 4


@pytest.fixture
def theirs(monkeypatch):
    """(logits, time T..1, x_t, x_0) -> (law of x_s given x_t and x_0, law of x_0): what its step draws from.

    It casts to float32 and returns draws only, so `float` keeps float64 here, and its draws are seen and forced.
    """
    scheduler = diffusers.DiscreteDDIMScheduler(num_inference_steps=T)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)

    def laws(logits, t, x_t, x0):
        seen = []

        def multinomial(p, num_samples, generator=None):
            seen.append(p)
            return x0.reshape(-1, 1) if len(seen) == 1 else torch.zeros(B * L, 1, dtype=torch.long)

        with monkeypatch.context() as patch:
            patch.setattr(torch, "multinomial", multinomial)
            scheduler.step(logits, T - t, x_t, temperature=1.0)
        p0, (clean, stay, noise) = seen[0], seen[1].T.reshape(3, B, L, 1)
        to_x0, to_x_t = (F.one_hot(x, K).double() for x in (x0, x_t))
        return clean * to_x0 + stay * to_x_t + noise / K, p0.reshape(B, L, K)

    return laws


def times(t):
    return torch.full((B,), t), torch.full((B,), t - 1)


@pytest.fixture
def noise():
    return Uniform(K, table(log_linear(0.0), T, max_beta=1.0))  # alpha_bar = 1 - t / T, as theirs


@pytest.mark.parametrize("t", range(1, T + 1))
def test_posterior_given_x0(theirs, noise, t):
    x0, x_t = torch.randint(K, (2, B, L))
    x0[0] = x_t[0]
    law, _ = theirs(torch.zeros(B, L, K), t, x_t, x0)
    later, earlier = times(t)
    want = noise.posterior(F.one_hot(x0, K).double(), x_t, earlier, later)
    torch.testing.assert_close(law, want, rtol=0, atol=1e-12)
    assert law.sum(-1).sub(1).abs().max() < 1e-12


@pytest.mark.parametrize("t", range(1, T + 1))
def test_step_of_a_network(theirs, noise, t):
    """Their network says p(x_0 | x_t). The mean of the posteriors under it is D3PM's step with predicts="posterior"."""
    process = D3PM(noise, L, predicts="posterior")
    logits, x_t = torch.randn(B, L, K, dtype=torch.float64), torch.randint(K, (B, L))
    mixed = torch.zeros(B, L, K, dtype=torch.float64)
    for k in range(K):
        law, p0 = theirs(logits, t, x_t, torch.full((B, L), k))
        mixed += p0[..., k : k + 1] * law
    later, earlier = times(t)
    log_p = process.predict_x0(lambda x, u: logits, x_t, later)
    ours = noise.posterior(log_p.exp(), x_t, earlier, later)
    torch.testing.assert_close(ours, mixed, rtol=0, atol=1e-12)
    # The same numbers read as the leave-one-out law are another step, unless x_t = x_T says nothing anyway.
    other = noise.posterior(logits.softmax(-1), x_t, earlier, later)
    assert t == T or (other - mixed).abs().max() > 1e-3


@pytest.mark.parametrize("t", range(1, T))
def test_leave_one_out_law(noise, t):
    logits, x_t = torch.randn(B, L, K, dtype=torch.float64), torch.randint(K, (B, L))
    found = diffusers.DiscreteDDIMScheduler._to_loo_logits(logits, x_t, 1 - t / T).log_softmax(-1)
    later, _ = times(t)
    want = noise.loo_from_posterior(logits.log_softmax(-1), x_t, later)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


def test_the_step_takes_the_likeliest_x0_unless_a_temperature_is_given():
    """Exact it is at temperature 1; the default is 0, and so is that of the pipelines."""
    scheduler = diffusers.DiscreteDDIMScheduler(num_inference_steps=T)
    logits, x_t = torch.randn(B, L, K), torch.randint(K, (B, L))
    said = [scheduler.step(logits, T - 3, x_t).sampled_tokens for _ in range(5)]
    assert all(torch.equal(x0, logits.argmax(-1)) for x0 in said)
    many = logits[:1].expand(2000, -1, -1)
    drawn = scheduler.step(many, T - 3, x_t[:1].expand(2000, -1), temperature=1.0).sampled_tokens
    seen = F.one_hot(drawn, K).double().mean(0)
    assert ((seen - logits[0].softmax(-1)).abs() < 5 * 0.5 / 2000**0.5).all()


MEASURES = {
    "lowest_log_margin": C.margin,
    "lowest_current_prob": C.current,
    "lowest_maxprob": C.likeliest,
}


@pytest.mark.parametrize("selection", [None, *MEASURES])
def test_the_corrector_chooses_softly(selection):
    """Its choice of a position is softly(measure), margin by default; it does not run unless it is asked to."""
    settings = {} if selection is None else {"corrector_selection": selection}
    scheduler = diffusers.DiscreteDDIMScheduler(T, **settings)
    assert scheduler.config.corrector_steps == 0 and scheduler.config.corrector_k == 1
    measure = MEASURES[selection or "lowest_log_margin"]
    n, x = 20000, torch.randint(K, (1, L))
    c = torch.randn(1, L, K, dtype=torch.float64).softmax(-1)
    chosen = scheduler._select_positions(x.expand(n, -1), c.log().expand(n, -1, -1), None)
    seen = torch.bincount(chosen[:, 0], minlength=L) / n
    want = C.softly(measure)(c, x)[0]
    assert ((seen - want).abs() < 5 * 0.5 / n**0.5).all()


def test_the_corrector_draws_from_the_conditional_of_p_s(monkeypatch, noise):
    """With a network that says p(x_0 | x_s), as D3PM(predicts="posterior")."""
    process, t = D3PM(noise, L, predicts="posterior"), 3
    logits, x = torch.randn(B, L, K, dtype=torch.float64), torch.randint(K, (B, L))
    scheduler = diffusers.DiscreteDDIMScheduler(T, corrector_k=L, corrector_selection="random")
    seen, first = [], torch.zeros(B * L, 1, dtype=torch.long)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", lambda p, num_samples, generator=None: seen.append(p) or first)
        patch.setattr(torch, "rand", lambda *shape, **_: torch.arange(L).flip(0).expand(shape))
        scheduler.step_correct(logits, T - t - 1, x)
    want = C.token_given_others(process, lambda x, u: logits, x, t)
    torch.testing.assert_close(seen[0].reshape(B, L, K), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("step", [0, 3, 6])
@pytest.mark.parametrize("bound", [0.0, 0.1, 1.0, 2.5])
def test_what_the_entropy_bound_accepts(step, bound):
    """The positions of entropy_bounded for the *tempered* law, from 0.8 towards 0.4; every position is a candidate."""
    scheduler = diffusers.EntropyBoundScheduler(num_inference_steps=T)
    assert scheduler.config.entropy_bound == 0.1
    logits, x = 2 * torch.randn(B, 9, K, dtype=torch.float64), torch.full((B, 9), K - 1)
    out = scheduler.step(logits, step, x, entropy_bound=bound)
    p = decoding.temper(logits.softmax(-1), 0.4 + 0.4 * (T - step) / T)
    want = decoding.entropy_bounded(bound)(p, torch.ones(B, 9, dtype=torch.bool), 1, draw)
    assert torch.equal(out.accepted_index, want)
    assert torch.equal(out.prev_sample[want], out.sampled_tokens[want])
    if bound == 0:  # what is not accepted is random again, whatever stood there
        others = torch.cat(
            [scheduler.step(logits, step, x, entropy_bound=0.0).prev_sample[~want] for _ in range(99)]
        )
        seen = torch.bincount(others, minlength=K) / len(others)
        assert ((seen - 1 / K).abs() < 5 * 0.5 / len(others) ** 0.5).all()
