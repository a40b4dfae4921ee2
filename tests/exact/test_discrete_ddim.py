"""The step of uniform noise against diffusers' DiscreteDDIMScheduler, which draws x_0 first: the same laws to 1e-12."""

import pytest
import torch
import torch.nn.functional as F

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
