"""The paper-scale recipes: their settings, three steps at full width, and what is measured, on a small text."""

import json
import math
from dataclasses import replace

import pytest
import torch

from course_lib.absorbing import Absorbing
from course_lib.data import ALPHABET, encode
from course_lib.evaluate import bound
from course_lib.nets import TokenNet
from course_lib.recipes import text8 as R
from course_lib.recipes.run import named
from course_lib.schedules import log_linear

TEXT = encode("the cat sat on the mat and looked at a king of the sea " * 100).to(torch.int8)
RECIPES = named("text8")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(R, "text8", lambda split: TEXT[:5000] if split == "train" else TEXT[1:1025])


def test_names():
    assert list(RECIPES) == ["d3pm_absorbing", "d3pm_uniform", "sedd_absorbing", "sedd_uniform", "md4"]


@pytest.mark.parametrize("name", RECIPES)
def test_published_settings(name):
    r, p = RECIPES[name], RECIPES[name].process()
    assert (r.chapter, r.name, r.steps, r.batch, p.length) == ("text8", name, 10**6, 512, 256)
    assert p.noise.V == len(ALPHABET) == 27
    by_paper = {
        "d3pm": (2e-4, 0.0, {"clip": 0.25}),
        "sedd": (3e-4, 0.9999, {}),
        "md4": (5e-4, 0.9999, {"clip": math.inf}),
    }
    options = dict(r.options)
    optimizer = options.pop("optimizer", torch.optim.AdamW)([torch.nn.Parameter(torch.zeros(1))])
    assert (r.lr, r.ema, options) == by_paper[name.split("_")[0]]
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    if name == "md4":
        assert optimizer.defaults["weight_decay"] == 0.03


def test_noise_of_the_papers():
    t = torch.arange(1, 1001)
    d3pm = R.d3pm_absorbing_process()
    torch.testing.assert_close(d3pm.noise.log_alpha(t).exp(), 1 - t.double() / 1000)
    assert (d3pm.ce_weight, R.d3pm_uniform_process().ce_weight) == (0.01, 0)
    u = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    alpha = torch.cos((u + 0.008) / 1.008 * math.pi / 2)  # no square: as multinomial diffusion has it
    uniform = R.d3pm_uniform_process().noise.log_alpha((1000 * u).long()).exp()
    torch.testing.assert_close(uniform[:2], (alpha / alpha[0])[:2])
    torch.testing.assert_close(R.sedd_absorbing_process().noise.schedule(u), 1 - 0.999 * u)
    sigma = torch.tensor([1e-4, 1e-4**0.75 * 20**0.25, 20], dtype=torch.float64)
    torch.testing.assert_close(-R.sedd_uniform_process().noise.schedule.log_alpha_bar(u), sigma)
    torch.testing.assert_close(R.md4_process().noise.schedule(u), 1e-4 + 0.9998 * (1 - u))
    assert R.md4_process().noisy_at_once and not R.sedd_absorbing_process().noisy_at_once


@pytest.mark.parametrize("name", RECIPES)
def test_learning_rates_of_the_papers(name):
    r = RECIPES[name]
    warmup = {"d3pm": 5000, "sedd": 2500, "md4": 2000}[name.split("_")[0]]
    rate = r.rate(r.steps)
    assert rate(warmup // 2) == r.lr / 2 and rate(warmup) == r.lr
    assert rate(r.steps) == (pytest.approx(0, abs=1e-12) if name == "md4" else r.lr)
    few = r.rate(10)
    assert few(5) == r.lr and few(1) == r.lr / 5  # of a short run half is warm-up at most
    assert r.rate(1)(1) == r.lr or name == "md4"


@pytest.mark.parametrize("name", RECIPES)
def test_the_network_has_the_published_size(name, monkeypatch):
    def without_numbers(*sizes, **options):
        with torch.device("meta"):
            return TokenNet(*sizes, **options)

    monkeypatch.setattr(R, "TokenNet", without_numbers)
    model = RECIPES[name].model()
    assert getattr(model.trunk.drop, "p", 0.0) == {"d3pm": 0.0, "sedd": 0.1, "md4": 0.05}[name.split("_")[0]]
    assert len(model.trunk.blocks) == 12 and model.trunk.blocks[0].heads == 12
    assert model.head.in_features == 768 and model.head.out_features == 27
    assert model.embedding.num_embeddings == RECIPES[name].process().noise.K
    # 12 layers of attention (4 H^2), MLP (8 H^2) and adaLN (6 H^2), H = 768: 127 million with the rest
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(12 * 18 * 768**2, rel=0.02)


@pytest.mark.parametrize("name", RECIPES)
def test_three_steps_at_full_width(name):
    """Of one layer, and of two in one recipe: that there are 12 is asked above."""
    full, depth = RECIPES[name], 1 + (name == "sedd_absorbing")
    dropout = {"d3pm": 0.0, "sedd": 0.1, "md4": 0.05}[name.split("_")[0]]
    r = replace(full, batch=1, model=lambda: R.network(full.process(), dropout, depth=depth))
    model = r.fresh_model()
    before = model.trunk.blocks[0].ada.weight.clone(), model.head.weight.clone()
    records = list(r.train(model, 3))
    assert [record.step for record in records] == [1, 2, 3]
    assert all(record.loss.isfinite().all() for record in records)
    # All outputs start at 0. The head learns at the first step, what it reads from the second on.
    assert not model.head.weight.equal(before[1]) and not model.trunk.blocks[0].ada.weight.equal(before[0])


def test_crops_start_anywhere():
    data = torch.arange(60).reshape(6, 10)
    made = [next(R.crops(data, 2000, 0)), next(R.crops(data, 2000, 0)), next(R.crops(data, 2000, 1))]
    assert made[0].equal(made[1]) and not made[0].equal(made[2])
    starts = made[0][:, 0]
    assert (made[0] == starts[:, None] + torch.arange(10)).all()
    assert set(starts.tolist()) == set(range(51))


def test_rows_are_windows_of_bytes():
    rows, labels = R.rows("train")
    assert rows.shape == (19, 256) and rows.dtype == torch.int8 and labels is None
    assert rows.flatten().equal(TEXT[: 19 * 256])


@pytest.mark.parametrize("name", ["sedd_uniform", "md4"])
def test_measure(name, monkeypatch):
    monkeypatch.setattr(R, "SAMPLES", (2, 3))
    r = RECIPES[name]
    torch.manual_seed(0)
    model = TokenNet(r.process().noise.K, 27, 16, 2, 1)
    got = R.measure(r, model, n=2, windows=2)
    assert json.loads(json.dumps(got)) and got["windows"] == 2
    assert {steps: [len(row) for row in rows] for steps, rows in got["samples"].items()} == {
        2: [256] * 2,
        3: [256] * 2,
    }
    assert got["bits_per_char"] == pytest.approx(math.log2(27), abs=5 * got["bits_per_char_se"] + 1e-3)
    assert got["published_bits"] <= got["bits_per_char"]
    data = R.rows("test")[0][::2].long()
    assert len(data) == 2 and got["published_bits_se"] >= 0
    if name == "md4":  # by the number of masks, an untrained network costs the same wherever they are
        assert got["bits_per_char_se"] < 0.05 < bound(r.process(), model, data).bits_per_dim(256).se


def test_md4s_linear_is_log_linear_with_room_at_both_ends():
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(R.md4_linear(0.0).noise(u), log_linear(0.0).noise(u))
    assert isinstance(R.md4_process().noise, Absorbing)
