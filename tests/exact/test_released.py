"""Losses of released codes, written out from their papers, equal those of the library around the same network.

The networks here have the interface of the released ones and nothing else of theirs.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from numpy.polynomial.legendre import leggauss

from course_lib.absorbing import Absorbing
from course_lib.data import MarkovLanguage
from course_lib.evaluate import bound
from course_lib.mdlm import MDLM
from course_lib.nets import TokenNet
from course_lib.oracle import MarkovOracle
from course_lib.process import last, sample
from course_lib.released import Released
from course_lib.schedules import geometric, log_linear
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform

V, L, B = 11, 6, 4
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "COMPARE.md").read_text(encoding="utf-8")


class Net(torch.nn.Module):
    """net(x, sigma) -> (B, L, K): tokens, their neighbours and sigma through a table and one layer, float64.

    scores  the output is made a log score as SEDD's network does it: by sigma ("absorb"), and 0 at x itself
    """

    def __init__(self, K, scores=None):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(K, 8, dtype=torch.float64))
        self.mix = torch.nn.Linear(24, K).double()
        self.scores = scores

    def forward(self, x, sigma):
        h = self.table[x]
        around = torch.cat([h, h.roll(1, 1), h * sigma[:, None, None]], -1)
        out = self.mix(around)
        if self.scores == "absorb":
            out = out - sigma.expm1().log()[:, None, None] - math.log(out.shape[-1] - 1)
        if self.scores:
            out = out.scatter(-1, x[..., None], 0.0)
        return out


def setting(noise):
    x0 = torch.randint(V, (B, L))
    t = torch.tensor([0.001, 0.2, 0.6, 1.0])
    return x0, t, noise.corrupt(x0, torch.zeros_like(t), t)


def at(v, x):
    return v.gather(-1, x[..., None])[..., 0]


def test_sedd_absorbing():
    """sigma' (sum_y s_y - r log s_x0 + r (log r - 1)) over masks, r = 1 / (e^sigma - 1)."""
    process = SEDD(Absorbing(V, log_linear(1e-3)), L, scaled=False)
    net = Net(V + 1, "absorb")
    x0, t, x_t = setting(process.noise)
    u = t.double()
    sigma, rate = -torch.log1p(-(1 - 1e-3) * u), (1 - 1e-3) / (1 - (1 - 1e-3) * u)
    log_s, r = net(x_t, sigma), 1 / sigma.expm1()[:, None]
    each = log_s[..., :V].exp().sum(-1) - r * at(log_s, x0) + r * (r.log() - 1)
    want = rate * (each * (x_t == V)).sum(1)
    model = Released(net, process.noise, dtype=torch.float64)
    torch.testing.assert_close(process.diffusion_term_at(model, x0, x_t, t), want, rtol=1e-10, atol=0)
    torch.testing.assert_close(process.loss_at(model, x0, x_t, t), (want / L).float())


def test_sedd_uniform():
    """sigma' / V (s_y - rho_y log s_y + rho_y (log rho_y - 1)), neighbour by neighbour; rho_y = q(y) / q(x_t)."""
    process = SEDD(Uniform(V, geometric(1e-4, 20.0)), L, scaled=False)
    net = Net(V, "uniform")
    x0, t, x_t = setting(process.noise)
    sigma = 1e-4 ** (1 - t.double()) * 20 ** t.double()
    rate = sigma * math.log(20 / 1e-4)
    log_s, want = net(x_t, sigma), torch.zeros(B, dtype=torch.float64)
    for b in range(B):
        kept = math.exp(-sigma[b])
        for i, (now, start) in enumerate(zip(x_t[b].tolist(), x0[b].tolist(), strict=True)):
            q = [(1 - kept) / V + kept * (y == start) for y in range(V)]
            for y in set(range(V)) - {now}:
                rho, s = q[y] / q[now], log_s[b, i, y]
                want[b] += rate[b] / V * (s.exp() - rho * s + rho * (math.log(rho) - 1))
    model = Released(net, process.noise, dtype=torch.float64)
    torch.testing.assert_close(process.diffusion_term_at(model, x0, x_t, t), want, rtol=1e-10, atol=0)


@pytest.mark.parametrize("said", ["logits", "log probabilities"])
@pytest.mark.parametrize("mask", [None, 3])
@pytest.mark.parametrize("time_conditioning", [True, False])
def test_mdlm(said, mask, time_conditioning):
    """-sigma' / (e^sigma - 1) log p(x_0) over masks, p the softmax without MASK, which may stand anywhere."""
    process, net, place = MDLM(Absorbing(V, log_linear(1e-3)), L), Net(V + 1), V if mask is None else mask

    def theirs(x, sigma):
        """As MDLM's `forward`: MASK gets no probability, and what is not masked is certain."""
        out = net(x, sigma).clone()
        out[..., place] -= 1e6
        out = out.log_softmax(-1)
        certain = torch.full_like(out, -1e6).scatter(-1, x[..., None], 0.0)
        return torch.where((x == place)[..., None], out, certain)

    used = net if said == "logits" else theirs
    model = Released(used, process.noise, mask, time_conditioning, torch.float64)
    tokens = torch.tensor([k for k in range(V + 1) if k != place])
    theirs_x0 = tokens[torch.randint(V, (B, L))]
    x0, t = model.encode(theirs_x0), torch.tensor([0.001, 0.2, 0.6, 1.0])
    x_t = process.corrupt(x0, t)
    assert x0.max() < V and model.decode(x0).equal(theirs_x0)
    theirs_x_t = torch.where(x_t == V, place, theirs_x0)
    assert model.decode(x_t).equal(theirs_x_t) and model.encode(theirs_x_t).equal(x_t)

    u = t.double()
    sigma, rate = -torch.log1p(-(1 - 1e-3) * u), (1 - 1e-3) / (1 - (1 - 1e-3) * u)
    log_p = theirs(theirs_x_t, sigma if time_conditioning else 0 * sigma)
    each = -at(log_p, theirs_x0) * (rate / sigma.expm1())[:, None]
    # The masked positions only: elsewhere their log p(x_0) is 0.
    want = each.sum(1)
    torch.testing.assert_close(process.diffusion_term_at(model, x0, x_t, t), want, rtol=1e-10, atol=0)
    assert (last(sample(process, model, 3, 4))[1] < V).all()


