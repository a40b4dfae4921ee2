"""The SEDD recipes: chapter 6's network and numbers with other losses, and what is measured about them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_lib import recipes
from course_lib.categorical import Absorbing, Uniform
from course_lib.data import addresses, decode, windows
from course_lib.evaluate import NGram, bound
from course_lib.mdlm import MDLM
from course_lib.process import last, sample
from course_lib.recipes import d3pm, sedd
from course_lib.schedules import geometric, log_linear
from course_lib.sedd import SEDD, Counted

CASES = {  # noise, schedule, steps, lr, weights
    "absorbing": (Absorbing, log_linear(), 6000, 3e-3, 523995),
    "uniform": (Uniform, geometric(), 6000, 3e-3, 523899),
    "mdlm": (Absorbing, log_linear(), 6000, 3e-3, 523995),
    "minute": (Absorbing, log_linear(), 600, 5e-3, 162011),
}


@pytest.fixture(scope="module")
def few():
    """Few texts, few steps: a measurement of a second."""
    return lambda split: (windows(addresses(split), 128)[:12], None)


@pytest.mark.parametrize("name", CASES)
def test_the_recipes_that_made_the_shipped_weights(name):
    r, (kind, schedule, steps, lr, size) = getattr(sedd, name), CASES[name]
    process, model = r.process(), r.fresh_model()
    assert (r.chapter, r.name, r.steps, r.lr) == ("07_sedd", name, steps, lr)
    assert type(process.noise) is kind and process.sampler == "tweedie" and process.scaled
    assert type(process) is (MDLM if name == "mdlm" else SEDD)
    assert (process.length, process.noise.V) == (128, 27) and r.measure is sedd.measure
    u = torch.linspace(0, 1, 7).double()
    torch.testing.assert_close(process.noise.schedule(u), schedule(u))
    assert sum(p.numel() for p in model.parameters()) == size
    made = Path(recipes.__file__).parents[2] / "assets" / r.chapter / f"{name}.log.json"
    assert not made.exists() or json.loads(made.read_text())["steps"] == steps
    x0, labels = r.data("test")
    assert labels is None and torch.equal(x0, windows(addresses("test"), 128))
    first = process.loss(model, x0[:64], process.sample_t(64)).mean().item()
    assert first == pytest.approx(math.log(27), rel=0.25)


@pytest.mark.parametrize("name", ["absorbing", "uniform", "minute"])
def test_the_same_budget_as_chapter_6(name):
    mine, theirs = getattr(sedd, name), getattr(d3pm, name)
    for field in ("steps", "batch", "lr", "ema", "seed"):
        assert getattr(mine, field) == getattr(theirs, field), field
    assert str(mine.fresh_model()) == str(theirs.fresh_model())


@pytest.mark.parametrize("name", ["absorbing", "uniform", "mdlm"])
def test_measure(name, few, monkeypatch):
    monkeypatch.setattr(sedd, "STEPS", (2, 3))
    monkeypatch.setattr(sedd, "RACE_STEPS", 2)
    row = addresses("train")[:20000]
    monkeypatch.setattr(sedd, "addresses", lambda split: row)
    recipe = replace(getattr(sedd, name), data=few)
    torch.manual_seed(1)
    model = recipe.fresh_model()
    got = sedd.measure(recipe, model, repeats=2, n=3)
    keys = {"bits_per_char", "bits_per_char_se", "windows", "repeats", "steps", "samplers", "real", "samples"}
    assert set(got) == keys and json.loads(json.dumps(got))["windows"] == 12 and got["repeats"] == 2
    assert got["bits_per_char"] == pytest.approx(math.log2(27), rel=0.25)
    extra = set() if name == "uniform" else {"first hitting", "coarse race"}
    other = set() if name == "mdlm" else {"euler"}
    assert set(got["samples"]) == {"tweedie"} | other | extra and set(got["samplers"]) == other | extra
    assert all(set(by_steps) == {2, 3} for by_steps in (got["steps"], *(got["samplers"][k] for k in other)))
    assert all(len(t) == 128 for t in got["samples"]["tweedie"].values())
    if extra:
        assert set(got["samplers"]["first hitting"]) == {128} and set(got["samplers"]["coarse race"]) == {
            11,
            14,
            52,
        }
    assert got["real"] == d3pm.quality(
        few("test")[0][[0, 5, 11]], NGram(row, 27, 5), set(decode(row).split())
    )
    torch.manual_seed(7)
    assert sedd.measure(recipe, model, repeats=2, n=3) == got  # the recipe's seed decides


def test_bits_per_char_by_number_of_masks_and_by_time(few):
    torch.manual_seed(0)
    data, model = few("test")[0], sedd.absorbing.fresh_model()
    for process in (sedd.absorbing_process(), sedd.uniform_process()):  # 28 states fit 27
        torch.manual_seed(0)
        got = sedd.bits_per_char(process, model, data, 2)
        torch.manual_seed(0)
        judge = Counted(process) if isinstance(process.noise, Absorbing) else process
        want = bound(judge, model, data, repeats=2)
        assert got.mean == pytest.approx(want.mean / 128 / math.log(2))
        assert got.se == pytest.approx(want.se / 128 / math.log(2))


def test_samplers_are_the_two_of_the_paper():
    process, model = sedd.uniform_process(), sedd.uniform.fresh_model()
    for name, make in sedd.samplers(process, model, 2).items():
        torch.manual_seed(0)
        got = make(3)
        torch.manual_seed(0)
        want = last(sample(sedd.uniform_process(sampler=name), model, 2, 3))[1]
        assert torch.equal(got, want)


def test_a_coarse_race_forgets_rare_letters():
    """A network that always says one law: with 52 bits its frequencies come out, with 8 rare letters do not."""
    process = SEDD(Absorbing(27, log_linear()), 128)
    law = torch.full((27,), 0.2 / 25)
    law[0], law[26] = 0.799, 0.001
    law = law / law.sum()

    def model(x, u):
        return law.log().expand(*x.shape, 27) + math.log(27)

    fine, coarse = (sedd.race(process, model, 60, 40, bits) for bits in (52, 8))
    share = fine.flatten().bincount(minlength=28) / fine.numel()
    assert fine.max() < 27 and abs(share[0] - law[0]) < 0.03 and abs(share[5] - law[5]) < 0.006
    assert (coarse == 5).double().mean() < 0.5 * law[5]
