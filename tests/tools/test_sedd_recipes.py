"""The SEDD recipes: chapter 6's network and numbers with other losses, and what is measured about them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_lib import recipes
from course_lib.absorbing import Absorbing
from course_lib.data import addresses, decode, windows
from course_lib.evaluate import bound
from course_lib.mask_count import MaskCount
from course_lib.mdlm import MDLM
from course_lib.ngram import NGram
from course_lib.process import last, sample
from course_lib.recipes import d3pm, sedd
from course_lib.schedules import geometric, log_linear
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform

CASES = {  # noise, schedule, steps, lr, weights
    "absorbing": (Absorbing, log_linear(), 6000, 3e-3, 523995),
    "uniform": (Uniform, geometric(), 6000, 3e-3, 523899),
    "again": (Absorbing, log_linear(), 6000, 3e-3, 523995),
    "learned_mass": (Absorbing, log_linear(), 6000, 3e-3, 523995),
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
    assert type(process.noise) is kind
    if name == "mdlm":
        assert type(process) is MDLM
    else:
        assert isinstance(process, SEDD) and process.sampler == "tweedie" and process.scaled
        assert process.mass == ("learned" if name in ("learned_mass", "uniform") else "known")
    assert (process.length, process.noise.V) == (128, 27) and r.measure is (
        sedd.bits_only if name == "again" else sedd.measure
    )
    u = torch.linspace(0, 1, 7).double()
    torch.testing.assert_close(process.noise.schedule(u), schedule(u))
    assert sum(p.numel() for p in model.parameters()) == size
    made = Path(recipes.__file__).parents[2] / "assets" / r.chapter / f"{name}.log.json"
    assert not made.exists() or json.loads(made.read_text())["steps"] == steps
    x0, labels = r.data("test")
    assert labels is None and torch.equal(x0, windows(addresses("test"), 128))
    first = process.loss(model, x0[:64], process.sample_t(64)).mean().item()
    assert first == pytest.approx(math.log(27), rel=0.25)


def test_masks_are_trained_by_their_number():
    """What is minimised has the same mean as the loss by time, and far less variance."""
    for r in (sedd.absorbing, sedd.again, sedd.minute):
        trained = r.trains()
        assert type(trained) is MaskCount and trained.process.mass == "known"
        assert trained.process.length == 128 and trained.process.noise.V == 27
    assert sedd.mdlm.trains is None and sedd.uniform.trains is None and sedd.learned_mass.trains is None
    torch.manual_seed(0)
    process, f = sedd.learned_mass.process(), torch.randn(27)
    model = lambda x, u: f.expand(*x.shape, 27)  # noqa: E731
    x0, counted = sedd.text("train")[0][:4096], MaskCount(process)
    by_time = process.loss(model, x0, process.sample_t(len(x0))).double()
    by_number = counted.loss(model, x0, counted.sample_t(len(x0))).double()
    assert abs(by_time.mean() - by_number.mean()) < 4 * by_time.std() / 64
    assert by_number.std() < 0.5 * by_time.std()


@pytest.mark.parametrize("name", ["absorbing", "again", "learned_mass", "mdlm", "uniform", "minute"])
def test_the_same_budget_as_chapter_6(name):
    masks = {"learned_mass": "absorbing", "mdlm": "absorbing", "again": "absorbing"}
    mine, theirs = getattr(sedd, name), getattr(d3pm, masks.get(name, name))
    assert mine.seed == theirs.seed + (name == "again")
    for field in ("steps", "batch", "lr", "ema"):
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
    real, judge, words = few("test")[0][[0, 5, 11]], NGram(row, 27, 5), set(decode(row).split())
    assert got["real"] == d3pm.quality(real, judge, words)
    each = torch.tensor([judge.bits(x[None], skip=4) for x in real]).double()
    with_error = sedd.judged(real, judge, words)
    assert with_error.pop("judged_bits_se") == pytest.approx(each.std().item() / 3**0.5)
    assert with_error == got["real"]
    only = sedd.bits_only(recipe, model, repeats=2)
    assert only == {k: got[k] for k in ("bits_per_char", "bits_per_char_se", "windows", "repeats")}
    torch.manual_seed(7)
    assert sedd.measure(recipe, model, repeats=2, n=3) == got  # the recipe's seed decides


@pytest.mark.parametrize("module, by_masks", [(d3pm, MaskCount), (sedd, MaskCount)])
def test_bits_per_char_by_number_of_masks_and_by_time(few, module, by_masks):
    torch.manual_seed(0)
    data, model = few("test")[0], module.absorbing.fresh_model()
    for process in (module.absorbing_process(), module.uniform_process()):  # 28 states fit 27
        torch.manual_seed(0)
        got = module.bits_per_char(process, model, data, 2)
        torch.manual_seed(0)
        judge = by_masks(process) if isinstance(process.noise, Absorbing) else process
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


def test_euler_of_a_known_mass_keeps_it():
    torch.manual_seed(0)
    process, model = sedd.absorbing_process(), sedd.absorbing.fresh_model()
    for kind in ("known", "learned"):
        process = sedd.absorbing_process(kind)
        torch.manual_seed(1)
        got = sedd.samplers(process, model, 2)["euler"](4)
        torch.manual_seed(1)
        want = last(sample(SEDD(process.noise, 128, "euler", mass=kind), model, 2, 4))[1]
        assert torch.equal(got, want)


def test_paired_differences_are_of_the_same_masks():
    """Two networks that differ by a constant in the loss: the difference has no error, each of them has."""
    torch.manual_seed(0)
    data, f = sedd.text("test")[0][:40], torch.randn(2, 27)
    model = lambda x, u: (f[0] + u[:, None, None] * f[1]).expand(*x.shape, 27)  # noqa: E731
    known, free = MaskCount(sedd.absorbing_process()), MaskCount(sedd.absorbing_process("learned"))
    by_steps = MaskCount(d3pm.absorbing_process())
    heavy = lambda x, u: model(x, u) + math.log(2)  # noqa: E731  twice the mass
    got = sedd.paired(
        {
            "a": (by_steps, model),
            "b": (known, model),
            "c": (free, model),
            "d": (free, heavy),
            "e": (known, heavy),
        },
        data,
        repeats=2,
        size=16,
    )
    assert got["a"]["more"] == {"mean": 0.0, "se": 0.0}
    seen = []
    for seed in range(2):  # the first of all by hand
        torch.manual_seed(seed)
        each = []
        for x in data.split(16):
            after = torch.randint(2**62, ()).item()
            with torch.no_grad():
                each.append(by_steps.bound(model, x, by_steps.sample_t(len(x))))
            torch.manual_seed(after)
        seen.append(torch.cat(each))
    mean = sum(seen) / 2 / 128 / math.log(2)
    assert got["a"]["bits"]["mean"] == pytest.approx(mean.mean().item())
    assert got["a"]["bits"]["se"] == pytest.approx((mean.std() / 40**0.5).item())
    assert got["b"]["more"]["se"] < 0.2 * got["b"]["bits"]["se"]  # another clock, the same masks
    assert abs(got["b"]["more"]["mean"]) < 0.02
    for key in ("mean", "se"):
        assert got["e"]["bits"][key] == pytest.approx(got["b"]["bits"][key], rel=1e-5)
    m = (
        model(data[:1], torch.full((1,), 0.5)).exp().mean()
    )  # phi(2 m) - phi(m) = m - log 2 nats at every mask
    more = got["d"]["bits"]["mean"] - got["c"]["bits"]["mean"]
    assert more == pytest.approx((m.item() - math.log(2)) / math.log(2), rel=0.5)
    assert got["c"]["bits"]["mean"] > got["b"]["bits"]["mean"]


def test_two_samplers(monkeypatch):
    row, f = addresses("train")[:20000], torch.randn(27)
    model = lambda x, u: f.expand(*x.shape, 27)  # noqa: E731
    monkeypatch.setattr(sedd, "addresses", lambda split: row)
    monkeypatch.setattr(sedd, "shipped", lambda recipe, device: model)
    got = sedd.uniform_samplers("cpu", 5, (2, 3))
    assert set(got) == {"n", "tweedie", "euler"} and got["n"] == 5
    judge, words = NGram(row, 27, 5), set(decode(row).split())
    for sampler, steps in (("euler", 3), ("tweedie", 2)):
        process = sedd.uniform_process(sampler=sampler)
        want = sedd.judged(sedd.draws(process, model, 5, steps, size=64), judge, words)
        assert got[sampler][steps] == want
        assert set(got[sampler]) == {2, 3}
    torch.manual_seed(0)
    first = last(sample(process, model, 3, 2))[1]
    torch.manual_seed(1)
    second = last(sample(process, model, 2, 2))[1]
    assert torch.equal(sedd.draws(process, model, 5, 2, size=3), torch.cat([first, second]))
    assert sedd.two_samplers.measure is sedd.uniform_samplers and sedd.two_samplers.name == "two_samplers"


def test_all_masks_are_compared(monkeypatch):
    """With one network for all: who is in the table, and by which evaluator."""
    f, asked = torch.randn(27), []
    model = lambda x, u: f.expand(*x.shape, 27)  # noqa: E731
    monkeypatch.setattr(sedd, "shipped", lambda recipe, device: asked.append(recipe) or model)
    monkeypatch.setattr(sedd, "text", lambda split: (windows(addresses(split), 128)[:8], None))
    got = sedd.of_masks("cpu")
    names = ["D3PM", "its weights, read as SEDD", "SEDD, mass known", "again"]
    names += ["MDLM", "SEDD, mass learned", "the same weights, mass set right"]
    assert list(got) == names
    asked = sorted(r.chapter[:2] + r.name for r in asked)
    assert asked == ["06absorbing", "07absorbing", "07again", "07learned_mass", "07mdlm"]
    assert got["again"] == got["SEDD, mass known"] == got[names[1]] == got[names[6]]
    assert got["MDLM"]["more"]["mean"] == pytest.approx(got["again"]["more"]["mean"], abs=1e-6)
    assert got[names[5]]["bits"]["mean"] > got[names[6]]["bits"]["mean"]
    assert sedd.masks.measure is sedd.of_masks and sedd.masks.name == "masks"
