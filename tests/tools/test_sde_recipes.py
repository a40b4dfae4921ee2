"""Chapter 3's recipe: what was trained, how its likelihood is measured, in small."""

import json
import math

import pytest
import torch

from course_lib import data
from course_lib.dpm_solver import DPMSolver
from course_lib.files import load_tensors
from course_lib.image_judge import Judge
from course_lib.recipes import sde as recipes
from course_lib.recipes.run import ASSETS, draws_from_one_seed, find
from course_lib.schedules import cosine
from course_lib.sde import SDE, VP
from course_lib.solvers import Ancestral, Heun


class Still(torch.nn.Module):
    """A network that calls everything noise, or half of it."""

    def __init__(self, share: float = 0.5):
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(share))

    def forward(self, x, u):
        return self.share * x


class Says(torch.nn.Module):
    """A function as a network."""

    def __init__(self, says):
        super().__init__()
        self.forward = says


def test_the_recipe_that_made_the_shipped_weights():
    recipe = find("sde.digits")
    process, log = (
        recipe.process(),
        json.loads((ASSETS / "03_sde_and_ode" / "digits.log.json").read_text()),
    )
    assert recipe is recipes.digits and (recipe.chapter, recipe.steps) == ("03_sde_and_ode", log["steps"])
    assert (process.weighting, process.t_min, process.t_max) == ("likelihood", 5e-3, 0.97)
    assert process.levels is None and process.clip is None and process.shape == (1, 8, 8)
    weights = load_tensors(ASSETS / "03_sde_and_ode" / "digits.safetensors")[0]
    assert {k: v.shape for k, v in weights.items()} == {
        k: v.shape for k, v in recipe.fresh_model().state_dict().items()
    }


def test_chapter_1s_digits_in_continuous_time():
    p = recipes.process()
    assert (p.t_min, p.clip, p.levels, p.shape, p.weighting) == (0.02, 1.0, 17, (1, 8, 8), "simple")
    assert recipes.process(0.1, None).t_min == 0.1 and recipes.process(0.1, None).clip is None
    t = torch.tensor([0.3], dtype=torch.float64)
    torch.testing.assert_close(p.marginal(t)[0].square(), cosine()(t))


def test_dequantised_digits():
    state = torch.get_rng_state()
    x, y = recipes.dequantised("train")
    test, _ = recipes.dequantised("test")
    assert torch.equal(state, torch.get_rng_state()) and len(x) == len(y) == 8 * 1438 and len(test) == 359
    (train, labels), (raw, _) = data.digits("train"), data.digits("test")
    assert (x[:1438] - train).abs().max() <= 1 / 16 and torch.equal(y[1438:2876], labels)
    assert (test - raw).abs().max() <= 1 / 16 and torch.equal(x, recipes.dequantised("train")[0])
    assert not torch.equal(x[:1438], x[1438:2876])


def test_the_decoders_variance_is_the_error_at_t_min():
    sde, x = VP(cosine(), (1, 8, 8), t_min=0.05), torch.randn(2000, 1, 8, 8)
    mean, std = (v.item() for v in sde.marginal(torch.tensor([0.05], dtype=torch.float64)))
    a = (1 - std * 0.5) / mean  # x_0 = a x_t for Still, and x_t = mean x_0 + std eps
    want = (a * mean - 1) ** 2 * x.square().mean().item() + (a * std) ** 2
    assert recipes.decoder_variance(sde, Still(), x) == pytest.approx(want, rel=0.02)


def test_likelihoods_of_a_network_that_knows_only_noise():
    """eps_hat = x is right for N(0, 1): the ODE stands still, and its law is the prior's."""
    torch.manual_seed(0)
    sde, x = VP(cosine(), (1, 8, 8), t_min=0.02), recipes.dequantised("test")[0][:40]
    # N(0, 1) is still under the flow if eps_hat = std x
    still = lambda z, u: sde.marginal(u)[1].to(z)[:, None, None, None] * z  # noqa: E731
    got = recipes.likelihoods(Says(still), sde, x, x)
    want = -torch.distributions.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1).double()
    bits = (want / 64 - math.log(2 / 16)) / math.log(2)
    assert got["ode"] == pytest.approx(bits.mean().item(), abs=1e-3)
    assert got["ode_se"] == pytest.approx(bits.std().item() / 40**0.5, rel=1e-3)
    assert got["noise"] == pytest.approx(sde.marginal(torch.tensor([0.02], dtype=torch.float64))[1].item())
    assert got["calls"] > 5 and abs(got["bound"] - bits.mean().item()) < 5 * got["bound_se"] + 0.1
    assert sde.decoder_var == pytest.approx(sde.marginal(torch.tensor([0.02]))[1].item() ** 2, rel=0.2)