def test_the_published_term_and_what_it_leaves_out():
    """A bound is the published number, prior and reconstruction: alpha_1 log V a token, and nothing, on masks."""
    process = SEDD(Absorbing(V, log_linear(1e-3)), L, scaled=False)
    model, x0 = Released(Net(V + 1, "absorb"), process.noise, dtype=torch.float64), torch.randint(V, (32, L))
    torch.manual_seed(1)
    whole = bound(process, model, x0)
    torch.manual_seed(1)
    published = bound(process, model, x0, term="published")
    assert whole.mean - published.mean == pytest.approx(L * 1e-3 * math.log(V), rel=1e-6)


def test_the_numbers_of_the_page():
    """What docs/COMPARE.md says follows from the library."""
    one = torch.zeros(1, 1, dtype=torch.long)
    prior = Absorbing(50_257, log_linear(1e-3)).prior_kl(one).item()
    assert f"{prior:.4f} nats per token: perplexity x {math.exp(prior):.4f}" in PAGE
    process = SEDD(Uniform(50_257, geometric(1e-4, 20.0)), 1)
    assert abs(process.prior_term(one).item()) < 1e-12 and "below 1e-12 nats" in PAGE
    lost = -torch.expm1(process.noise.log_alpha(torch.tensor([1e-30]))).item()
    assert f"a share of {lost:.1e} of tokens" in PAGE
    whole = MDLM(Absorbing(50_257, log_linear(0.0)), 1)
    assert whole.prior_term(one).item() == 0 and not whole.noisy_at_once


def test_the_program_of_the_page_runs(capsys):
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    net = Net(V + 1, "absorb").float()
    exec(program, {"theirs": net, "V": V, "length": L, "tokens": torch.randint(V, (8, L))})
    published, whole = (
        float(v.split("±")[0]) for v in re.findall(r"[\d.]+ ± [\d.]+", capsys.readouterr().out)
    )
    assert whole / published == pytest.approx(math.exp(1e-3 * math.log(V)), rel=1e-2) and whole > published


def test_times_from_a_thousandth_on():
    """Both codes draw t from [0.001, 1): a perfect network's mean over these times is too high, by less than 1 / 1000.

    On masks the term at t is (expected cost of the masks) / t; exact, by all sentences and all patterns of masks.
    """
    language = MarkovLanguage(3, 4)
    process = MDLM(Absorbing(3, log_linear(0.0)), 4)
    oracle, rows = MarkovOracle(process, language), torch.cartesian_prod(*[torch.arange(3)] * 4)
    p, half = language.log_prob(rows).exp(), torch.full((81,), 0.5)
    costs = torch.zeros(5, dtype=torch.float64)  # of all patterns of n masks together
    for pattern in range(1, 16):
        masked = torch.tensor([pattern >> i & 1 for i in range(4)]).bool()
        x_t = torch.where(masked, 3, rows)
        costs[masked.sum()] += p @ process.mask_cost(oracle, rows, x_t, half).sum(1)

    def mean(start):
        nodes, weights = leggauss(8)  # exact: the term is a polynomial in t
        n, total = torch.arange(5).double(), 0.0
        for node, weight in zip(nodes, weights, strict=True):
            t = start + (1 - start) * (node + 1) / 2
            total += weight / 2 * (t**n * (1 - t) ** (4 - n) @ costs).item() / t
        return total

    assert mean(0.0) == pytest.approx(language.entropy(), rel=1e-10)
    assert 1 + 1e-5 < mean(1e-3) / mean(0.0) < 1 + 1e-3


def test_bad_input(unchecked):
    noise = Absorbing(V, log_linear())
    with pytest.raises(TypeError, match="noise must be one with a clock alpha_bar, not int"):
        Released(Net(V + 1), 3)
    with pytest.raises(ValueError, match="mask must be one of the 12 states of a noise that masks, not 12"):
        Released(Net(V + 1), noise, mask=12)
    with pytest.raises(ValueError, match="mask must be one of the 11 states of a noise that masks, not 3"):
        Released(Net(V), Uniform(V, geometric()), mask=3)
    with pytest.raises(ValueError, match=r"model must return shape \(2, 6, 12\), not \(2, 6, 11\)"):
        Released(TokenNet(V + 1, V, 16, 2, 1), noise)(torch.zeros(2, 6, dtype=torch.long), torch.rand(2))
