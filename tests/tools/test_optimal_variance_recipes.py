"""Chapter 2's recipes: heads on the frozen network, statistics and the table, in small."""

import json
import math
from pathlib import Path

import pytest
import torch

from course_lib import data, recipes
from course_lib.ddim import DDIM
from course_lib.ddpm import DDPM
from course_lib.distances import frechet
from course_lib.evaluate import bound, jackknife
from course_lib.files import load_tensors
from course_lib.image_judge import Judge
from course_lib.learned_variance import Learned
from course_lib.optimal_variance import Analytic, estimate_conditional_variance
from course_lib.process import last, sample
from course_lib.recipes import ddpm
from course_lib.recipes import optimal_variance as ov
from course_lib.recipes.command import main
from course_lib.recipes.run import ASSETS, Measurement, find, take
from course_lib.schedules import cosine, ddpm_table, table
from course_lib.sn_npr import NPR, SN


def test_a_measurement_writes_log_and_results(tmp_path, monkeypatch, capsys):
    asked = []
    tiny = Measurement("99_test", "tiny", lambda device: asked.append(device) or {"one": 1})
    assert take(tiny, tmp_path / "new", "make tiny") == {"one": 1} and asked == ["cpu"]
    folder = tmp_path / "new"
    assert {p.name for p in folder.iterdir()} == {"tiny.log.json", "tiny.results.json"}
    assert json.loads((folder / "tiny.results.json").read_text()) == {"one": 1}
    log = json.loads((folder / "tiny.log.json").read_text())
    assert log["recipe"] == "99_test/tiny" and log["command"] == "make tiny" and log["seconds"] == 0
    assert log["device"] == f"cpu, {torch.get_num_threads()} thread(s)" and set(log["versions"]) > {"torch"}
    monkeypatch.setattr(ov, "digits_spread", tiny)
    main(["optimal_variance.digits_spread", "--out", str(tmp_path), "--device", "cpu"])
    command = "python -m course_lib.recipes run optimal_variance.digits_spread"
    assert json.loads((tmp_path / "tiny.log.json").read_text())["command"] == command
    said = capsys.readouterr().out.splitlines()
    assert said == [str(tmp_path / "tiny.results.json"), "optimal_variance.digits_spread: done"]


def test_find_knows_measurements():
    assert (
        find("optimal_variance.npr") is ov.npr
        and find("optimal_variance.digits_quality") is ov.digits_quality
    )
    assert Path(recipes.__file__).parents[2] / "assets" == ASSETS


@pytest.mark.parametrize(
    "recipe, kind, steps", [(ov.learned, Learned, 1200), (ov.npr, NPR, 500), (ov.sn, SN, 500)]
)
def test_the_recipes_that_made_the_shipped_weights(recipe, kind, steps):
    process, model = recipe.process(), recipe.fresh_model()
    assert type(process) is kind and process.eta == 1 and process.levels == 17 and process.clip == 1
    assert process.alpha_bar.equal(table(cosine(), 1000)) and process.shape == (1, 8, 8)
    assert (recipe.chapter, recipe.data, recipe.steps) == ("02_optimal_variance", data.digits, steps)
    log = json.loads((ASSETS / recipe.chapter / f"{recipe.name}.log.json").read_text())
    assert log["steps"] == steps
    assert model(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape == (2, 2, 8, 8)
    trained = ov.shipped(recipe)
    saved = load_tensors(ASSETS / recipe.chapter / f"{recipe.name}.safetensors")[0]
    assert sum(v.numel() for v in saved.values()) == (368642 if kind is Learned else 353)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, saved[name].float())


def test_the_heads_sit_on_chapter_1():
    first, x, u = ov.shipped(ddpm.digits), torch.randn(3, 1, 8, 8), torch.rand(3)
    for recipe in (ov.npr, ov.sn):
        out = ov.shipped(recipe)(x, u)
        torch.testing.assert_close(out[:, :1], first(x, u))
        assert out[:, 1:].abs().sum() > 0


def test_the_linear_schedule_changes_the_schedule_only():
    """Chapter 1's digits recipe, with DDPM's own table."""
    mine, theirs = ov.linear, ddpm.digits
    for field in ("data", "steps", "batch", "lr", "ema", "seed"):
        assert getattr(mine, field) == getattr(theirs, field), field
    assert (mine.chapter, mine.name, mine.measure) == ("02_optimal_variance", "linear", ov.measure)
    assert str(mine.fresh_model()) == str(theirs.fresh_model())
    process = mine.process()
    assert type(process) is DDPM and process.alpha_bar.equal(ddpm_table(1000)) and process.variance == "small"
    assert process.shape == (1, 8, 8) and process.levels == 17 and process.clip == 1
    log = json.loads((ASSETS / mine.chapter / "linear.log.json").read_text())
    assert log["steps"] == mine.steps
    shares = {  # what is left of x_0 in x_T
        name: r.process().alpha_bar[-1].item() for name, r in (("linear", mine), ("cosine", theirs))
    }
    assert shares["linear"] > 1e4 * shares["cosine"]


