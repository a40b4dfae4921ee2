"""The answers to the exam questions of docs/TEACHING.md, computed by the library; each says what the page prints."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import tensor
from worlds import masked

from course_lib import joint as J
from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.data import GaussianMixture
from course_lib.ddpm import DDPM
from course_lib.decoding import SampledConfidence, Unmask
from course_lib.evaluate import exact_law
from course_lib.likelihood import rademacher, with_divergence
from course_lib.mdlm import MDLM
from course_lib.optimal_variance import Analytic
from course_lib.oracle import MixtureOracle, TableOracle
from course_lib.score_entropy import bregman
from course_lib.sde import VP
from course_lib.sedd import SEDD
from course_lib.solutions.diffusion_lm import collapsed_loss
from course_lib.solvers import RK4, Heun
from course_lib.speculative import acceptance
from course_lib.stationary import Uniform
from course_lib.text_metrics import bleu_table, mbr

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "TEACHING.md").read_text(encoding="utf-8")
EXAM = PAGE.partition("## Exam questions")[2].partition("\n## ")[0]


def answer(number):
    """What the page prints in italics behind a question."""
    question = re.search(rf"^{number}\. (.*?)(?=^\d+\. |\Z)", EXAM, re.M | re.S)[1]
    return " ".join(re.search(r"\*([^*]+)\*\s*$", question)[1].split())


def test_all_sixteen_are_answered():
    assert len(re.findall(r"^\d+\. \(\d\) ", EXAM, re.M)) == 16 and all(answer(n) for n in range(1, 17))


def test_1_a_gaussian_at_a_quarter():
    process = DDPM(tensor([1.0, 0.25]).double(), (1,))
    normal = GaussianMixture([1.0], [[0.0]], [1.0])
    noised = normal.noised(0.25)
    assert noised.sds.square().item() == pytest.approx(1)
    guess = MixtureOracle(process, normal).posterior_mean(tensor([[3.0]]).double(), tensor([0.25]).double())
    assert guess.item() == pytest.approx(3 / 2)
    assert "Variance 1" in answer(1) and "x_t / 2" in answer(1)


def test_2_the_mean_of_t_times_a_term_is_the_sum():
    p = J.random_joint(3, 2, 0.5, 0)
    process = D3PM(Absorbing(3, S.table(S.log_linear(0.0), 4, max_beta=1.0)), 2)
    net, t = TableOracle(process, p), torch.arange(1, 5)
    x0 = tensor([[0, 2]]).expand(4, -1)
    x_t = process.corrupt(x0, t)
    each = process.diffusion_term_at(net, x0, x_t, t)
    torch.testing.assert_close(each.mean(), process.term_at(net, x0, x_t, t).sum())
    assert "$T$ times a term" in answer(2) and "the sum of the terms" in answer(2)


def test_3_what_the_guess_misses_is_put_back():
    table = S.table(S.cosine(), 4)
    missed = tensor([0.0, 0.1, 0.2, 0.3, 0.5]).double()
    good, bad = (Analytic(table, (1,), conditional_variance=v) for v in (missed, 2 * missed))
    t, s = tensor([3]), tensor([2])
    assert bad.transition(t, s).p_var > good.transition(t, s).p_var > good.transition(t, s).q_var
    assert "put back as noise" in answer(3)


class Euler(Heun):
    """The first of Heun's two slopes alone."""

    def advance(self, model, x, eps, t, s, dt):
        return x + dt * self.process.velocity_from_noise(eps, x, t)


def test_4_halving_the_step():
    sde = VP(S.linear(), (1,))
    net = MixtureOracle(sde, GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [0.4, 0.4]))
    x = torch.linspace(-1, 1, 5).double()[:, None]

    def end(solver, steps):
        times, now = torch.linspace(0.7, 0.2, steps + 1).double().tolist(), x
        for t, s in pairwise(times):
            now = solver.step(net, now, *(torch.full((5,), v).double() for v in (t, s)))
        return now

    fine = end(RK4(sde), 40)
    for solver, order in ((Euler(sde), 1), (Heun(sde), 2)):
        coarse, half = ((end(solver, n) - fine).abs().max() for n in (20, 40))
        assert coarse / half == pytest.approx(2**order, rel=0.15)
    assert answer(4).startswith("2 and 4")


def test_5_the_trace_that_is_estimated():
    A = torch.randn(4, 4, dtype=torch.float64)
    x = torch.randn(20000, 4, dtype=torch.float64)
    _, exact = with_divergence(lambda v: v @ A.T, x[:1])
    _, drawn = with_divergence(lambda v: v @ A.T, x, rademacher(x))
    assert exact.item() == pytest.approx(A.trace().item())
    assert abs(drawn.mean() - A.trace()) < 5 * drawn.std() / 20000**0.5
    assert answer(5).startswith("The ODE; a trace")


