"""Recipes of words: rows of several lengths, their bounds, and which weights are kept."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib import schedules
from course_lib.absorbing import Absorbing
from course_lib.mdlm import MDLM
from course_lib.nets import CausalNet, TokenNet
from course_lib.ngram import SentenceJudge
from course_lib.recipes import run, verse_rows, word_measures, words
from course_lib.recipes.verse_rows import (
    AnyOrder,
    Verses,
    ended,
    lengths,
    rows,
    size,
    unended,
    words_and_ends,
)
from course_lib.recipes.verse_sets import LENGTH, sentences
from course_lib.sedd import SEDD
from course_lib.sentences import PAD
from course_lib.stationary import Uniform
from course_lib.weights import load_weights

SILENT = lambda x, u, mask=None: torch.zeros(*x.shape, 3)  # noqa: E731
SHORT = torch.tensor([[0, 2, 1], [1, 1, PAD], [2, PAD, PAD]])


def tiny(eps=1e-12):
    return MDLM(Absorbing(3, schedules.log_linear(eps)), LENGTH)


# Rows


def test_rows_are_diffusion_lms():

    assert rows("test") is sentences("test")[0].tokens and size() == 5785
    count = lengths()
    assert count.sum() == len(rows()) and len(count) == LENGTH + 1 and count[0] == 0
    assert (count * torch.arange(LENGTH + 1)).sum() == (rows() != PAD).sum()


def test_ends_go_on_and_come_off():
    x, with_end = rows("test")[:50], ended("test")[:50]
    assert ((with_end == size()).sum(1) == 1).all()
    place = (with_end == size()).int().argmax(1)
    assert place.equal((x != PAD).sum(1))
    assert unended(with_end)[:, :LENGTH].equal(x)
    assert words_and_ends(with_end).equal(words_and_ends(x))
    assert words_and_ends(SHORT).tolist() == [4, 3, 2]
    empty = torch.tensor([[size(), 3, size()]])
    assert unended(empty).tolist() == [[0, PAD, PAD]]


def test_a_batch_is_cut_to_its_longest_row_and_lengths_are_paid_for():
    process = Verses(tiny())
    wide = torch.nn.functional.pad(SHORT, (0, 5), value=PAD)
    inner, cut = process.cut(wide)
    assert cut.equal(SHORT) and inner.length == 3 and process.process.length == LENGTH
    assert process.log_length.exp().sum().item() == pytest.approx(1)
    torch.manual_seed(0)
    t = process.sample_t(3)
    torch.manual_seed(1)
    got = process.bound(SILENT, wide, t)
    torch.manual_seed(1)
    inner_bound = inner.bound(SILENT, SHORT, t)
    torch.testing.assert_close(got, inner_bound - process.log_length[torch.tensor([3, 2, 1])])
    torch.manual_seed(1)
    want = inner.loss(SILENT, SHORT, t)
    torch.manual_seed(1)
    assert process.loss(SILENT, wide, t).equal(want)


# Any order


def test_a_silent_network_has_log_V_per_word_at_every_draw():
    process = AnyOrder(tiny())
    for t in (0.001, 0.4, 1.0):
        got = process.bound(SILENT, SHORT, torch.full((3,), t)) + process.log_length[torch.tensor([3, 2, 1])]
        torch.testing.assert_close(got, torch.tensor([3, 2, 1]).double() * math.log(3))


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_as_many_words_are_masked_as_asked_and_never_padding(length):
    process = AnyOrder(tiny())
    x = torch.full((400, 8), PAD)
    x[:, :length] = torch.randint(3, (400, length))
    n = torch.randint(1, length + 1, (400,))
    x_t = process.masked(x, n)
    assert (x_t == 3).sum(1).equal(n) and ((x_t == PAD) == (x == PAD)).all()
    assert (x_t[x_t != 3] == x[x_t != 3]).all()
    one = process.masked(x, torch.ones(400, dtype=torch.long))
    share = (one == 3).double().mean(0)[:length]
    assert (share - 1 / length).abs().max() < 4 * (1 / length / 400) ** 0.5 + 1e-9


def test_it_is_the_mean_over_all_orders_of_autoregression():
    """A network that ignores time, three words: -log p in every order, averaged, by hand."""
    torch.manual_seed(0)
    tableau = torch.randn(4**3, 3, 3).double()
    place = lambda x: (x.clamp(min=0) * 4 ** torch.arange(3)).sum(1)  # noqa: E731
    model = lambda x, u, mask=None: tableau[place(x)]  # noqa: E731
    x, exact = SHORT[:1], 0.0
    for order in itertools.permutations(range(3)):
        x_t = torch.full((1, 3), 3)
        for i in order:
            exact -= model(x_t, 0).log_softmax(-1)[0, i, x[0, i]].item() / 6
            x_t[0, i] = x[0, i]
    process = AnyOrder(tiny())
    many = x.expand(30_000, -1)
    values = process.bound(model, many, process.sample_t(30_000)) + process.log_length[3]
    assert abs(values.mean() - exact) < 4 * values.std() / 30_000**0.5
    assert values.std() / 30_000**0.5 < 0.02


def test_short_rows_have_the_same_bound_by_time():
    torch.manual_seed(0)
    net = TokenNet(4, 3, 16, 2, 1).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    net.trunk.time.requires_grad_(False)
    for p in net.trunk.time.parameters():
        nn.init.zeros_(p)  # any order tells another time than MDLM: a network that does not listen
    many = SHORT[1:2].expand(20_000, -1)
    by_time, by_count = (kind(tiny(1e-9)) for kind in (Verses, AnyOrder))
    with torch.no_grad():
        a = by_time.bound(net.eval(), many, by_time.sample_t(20_000))
        b = by_count.bound(net, many, by_count.sample_t(20_000))
    error = math.hypot(a.std(), b.std()) / 20_000**0.5
    assert abs(a.mean() - b.mean()) < 4 * error + 1e-3 and b.std() < a.std()


# Measures


def test_scores_of_leave_one_out_logits_say_the_same():
    torch.manual_seed(0)
    process = SEDD(Uniform(5, schedules.log_linear()), 4)
    out = torch.randn(3, 4, 5).double()
    told = []
    model = lambda x, u, mask=None: told.append(mask) or out  # noqa: E731
    x, t = torch.randint(5, (3, 4)), torch.tensor([0.1, 0.5, 0.99])
    got = process.predict_x0(word_measures.as_scores(process, model), x, t)
    torch.testing.assert_close(got, out.log_softmax(-1), rtol=1e-5, atol=1e-5)
    word_measures.as_scores(process, model)(x, t, mask=x >= 0)
    assert told[0] is None and told[-1].all()


def test_kneser_ney_counts_ends_as_the_judge_does():
    x = rows("test")[:40]
    got = word_measures.kneser_ney(x)
    assert list(got) == [2, 3, 4]
    for order in (2, 3):
        judge = SentenceJudge(rows(), size(), order)
        assert math.exp(got[order]["mean"]) == pytest.approx(judge.perplexity(x))


@pytest.fixture
def small(monkeypatch):
    """Networks of a few numbers, a few verses."""
    cut = {split: rows(split)[:200] for split in ("train", "dev", "test")}
    cut["test"], cut["dev"] = cut["test"][:6], cut["dev"][:5]
    closed = {split: ended(split)[: len(x)] for split, x in cut.items()}
    for module in (word_measures, words):
        monkeypatch.setattr(module, "rows", lambda split="train": cut[split])
        monkeypatch.setattr(module, "ended", lambda split="train": closed[split])
    for name, value in (("WIDTH", 16), ("HEADS", 2), ("DEPTH", 1), ("SEEN", 4)):
        monkeypatch.setattr(words, name, value)
    monkeypatch.setattr(word_measures, "STEPS", (2, 3))
    return cut


@pytest.mark.parametrize("name", ["masked", "uniform", "ar"])
def test_what_is_measured(name, small):
    recipe = getattr(words, name)
    torch.manual_seed(0)
    got = recipe.measure(recipe, recipe.fresh_model().eval(), n=5)
    assert json.loads(json.dumps(got))["sentences"] == 6
    assert got["words"] == (small["test"] != PAD).sum() and got["kneser_ney"].keys() == {2, 3, 4}
    ends = got["words"] + 6
    counts = (small["test"] != PAD).sum(1)
    K = size() + (name == "ar")
    silent = ends * math.log(K) if name == "ar" else got["words"] * math.log(K)
    if name != "ar":
        silent -= Verses(tiny()).log_length[counts].sum().item()
    first = "autoregression, exact" if name == "ar" else next(iter(got["bounds"]))
    assert got["bound_per_word"] == got["bounds"][first]["mean"]
    if name != "uniform":  # by time it is noisy
        assert got["bound_per_word"] == pytest.approx(silent / ends, rel=1e-5)
    if name == "masked":
        assert got["bounds"]["MDLM"] == got["bounds"]["SEDD, mass known"]
        assert set(got["bounds"]) == {"any order", "MDLM", "SEDD, mass known", "D3PM, T = 1000"}
        hole = got["infilling"]
        assert len(hole["asked"]) == len(hole["truth"]) == len(hole["filled"]) == 5
        assert 0 < hole["words"] < got["words"] and hole["right"] < 0.2
    steps = [LENGTH + 1] if name == "ar" else [2, 3]
    assert list(got["samplers"]["own"]) == list(got["samples"]) == steps
    assert got["real"]["perplexity"] < got["samplers"]["own"][steps[-1]]["perplexity"]
    for q in (got["real"], *got["samplers"]["own"].values()):
        assert (
            math.exp(q["judged_nats"]["mean"]) == pytest.approx(q["perplexity"])
            and q["judged_nats"]["se"] > 0
        )
    again = recipe.measure(recipe, recipe.fresh_model().eval(), n=5)
    assert again == got  # the recipe's seed decides


def test_colder_texts_are_by_the_network_at_its_temperature(small, monkeypatch):
    recipe, model = words.masked, words.masked.fresh_model().eval()
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    got = recipe.measure(recipe, model, n=5)["colder"]
    assert got["temperature"] == word_measures.COLD == 0.75
    monkeypatch.setattr(word_measures, "COLD", 1e-4)
    frozen = recipe.measure(recipe, model, n=5)
    monkeypatch.setattr(word_measures, "COLD", 1.0)
    same = recipe.measure(recipe, model, n=5)
    assert same["samples"] == frozen["samples"] == same["colder"]["samples"]
    assert len({str(x["samples"]) for x in (got, frozen["colder"], same)}) == 3
    assert same["colder"]["samplers"] == same["samplers"]


def test_gaps_are_filled_by_a_network_that_knows(small):
    truth = small["test"][word_measures.spaced(6, 4)]

    def knows(x, u, mask=None, at=None):
        out = 50.0 * torch.nn.functional.one_hot(truth.clamp(min=0), size()).float()
        assert mask.equal(truth != PAD)
        return out if at is None else out[at]

    knows.takes_at = True
    got = word_measures.infilling(words.masked_process(), Wrap(knows), 4, 3, 0)
    assert got["right"] == 1 and got["right_se"] == 0 and got["filled"] == got["truth"] != got["asked"]
    gaps = sum(text.count("_") for text in got["asked"])
    assert gaps == got["words"] and got["asked"][0].split()[0] == got["truth"][0].split()[0]


class Wrap(nn.Module):
    """A function as a network."""

    takes_at = True

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x, u, mask=None, at=None):
        """What f says."""
        return self.f(x, u, mask, at)


def test_the_networks_are_of_one_size():
    sizes = {
        k: sum(p.numel() for p in getattr(words, k).fresh_model().parameters())
        for k in ("masked", "uniform", "ar")
    }
    assert sizes == {"masked": 6372249, "uniform": 6371993, "ar": 6369946}
    assert isinstance(words.ar.fresh_model(), CausalNet)
    for name in ("lr", "batch", "ema", "seed", "options"):
        assert getattr(words.masked, name) == getattr(words.uniform, name) == getattr(words.ar, name)


# Early stopping


def test_the_weights_of_the_best_look_are_kept(small, tmp_path):
    """Looks that say 3, 1, 2: the second look's averaged weights are saved, and the log says so."""
    seen, values = [], iter((3.0, 1.0, 2.0))

    def watch(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(values)

    recipe = replace(words.masked, steps=6, look=2, batch=4, watch=watch)
    run.make(recipe, tmp_path, "a command")
    log = json.loads((tmp_path / "words_masked.log.json").read_text())
    assert log["kept_step"] == 4 and log["watched"] == [[2, 3.0], [4, 1.0], [6, 2.0]] and log["steps"] == 6
    model = recipe.fresh_model()
    load_weights(tmp_path / "words_masked.safetensors", model)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, seen[1][name].half().float())
    assert any(not seen[1][k].equal(seen[2][k]) for k in seen[1])


def test_a_recipe_that_is_not_watched_keeps_its_last_average(small, tmp_path):
    recipe = replace(words.masked, steps=2, batch=4, watch=None)
    run.make(recipe, tmp_path, "a command")
    log = json.loads((tmp_path / "words_masked.log.json").read_text())
    assert "kept_step" not in log and "watched" not in log


@pytest.mark.parametrize("name", ["masked", "uniform", "ar"])
def test_dev_nats_of_an_untrained_network(name, small):
    recipe = getattr(words, name)
    value = recipe.watch(recipe.fresh_model().eval())
    assert value == pytest.approx(math.log(size()), rel=0.15)
    assert verse_rows.size() == size()