def test_grey_levels_and_densities_are_measured_in_the_same_unit():
    """With levels the bound counts grey levels; without, a density of images that are dequantised already."""
    x = data.digits("test")[0][:10]
    out = [recipes.likelihoods(Still(0.02), recipes.process(0.02, None), x, x)]
    y = recipes.dequantised("test")[0][:10]
    out.append(recipes.likelihoods(Still(0.02), VP(cosine(), (1, 8, 8), t_min=0.02), y, y))
    assert abs(out[0]["ode"] - out[1]["ode"]) < 0.3
    assert abs(out[0]["bound"] - out[1]["bound"]) < 5 * (out[0]["bound_se"] + out[1]["bound_se"])


def test_draw_starts_from_the_same_noise_whatever_the_way():
    sde = recipes.process()
    seen = {}
    for way in (sde, Ancestral(sde), Heun(sde), DPMSolver(sde)):
        first = []
        model = lambda x, u: first.append(x.clone()) or 0.5 * x  # noqa: B023, E731
        torch.manual_seed(5)
        assert draws_from_one_seed(way, Says(model), 260, 2, seed=0).shape == (260, 1, 8, 8)
        seen[type(way).__name__] = first[0]
    starts = list(seen.values())
    assert all(torch.equal(v, starts[0]) for v in starts) and len(starts[0]) == 250


def test_the_table_in_small():
    x, judge = data.digits("train")[0], Judge(*data.digits("train"))
    rows = recipes.solvers(Still(), judge, judge.features(x), 20, (8, 16))
    assert [(r["way"], r["calls"]) for r in rows] == [(w, k) for w in recipes.WAYS for k in (8, 16)]
    assert all(
        set(r) == {"way", "calls", "accepted", "frechet", "frechet_se", "frechet_without"} for r in rows
    )
    calls = {}
    for name, (each, way) in recipes.WAYS.items():
        heard = []
        model = Says(lambda x, u: heard.append(1) or 0.5 * x)  # noqa: B023
        draws_from_one_seed(way(recipes.process()), model, 2, 8 // each, seed=0)
        calls[name] = len(heard)
    assert calls == {
        "Euler-Maruyama": 8,
        "ancestral": 8,
        "Heun": 7,
        "RK4": 5,
        "DPM-Solver++(2M)": 8,
    }
    assert isinstance(recipes.WAYS["Euler-Maruyama"][1](recipes.process()), SDE)


def test_measure_in_small(monkeypatch):
    recipe, asked = recipes.digits, []

    def likelihoods(model, sde, train, test):
        asked.append((sde.t_min, sde.levels, len(train), len(test)))
        return {"bound": 1.5, "bound_se": 0.1, "ode": 2.5, "ode_se": 0.2}

    monkeypatch.setattr(recipes, "likelihoods", likelihoods)
    out = recipes.measure(recipe, recipe.fresh_model(), n=6, drawn=12, calls=(8,))
    assert asked == [(5e-3, None, 8 * 1438, 6)] + [(t, 17, 1438, 6) for t in recipes.STARTS]
    assert json.loads(json.dumps(out)) == out and (out["n"], out["drawn"], out["sampling_steps"]) == (
        6,
        12,
        32,
    )
    assert (out["bits_per_dim"], out["bits_per_dim_se"], out["ode"], out["ode_se"]) == (1.5, 0.1, 2.5, 0.2)
    assert set(out["accepted"]) == set(out["frechet"]) == {"samples", "real", "noise"}
    assert len(out["solvers"]) == len(recipes.WAYS) and [r["t_min"] for r in out["chapter_1"]] == list(
        recipes.STARTS
    )


def test_the_shipped_results():
    out = json.loads((ASSETS / "03_sde_and_ode" / "digits.results.json").read_text())
    assert [r["t_min"] for r in out["chapter_1"]] == list(recipes.STARTS)
    assert len(out["solvers"]) == len(recipes.WAYS) * len(recipes.CALLS)
    assert out["n"] == 359 and out["drawn"] == recipes.DRAWN == 1000
    assert out["bits_per_dim"] < out["ode"] < 2.2