def test_statistics_are_those_of_spread():
    backbone = ddpm.digits
    process, model, x = backbone.process(), ov.shipped(backbone), backbone.data("train")[0]
    out = {}
    original = ov.estimate_conditional_variance
    at = torch.tensor([1, 500])
    try:
        ov.estimate_conditional_variance = lambda p, m, d, e: original(p, m, d, e, at)
        out = ov.statistics(backbone, 6, 3)("cpu")
    finally:
        ov.estimate_conditional_variance = original
    for estimator, n in (("residual", 6), ("score norm", 3)):
        torch.manual_seed(0)
        some = x[torch.randperm(len(x))[:n]]
        want = estimate_conditional_variance(process, model, some, estimator, at)
        got = torch.tensor(out[estimator]["spread"], dtype=torch.float64)
        assert out[estimator]["n"] == n and len(got) == 1001 and math.isnan(got[2])
        torch.testing.assert_close(got[at], want[at], rtol=1e-5, atol=0)


def test_the_shipped_statistics():
    for name in ("digits_spread", "mnist_spread", "linear_spread"):
        c = ov.read_conditional_variance(name)
        assert c.shape == (1001,) and c[0] == 0 and (c[1:] > 0).all() and c.dtype == torch.float64
        assert c[100] < c[400] < c[800] <= 0.4
        Analytic(ov.alpha_bar(), (1, 8, 8), conditional_variance=c)


def test_the_methods_of_the_tables():
    digits, mnist, linear = ov.digits_methods(), ov.mnist_methods(), ov.linear_methods()
    kinds = [DDPM, DDPM, Learned, Analytic, NPR, SN, DDIM, Analytic, NPR]
    assert [type(p) for p, _ in digits.values()] == kinds
    assert [type(p) for p, _ in mnist.values()] == [DDPM, DDPM, Analytic, DDIM, Analytic]
    assert [type(p) for p, _ in linear.values()] == [DDPM, DDPM, Analytic, DDIM, Analytic]
    tables = [table(cosine(), 1000), table(cosine(), 1000), ddpm_table(1000)]
    sizes = [((1, 8, 8), 17), ((1, 28, 28), 256), ((1, 8, 8), 17)]
    for methods, a, (shape, levels) in zip((digits, mnist, linear), tables, sizes, strict=True):
        for name, (p, _) in methods.items():
            assert p.alpha_bar.equal(a)
            assert p.shape == shape and p.levels == levels and p.clip == 1
            assert getattr(p, "eta", 1) == (0 if "DDIM" in name else 1)
        assert methods["DDPM, small"][0].variance == "small" and methods["DDPM, large"][0].variance == "large"


def test_linear_is_measured_like_cosine():
    one, other = (
        json.loads((ASSETS / "02_optimal_variance" / f"{k}_quality.results.json").read_text())
        for k in ("linear", "digits")
    )
    assert one["n"] == other["n"] == 1000 and one["floor"] == other["floor"] and one["real"] == other["real"]
    assert set(one["methods"]) < set(other["methods"])
    assert all(set(m["steps"]) == {"10", "50"} for m in one["methods"].values())


def test_the_table_in_small():
    methods = {
        "DDPM, small": (DDPM(table(cosine(), 10), (1, 8, 8), levels=17, clip=1.0), torch.nn.Identity()),
        "DDIM": (DDIM(table(cosine(), 10), (1, 8, 8), clip=1.0), torch.nn.Identity()),
    }
    for process, _ in methods.values():
        process.u = lambda t: t.float() / 10
    networks = {k: (p, _Half()) for k, (p, _) in methods.items()}
    out = ov.quality(data.digits, lambda: networks, {2: set(), 5: {"DDIM"}}, 30, True, (3,))("cpu")
    assert json.loads(json.dumps(out)) == out and (out["n"], out["n_real"]) == (30, 30)
    rows = out["methods"]
    (x, y), (test, _) = data.digits(), data.digits("test")
    judge = Judge(x, y)
    assert [*rows["DDPM, small"]["steps"]] == ["2", "3, short start"]
    assert [*rows["DDIM"]["steps"]] == ["2", "5", "3, short start"]
    assert ov.short_start(1000, 10)[:3].tolist() == [1000, 950, 844]
    assert ov.short_start(10, 3).tolist() == [10, 9, 4, 0]
    even, short = rows["DDIM"]["steps"]["2"], rows["DDIM"]["steps"]["3, short start"]
    process, model = networks["DDIM"]
    for row, times in ((even, [10, 5, 0]), (short, [10, 9, 4, 0])):
        there = DDIM(process.alpha_bar, (1, 8, 8), clip=1.0)
        there.u = process.u
        torch.manual_seed(0)
        made = last(sample(there, model, 30, torch.tensor(times)))[1]
        assert row["frechet"] == frechet(judge.features(made), judge.features(x))
    assert out["floor"] == ov.floor(judge.features(x), 30) and "accepted" not in out["floor"]
    assert rows["DDPM, small"]["bits_per_dim"] > 0 and "bits_per_dim" not in rows["DDIM"]
    torch.manual_seed(0)
    torch.randn(30, 1, 8, 8)  # the noise image row is drawn first
    some = test[torch.randperm(len(test))[:30]]
    assert out["real"] == ov.judged(judge, judge.features(x), some) and out["noise"]["accepted"] < 0.3
    process, model = networks["DDPM, small"]
    torch.manual_seed(0)
    bits = bound(process, model, test, repeats=10).bits_per_dim(64)
    assert rows["DDPM, small"]["bits_per_dim_se"] == bits.se
    assert out["bits_less"] == {"DDPM, small": {}}  # DDIM without noise has no bound
    assert jackknife(even["frechet_without"]) == even["frechet_se"] and len(even["frechet_without"]) == 10


