"""The D3PM recipes: which process and network made the shipped weights, and what is measured about them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from course_lib import recipes
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.data import addresses, decode, encode, windows
from course_lib.ngram import NGram
from course_lib.recipes import d3pm
from course_lib.recipes.run import find, run
from course_lib.schedules import cosine, table
from course_lib.stationary import Uniform
from course_lib.text_metrics import entropy_of_tokens

LINE = 1 - torch.arange(1001, dtype=torch.float64) / 1000
SIZES = {"absorbing": 523995, "uniform": 523899, "hybrid": 523899, "minute": 162011}
CASES = {
    "absorbing": (Absorbing, LINE, 0.0, 6000, 3e-3),
    "uniform": (Uniform, table(cosine(power=1), 1000), 0.0, 6000, 3e-3),
    "hybrid": (Uniform, table(cosine(power=1), 1000), 0.01, 6000, 3e-3),
    "minute": (Absorbing, LINE, 0.0, 600, 5e-3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_recipes_that_made_the_shipped_weights(name):
    r, (kind, alpha_bar, ce_weight, steps, lr) = getattr(d3pm, name), CASES[name]
    process, model = r.process(), r.fresh_model()
    assert (r.chapter, r.name, r.steps, r.lr, r.batch, r.ema, r.seed) == (
        "06_d3pm",
        name,
        steps,
        lr,
        16,
        0.995,
        0,
    )
    assert type(process.noise) is kind and process.ce_weight == ce_weight and process.predicts == "loo"
    assert (process.length, process.noise.V, process.T) == (128, 27, 1000) and r.measure is d3pm.measure
    torch.testing.assert_close(process.noise.log_alpha_bar.exp(), alpha_bar)
    assert sum(p.numel() for p in model.parameters()) == SIZES[name]
    made = Path(recipes.__file__).parents[2] / "assets" / r.chapter / f"{name}.log.json"
    assert not made.exists() or json.loads(made.read_text())["steps"] == steps
    x0, labels = r.data("test")
    assert labels is None and torch.equal(x0, windows(addresses("test"), 128))
    untrained = math.log(27) * (1 + 1000 * ce_weight)
    assert process.loss(model, x0[:16], process.sample_t(16)).mean().item() == pytest.approx(
        untrained, rel=0.2
    )


@pytest.fixture(scope="module")
def few():
    """Few texts, few steps: a measurement of a second."""
    return lambda split: (windows(addresses(split), 128)[:12], None)


@pytest.mark.parametrize("name", ["absorbing", "hybrid"])
def test_measure(name, few, monkeypatch):
    monkeypatch.setattr(d3pm, "STEPS", (2, 3))
    row = addresses("train")[:20000]
    monkeypatch.setattr(d3pm, "addresses", lambda split: row)
    recipe = replace(getattr(d3pm, name), data=few)
    torch.manual_seed(1)
    model = recipe.fresh_model()
    got = d3pm.measure(recipe, model, repeats=2, n=3)
    keys = {
        "bits_per_char",
        "bits_per_char_se",
        "windows",
        "repeats",
        "ngram_bits",
        "steps",
        "real",
        "samples",
    }
    assert set(got) == keys | ({"read_as_posterior"} if name == "hybrid" else set())
    assert json.loads(json.dumps(got))["windows"] == 12 and got["repeats"] == 2
    # an untrained network says log2 27 of every letter, whatever is asked
    assert got["bits_per_char"] == pytest.approx(math.log2(27), rel=0.1)
    test = few("test")[0]
    assert got["ngram_bits"] == {k: NGram(row, 27, k).bits(test) for k in range(1, 8)}
    assert got["real"] == d3pm.quality(test[[0, 5, 11]], NGram(row, 27, 5), set(decode(row).split()))
    assert set(got["steps"]) == set(got["samples"]) == {2, 3}
    assert [[len(t) for t in texts] for texts in got["samples"].values()] == [[128, 128]] * 2
    assert all(q["judged_bits"] > 4 and q["entropy"] > 4 for q in got["steps"].values())
    torch.manual_seed(7)
    assert d3pm.measure(recipe, model, repeats=2, n=3) == got  # the recipe's seed decides


def test_quality():
    x = torch.stack([encode("it the warx of it"), encode("he a the war thet")])
    judge = NGram(addresses("val")[:5000], 27, 5)
    got = d3pm.quality(x, judge, {"the", "war", "of", "it"})
    assert got["words_known"] == 4 / 6  # the, warx, of; a, the, war: what stands at the ends may be cut
    assert got["entropy"] == entropy_of_tokens(x)
    assert got["judged_bits"] == judge.bits(x, skip=4)
    assert d3pm.quality(encode("abcdefgh")[None], judge, set())["words_known"] == 0


def test_the_large_one_trains_and_is_measured(tmp_path, monkeypatch):
    """The numbers of the trial; and a run of three steps at a tiny width, which leaves all its files."""
    r = d3pm.letters_large
    assert find("d3pm.letters_large") is r and r.measure is d3pm.measure
    assert (r.name, r.steps, r.batch, r.lr) == ("letters_large", 15_000, 32, 3e-3)
    large = r.fresh_model()
    assert sum(p.numel() for p in large.parameters()) == 4_061_019
    assert all(m.p == 0 for m in large.modules() if isinstance(m, nn.Dropout))
    noise, same = r.process().noise, d3pm.absorbing.process().noise
    assert isinstance(noise, Absorbing) and noise.log_alpha_bar.equal(same.log_alpha_bar)
    row = addresses("train")[:20000]
    monkeypatch.setattr(d3pm, "STEPS", (2,))
    monkeypatch.setattr(d3pm, "addresses", lambda split: row)
    some = lambda split: (windows(addresses(split), 128)[:40], None)  # noqa: E731
    small = replace(r, data=some, model=lambda: d3pm.network(r.process(), 8, 1))
    results = run(small, tmp_path, "letters", steps=3)
    kinds = ("safetensors", "log.json", "results.json")
    assert {p.name for p in tmp_path.iterdir()} == {f"letters_large.{kind}" for kind in kinds}
    log = json.loads((tmp_path / "letters_large.log.json").read_text())
    assert log["steps"] == 3 and log["batch"] == 32
    assert results["windows"] == 40 and results["bits_per_char"] == pytest.approx(math.log2(27), rel=0.1)


def test_processes_take_options():
    process = d3pm.uniform_process(predicts="posterior")
    assert isinstance(process, D3PM) and process.predicts == "posterior"


def test_the_autoregressive_twin_has_as_many_weights_steps_and_letters():
    twin, r = d3pm.absorbing, d3pm.ar
    for name in ("chapter", "steps", "batch", "lr", "ema", "seed", "data"):
        assert getattr(r, name) == getattr(twin, name), name
    model, x0 = r.fresh_model(), r.data("test")[0][:4]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(SIZES["absorbing"], rel=0.01)
    nats = r.process().loss(model, x0, torch.ones(4, dtype=torch.long))
    torch.testing.assert_close(nats, torch.full((4,), math.log(27)))


def test_measure_writer(few, monkeypatch):
    """An untrained twin: exactly log2 27 bits, and letters drawn uniformly."""
    row = addresses("train")[:20000]
    monkeypatch.setattr(d3pm, "addresses", lambda split: row)
    recipe = replace(d3pm.ar, data=few)
    got = d3pm.measure_writer(recipe, recipe.fresh_model(), n=6)
    judge, words = NGram(row, 27, 5), set(decode(row).split())
    assert got["bits_per_char"] == pytest.approx(math.log2(27), rel=1e-6)
    assert got["bits_per_char_se"] < 1e-6 and got["windows"] == 12
    assert got["real"] == d3pm.judged(few("test")[0][[0, 2, 4, 6, 8, 11]], judge, words)
    assert list(got["steps"]) == [128] and got["steps"][128]["entropy"] > 4.6
    assert got["steps"][128]["judged_bits_se"] > 0 and len(got["samples"]) == 5
    assert json.loads(json.dumps(got))["samples"] == got["samples"]


def test_counting_has_the_judges_bits_and_errors_over_windows(few, monkeypatch):
    row = addresses("train")[:20000]
    monkeypatch.setattr(d3pm, "addresses", lambda split: row)
    monkeypatch.setattr(d3pm, "text", few)
    got, test = d3pm.counting("cpu", (2, 5)), few("test")[0]
    assert got["windows"] == 12 and list(got["ngrams"]) == [2, 5]
    for order, q in got["ngrams"].items():
        model = NGram(row, 27, order)
        assert q["mean"] == pytest.approx(model.bits(test), abs=1e-9)
        spread = torch.tensor([model.bits(x[None]) for x in test]).double()
        assert q["se"] == pytest.approx(spread.std().item() / 12**0.5, rel=1e-6)
    assert d3pm.by_counting.measure is d3pm.counting and find("d3pm.by_counting").name == "counting"


def test_two_noises_are_compared_by_the_same_judge(monkeypatch):
    row, asked = addresses("train")[:20000], []
    f = torch.randn(27)
    model = lambda x, u, at=None: f.expand(*x.shape, 27)  # noqa: E731
    monkeypatch.setattr(d3pm, "addresses", lambda split: row)
    monkeypatch.setattr(d3pm, "shipped", lambda recipe, device: asked.append(recipe.name) or model)
    got = d3pm.two_noises("cpu", 5, (2, 3))
    assert asked == ["absorbing", "uniform"] == [k for k in got if k != "n"] and got["n"] == 5
    judge, words = NGram(row, 27, 5), set(decode(row).split())
    for name in asked:
        process = getattr(d3pm, name).process()
        assert got[name][3] == d3pm.judged(d3pm.draws(process, model, 5, 3, size=32), judge, words)
        assert list(got[name]) == [2, 3]
    assert d3pm.by_noise.measure is d3pm.two_noises and d3pm.by_noise.name == "two_noises"
