"""Chapter 7's exercises: other right answers pass, and what the library says is what the references say."""

import math

import pytest
import torch
import torch.nn.functional as F

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.exercise import find, grade
from course_lib.score_entropy import bregman, score_entropy_stationary
from course_lib.sedd import SEDD
from course_lib.solutions import sedd
from course_lib.stationary import Uniform


def test_other_right_answers_pass():
    def loop(p):
        s = torch.zeros(*p.shape, len(p), dtype=p.dtype)
        for y in range(len(p)):
            s[:, :, y] = p[y][None] / p
        return s

    right = {
        "sedd.concrete_score": loop,
        "sedd.score_entropy": bregman,
        "sedd.reverse_rates": lambda R, s, x: (s * R[:, x]).clamp(min=0),
        "sedd.uniform_ratio": lambda sigma, K: 1 / (1 + K / torch.expm1(sigma)),
        "sedd.euler_steps": lambda rate, K: -int(-rate * (1 - 1 / K) // 1),
        "sedd.next_level": lambda level, masks, u: level * (u.log() / masks).exp(),
    }
    for name, fn in right.items():
        assert grade(find(name), fn) == ("PASS", ""), name


@pytest.mark.parametrize("name, answer, hint", [
    ("euler_steps", lambda rate, K: 7, "There yours gives 7, and it is 21"),
    ("euler_steps", lambda rate, K: math.floor(rate * (K - 1) / K) + 1, "right but for whole numbers"),
    ("concrete_score", lambda p: p.T[None] / p[:, :, None] ** 2, "FAIL"),
    ("score_entropy", lambda log_s, rho: 2 * sedd.score_entropy(log_s, rho), "your answer is 2 times what is expected"),
    ("score_entropy", lambda log_s, rho: sedd.score_entropy(log_s.detach(), rho), "no gradient"),
    ("reverse_rates", lambda R, s, x: sedd.reverse_rates(R, s.exp(), x), "exp(s) in the place of s"),
    ("reverse_rates", lambda R, s, x: sedd.reverse_rates(R, s - 1, x), "s - 1 in the place of s"),
    ("uniform_ratio", lambda sigma, K: sedd.uniform_ratio(sigma**2, K), "sigma^2 in the place of sigma"),
    ("tweedie", lambda s, x_t, D: sedd.tweedie(s, x_t, -D), "-D in the place of D"),
    ("masks_loss", lambda f, x0, x_t, w: sedd.masks_loss(f, x0, x_t, w / w), "for 1 in the place of weight"),
    ("masks_loss", lambda f, x0, x_t, w: sedd.masks_loss(f, x0, x_t, w) / 7, "0.1429 times what is expected"),
    ("next_level", lambda level, masks, u: level * (1 - u) ** (1 / masks), "the right distribution"),
])  # fmt: skip
def test_mistakes_that_no_list_holds_are_described(name, answer, hint):
    state, text = grade(find(f"sedd.{name}"), answer)
    assert state == "FAIL" and (hint in text or hint == state), text


def test_one_fraction_without_expm1_has_digits_enough():
    assert grade(find("sedd.uniform_ratio"), lambda s, K: (s.exp() - 1) / (s.exp() - 1 + K)) == ("PASS", "")


def test_references_are_the_librarys_formulas():
    K, t = 5, torch.tensor([0.6])
    noise = Uniform(K, S.geometric(1e-2, 8.0))
    process, sigma = SEDD(noise, 3), -noise.log_alpha(t)
    same = score_entropy_stationary(
        noise, torch.zeros(1, 1, K).double(), torch.tensor([[1]]), torch.tensor([[1]]), -sigma
    )
    rho = sedd.uniform_ratio(sigma, K)
    want = (K - 1) / K * sedd.score_entropy(torch.zeros(1).double(), rho)
    torch.testing.assert_close(same[0], want)
    log_s, x_t, s = torch.randn(1, 3, K).double() / 5, torch.tensor([[0, 2, 4]]), torch.tensor([0.55])
    log_s = log_s.scatter(-1, x_t[..., None], 0.0)
    D = (noise.log_alpha(s) - noise.log_alpha(t)).item()
    torch.testing.assert_close(process.law(log_s, x_t, t, s)[0], sedd.tweedie(log_s[0].exp(), x_t[0], D))
    masks = SEDD(Absorbing(K, S.log_linear()), 3)
    f, x0, hidden = (
        torch.randn(2, 3, K).double(),
        torch.tensor([[0, 1, 2], [3, 3, 4]]),
        torch.tensor([[5, 1, 5], [3, 5, 4]]),
    )
    t = torch.tensor([0.3, 0.8])
    torch.testing.assert_close(
        masks.diffusion_term_at(lambda x, u: f, x0, hidden, t),
        sedd.masks_loss(f, x0, hidden, masks.weight(t)),
    )
    assert sedd.euler_steps(20 * math.log(2e5), 27) == 236
    x = torch.tensor([[1, 2]])
    torch.testing.assert_close(
        noise.rates(x)[0, 0] * torch.arange(1, 6),
        sedd.reverse_rates(sedd.uniform_rates(K), torch.arange(1.0, 6).double(), 1),
    )


def test_the_batch_does_not_pass_for_the_vocabulary():
    def tweedie(s, x_t, D):
        K = len(s)
        before = math.exp(D) * s + (1 - math.exp(D)) / K * s.sum(-1, keepdim=True)
        return before * (math.exp(-D) * F.one_hot(x_t, s.shape[-1]) + (1 - math.exp(-D)) / K)

    assert grade(find("sedd.tweedie"), tweedie)[0] == "FAIL"
