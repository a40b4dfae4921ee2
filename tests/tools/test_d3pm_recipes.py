"""The D3PM recipes: which process and network made the shipped weights, and what is measured about them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_lib import recipes
from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.data import addresses, decode, encode, windows
from course_lib.ngram import NGram
from course_lib.recipes import d3pm
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


def test_processes_take_options():
    process = d3pm.uniform_process(predicts="posterior")
    assert isinstance(process, D3PM) and process.predicts == "posterior"
