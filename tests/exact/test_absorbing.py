"""Absorbing noise, alone and beside random tokens: what opens when, both priors, clocks that end at 0."""

import math

import pytest
import torch
from noises import NOISES, TABLE, L, T, V, general, times
from torch import tensor

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.categorical import draw_many
from course_lib.mask_uniform import MaskUniform


def test_for_absorbing_noise_posterior_and_leave_one_out_are_one():
    noise, log_p = Absorbing(V, TABLE), torch.randn(2, L, V).log_softmax(-1)
    x_t = torch.full((2, L), noise.mask)
    for change in (noise.loo_from_posterior, noise.posterior_from_loo):
        torch.testing.assert_close(change(log_p, x_t, times(2, 3)), log_p)


def test_reveals_is_the_chance_of_an_open_mask():
    noise = Absorbing(V, NOISES["absorbing to 0"]().log_alpha_bar.exp())
    a = noise.log_alpha_bar.exp()
    for t in range(1, T + 1):
        for s in range(t):
            got = noise.unmasking_probability(times(s), times(t))
            torch.testing.assert_close(got, ((a[s] - a[t]) / (1 - a[t]))[None], rtol=1e-12, atol=0)
    x = torch.full((50, 1000), noise.mask)
    x[:, 0] = 1
    opened = noise.unmasks(x, times(2).expand(50), times(4).expand(50))
    assert not opened[:, 0].any()
    assert abs(opened[:, 1:].double().mean() - (a[2] - a[4]) / (1 - a[4])) < 0.01


def test_the_default_share_of_masks_is_two_thirds():
    noise = MaskUniform(V, TABLE)
    Q = noise.matrix(times(0), times(2))[0]
    torch.testing.assert_close(1 - Q[0, V], TABLE[2] ** (2 / 3))
    torch.testing.assert_close(Q[0, 0] - Q[0, 1], TABLE[2])


def test_a_prior_of_random_leftovers_or_of_masks():
    """alpha_T log V for what the clock leaves, or infinitely much; the same where it leaves nothing."""
    x0 = torch.randint(0, V, (2, L))
    random, masks = Absorbing(V, TABLE), Absorbing(V, TABLE, prior="mask")
    torch.testing.assert_close(random.prior(), tensor([TABLE[-1] / V] * V + [1 - TABLE[-1]]))
    assert masks.prior().tolist() == [0] * V + [1] and masks.prior().dtype == torch.float64
    torch.testing.assert_close(
        random.prior_kl(x0), torch.full((2, L), TABLE[-1].item() * math.log(V)).double()
    )
    assert (masks.prior_kl(x0) == math.inf).all()
    torch.testing.assert_close(masks.prior_kl(x0), general(masks, "prior_kl")(x0))
    for prior in ("uniform", "mask"):
        none_left = Absorbing(V, S.log_linear(0.0), prior)
        assert none_left.prior().tolist() == [0] * V + [1] and (none_left.prior_kl(x0) == 0).all()
    assert (draw_many(masks.prior(), (9, L)) == V).all()
    torch.testing.assert_close(masks.kl(x0, x0 * 0 + V, torch.zeros(2, L, V), times(1, 2), times(3, 4)),
                               random.kl(x0, x0 * 0 + V, torch.zeros(2, L, V), times(1, 2), times(3, 4)))  # fmt: skip


def test_impossible_tokens_that_are_seen_cost_nothing():
    """-log p0 may be infinite where no mask stands: it is not asked for there."""
    noise, log_p = Absorbing(V, TABLE), tensor([[[0.0, -math.inf, 0.0, 0.0]] * 2])
    assert noise.kl(tensor([[1, 0]]), tensor([[1, V]]), log_p, times(1), times(2)).tolist() == [[0.0, 0.0]]


# Bad input


@pytest.mark.parametrize("call, error, words", [
    (lambda: Absorbing(3, TABLE, prior="masks"), ValueError, "prior must be one of uniform, mask, not 'masks'"),
    (lambda: Absorbing(1, TABLE), ValueError, "V must be at least 2, not 1"),
    (lambda: MaskUniform(1, TABLE), ValueError, "V must be at least 2, not 1"),
    (lambda: MaskUniform(3, TABLE, 1.0), ValueError, "mask_share must lie between 0 and 1, not 1.0"),
    (lambda: MaskUniform(3, TABLE, 0.0), ValueError, "mask_share must lie between 0 and 1, not 0.0"),
])  # fmt: skip
def test_bad_input_is_named(call, error, words, unchecked):
    with pytest.raises(error, match=words):
        call()