def test_paired_differences_of_bounds():
    """What both have in common drops out; the difference is that of the means, turned round with the other sign."""
    torch.manual_seed(0)
    common, extra = 100 * torch.randn(50).double(), torch.rand(50).double()
    less = ov.compared({"a": common, "b": common + extra}, 4)
    nat = 4 * math.log(2)
    assert less["a"]["b"]["mean"] == pytest.approx(extra.mean().item() / nat)
    assert less["a"]["b"]["se"] == pytest.approx(extra.std().item() / nat / 50**0.5)
    assert less["b"]["a"]["mean"] == -less["a"]["b"]["mean"] and set(less["a"]) == {"b"}


def test_the_floor_is_the_bias_of_few_samples():
    """Draws of the fitted Gaussian itself: far apart when few, nearly 0 when many, and by trace over n for the mean."""
    torch.manual_seed(0)
    space = torch.randn(500, 3).double() @ torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, 0.1]]).double() + 5
    few, many = ov.floor(space, 50), ov.floor(space, 20_000)
    assert (
        0 < many["frechet"] < 0.002 < few["frechet"] < 1 and few["frechet_se"] > 10 * many["frechet_se"] > 0
    )
    assert few["frechet"] > space.T.cov().trace() / 50 * 0.8
    root = torch.linalg.cholesky(space.T.cov())
    torch.manual_seed(0)
    draws = [frechet(space.mean(0) + torch.randn(50, 3).double() @ root.T, space) for _ in range(20)]
    assert few["frechet"] == pytest.approx(sum(draws) / 20)
    assert few["frechet_se"] == pytest.approx(torch.tensor(draws).double().std().item())


def test_all_methods_start_from_the_same_noise():
    a, model = table(cosine(), 10), _Half()
    seen = {}
    for eta in (0.0, 1.0):
        process = DDIM(a, (1, 8, 8), eta=eta, clip=1.0)
        prior, seen[eta] = process.prior, []
        process.prior = lambda n, prior=prior, out=seen[eta]: out.append(prior(n)) or out[-1]
        assert ov.draws(process, model, 300, 2).shape == (300, 1, 8, 8)
    assert torch.equal(torch.cat(seen[0.0]), torch.cat(seen[1.0])) and len(seen[0.0]) == 2
    assert not torch.equal(seen[0.0][0][:50], seen[0.0][1])


class _Half(torch.nn.Module):
    def forward(self, x, u):
        return 0.5 * x


def test_judged_has_the_jackknife_s_error():
    """The error of a mean-like statistic: compared with the spread over fresh samples."""
    x, y = data.digits()
    judge = Judge(x, y)
    space = judge.features(x)
    got = ov.judged(judge, space, x[:200])
    assert got["accepted"] == judge.accepted(x[:200]) and got["frechet"] == frechet(
        judge.features(x[:200]), space
    )
    draws = [ov.judged(judge, space, x[torch.randperm(len(x))[:200]]) for _ in range(12)]
    spread_ = torch.tensor([d["frechet"] for d in draws]).std()
    error = torch.tensor([d["frechet_se"] for d in draws]).mean()
    assert 0.4 < error / spread_ < 3
    f = torch.randn(100, 30).double()
    parts = f.split(10)
    values = torch.tensor([frechet(torch.cat([*parts[:i], *parts[i + 1 :]]), space) for i in range(10)])
    judge.features, judge.accepted = (lambda v: f), (lambda v: 0.5)
    want = ((values - values.mean()).square().sum() * 9 / 10).sqrt().item()
    assert ov.judged(judge, space, torch.zeros(100, 1, 8, 8))["frechet_se"] == pytest.approx(want, rel=1e-4)