def test_6_at_one_place_only_the_noise_is_left():
    """Mean over t of the least squared error: two words at -1 and 1, and both at 0, spread by the noise of x_0."""
    alpha_bar = S.table(S.cosine(), 40)
    spread = (1 - alpha_bar[1]).sqrt().item()

    def least(places):
        process = DDPM(alpha_bar, (1,))
        words = GaussianMixture([0.5, 0.5], [[v] for v in places], [spread, spread])
        net, x0, errors = MixtureOracle(process, words), words.sample(4000), [0.0]
        for t in range(2, 41):
            a = alpha_bar[t].expand(len(x0))
            x_t = a.sqrt()[:, None] * x0 + (1 - a).sqrt()[:, None] * torch.randn_like(x0)
            errors.append(net.variance(x_t, a).mean().item())
        return sum(errors) / 40

    together = collapsed_loss(alpha_bar).item()
    assert least((0.0, 0.0)) == pytest.approx(together, rel=1e-3)
    assert least((-1.0, 1.0)) > 5 * together
    assert answer(6).startswith("Together")


def test_7_the_candidate_most_like_the_others():
    right = ("and", "god", "said", "let", "there", "be", "light")
    wrong = [
        ("the", "lord", "gave", "an", "order", "for", "the", word)
        for word in ("sun", "moon", "day", "sky", "sea", "land", "hill", "star", "fire")
    ]
    chosen, mean = mbr([right, *wrong])
    assert bleu_table([right, *wrong])[0, 1:].max() < 0.1 and chosen != 0
    assert mean[0] < mean[1:].min()
    assert answer(7).startswith("One of the nine")


def test_8_kept_or_drawn_again():
    K, alpha = 5, 0.3
    Q = Uniform(K, tensor([1.0, alpha]).double()).matrix(tensor([0]), tensor([1]))[0]
    torch.testing.assert_close(Q.diag(), torch.full((K,), alpha + (1 - alpha) / K).double())
    assert answer(8) == r"$\alpha + (1 - \alpha) / K$."


@pytest.mark.parametrize("K", [2, 5])
def test_9_what_independence_loses(K):
    process = MDLM(Absorbing(K, S.log_linear(0.0)), 2)
    equal = torch.eye(K).double() / K
    q = exact_law(Unmask(process, steps=1), TableOracle(process, equal))
    assert 1 - q.diag().sum().item() == pytest.approx(1 - 1 / K)
    assert answer(9).startswith("$1 - 1 / K$")


def test_10_who_reads_its_own_token():
    log_p, t = torch.randn(1, 2, 3, dtype=torch.float64).log_softmax(-1), tensor([0.5])
    masks, letters = Absorbing(3, S.log_linear()), Uniform(3, S.log_linear())
    at_mask = masks.posterior_from_loo(log_p, tensor([[3, 3]]), t)
    torch.testing.assert_close(at_mask, log_p)
    one, other = (letters.posterior_from_loo(log_p, tensor([x]), t) for x in ([0, 0], [1, 1]))
    assert (one.exp() - other.exp()).abs().max() > 0.05
    assert answer(10).startswith("Not under masks") and "it does" in answer(10)


def test_11_ratios_out_of_the_second_state():
    p = tensor([1 / 2, 1 / 3, 1 / 6]).double()
    noise = Uniform(3, S.log_linear())
    log_s = noise.score_from_loo(p.log()[None, None], tensor([[1]]), tensor([1e-12]))
    torch.testing.assert_close(log_s[0, 0].exp(), tensor([3 / 2, 1, 1 / 2]).double(), rtol=1e-6, atol=0)
    assert answer(11) == "$3/2$ and $1/2$."


def test_12_ten_percent_too_high():
    ratios = tensor([1.0, 10.0]).double()
    squares = (1.1 * ratios - ratios).square()
    entropy = bregman((1.1 * ratios).log(), ratios)
    assert (squares[1] / squares[0]).item() == pytest.approx(100)
    assert (entropy[1] / entropy[0]).item() == pytest.approx(10)
    assert answer(12).startswith("1 to 100; 1 to 10")


def test_13_the_same_bound_by_another_name():
    noise = Absorbing(3, S.log_linear(1e-3))
    logits, x0 = torch.randn(1, 2, 3, dtype=torch.float64), tensor([[0, 2]])
    x_t, t = tensor([[3, 2]]), tensor([0.4]).double()
    bounds = [
        process.diffusion_term_at(lambda x, u: logits, x0, x_t, t)
        for process in (MDLM(noise, 2), SEDD(noise, 2, mass="known"))
    ]
    torch.testing.assert_close(*bounds)
    assert "bound and samples agree" in answer(13)


def test_14_and_15_the_drawn_token_first():
    """It is not the data's distribution; judged by the data it is better all the same, having lost entropy."""
    p, process, net = masked()
    q = exact_law(SampledConfidence(process), net)
    assert J.total_variation(p, q) > 0.1 and answer(14) == "No."
    judged = [-(law * p.log()).sum().item() for law in (p, q)]
    assert judged[1] < judged[0] and J.entropy(q) < J.entropy(p)
    assert judged[1] == pytest.approx(J.entropy(q) + J.kl(q, p))
    assert answer(15) == "Nearer to the data; less entropy."


def test_16_what_is_kept_of_a_draft():
    model, draft = tensor([0.5, 0.5]).double(), tensor([0.7, 0.3]).double()
    assert J.total_variation(model, draft) == pytest.approx(0.2)
    assert acceptance(model, draft).item() == pytest.approx(0.8) and answer(16) == "0.8."
