"""One network of masks, read and written in an order: chain rule, enumeration, and what is measured."""

import itertools
import json
from functools import partial

import pytest
import torch
from torch import nn

from course_lib import schedules
from course_lib.absorbing import Absorbing
from course_lib.decoding import Unmask, left_to_right, random_order, temper
from course_lib.evaluate import exact_law
from course_lib.mdlm import MDLM
from course_lib.nets import TokenNet
from course_lib.recipes import word_measures, word_orders, words
from course_lib.recipes.verse_rows import AnyOrder, ended, rows, size
from course_lib.recipes.verse_sets import LENGTH
from course_lib.sentences import PAD


def tiny():
    """Three words, and a network that knows something."""
    torch.manual_seed(1)
    net = TokenNet(4, 3, 16, 2, 1).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    return MDLM(Absorbing(3, schedules.log_linear()), LENGTH), net


def every_row(length):
    """All rows of that many words, PAD after them."""
    x = torch.tensor(list(itertools.product(range(3), repeat=length)))
    return torch.nn.functional.pad(x, (0, LENGTH - length), value=PAD)


@pytest.mark.parametrize("length", [1, 3])
def test_what_a_verse_costs_left_to_right_is_the_law_of_its_sampler(length):
    process, net = tiny()
    p_length = AnyOrder(process).log_length[length].exp().double()
    p = (-word_orders.nats_in_order(process, net, every_row(length))).exp()
    torch.testing.assert_close(p.sum(), p_length)
    process.length = length
    law = exact_law(Unmask(process, left_to_right), net)
    torch.testing.assert_close(p / p_length, law.flatten(), atol=1e-6, rtol=1e-5)


def test_lengths_are_read_each_by_its_own_rows():
    process, net = tiny()
    mixed = torch.cat([every_row(2)[:4], every_row(1), every_row(3)[:2]])
    apart = [word_orders.nats_in_order(process, net, x) for x in (mixed[:4], mixed[4:7], mixed[7:])]
    torch.testing.assert_close(word_orders.nats_in_order(process, net, mixed), torch.cat(apart))


@pytest.mark.parametrize("order", [left_to_right, random_order])
def test_verses_have_their_lengths_and_their_words_the_law_of_the_sampler(order):
    process, net = tiny()
    length = torch.tensor([2, 1, 2] * 2000)
    torch.manual_seed(0)
    x = word_orders.written_in_order(process, net, length, order, 1.0)
    assert x.shape == (6000, LENGTH) and ((x != PAD).sum(1) == length).all() and (x[:, 2:] == PAD).all()
    process.length = 2
    law = exact_law(Unmask(process, order), net)
    two = x[length == 2, :2]
    found = torch.zeros_like(law)
    found.index_put_((two[:, 0], two[:, 1]), torch.ones(len(two)).to(law), accumulate=True)
    assert (found / len(two) - law).abs().sum() / 2 < 0.03  # 4000 draws of nine outcomes
    cold = word_orders.written_in_order(process, net, length[:3], order, 0.0)
    assert cold[0].equal(cold[2])  # nothing but the likeliest, in whatever order: both have two words


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_drawn_verse_comes_with_its_own_cost(temperature):
    process, net = tiny()
    process.length = 3
    torch.manual_seed(0)
    x, nats = word_orders.drawn_with_nats(process, net, 50, temperature)
    assert x.shape == (50, 3) and (x < 3).all()
    rows_of = torch.nn.functional.pad(x, (0, LENGTH - 3), value=PAD)
    p_length = -AnyOrder(process).log_length[3].double()
    torch.testing.assert_close(nats + p_length, word_orders.nats_in_order(process, net, rows_of))


@pytest.mark.parametrize(("draws", "temperature"), [(1, 1.0), (3, 1.0), (3, 0.7)])
def test_the_likeliest_of_some_draws_has_the_law_of_the_least_cost(draws, temperature):
    """Nine texts by rising cost: x is kept unless all are dearer, so P(cost >= x)^M - P(cost > x)^M."""
    process, net = tiny()
    net.requires_grad_(False)
    length = torch.tensor([2, 1] * 3000)
    torch.manual_seed(0)
    x = word_orders.likeliest_of(process, net, length, draws, temperature)
    assert ((x != PAD).sum(1) == length).all() and (x[:, 2:] == PAD).all()
    process.length = 2
    cold = partial(temper, temperature=temperature)
    law = exact_law(Unmask(process, left_to_right, change=cold), net).flatten()
    turn = word_orders.nats_in_order(process, net, every_row(2)).argsort(descending=True)
    dearer = law[turn].cumsum(0)  # the dearest first, x itself included
    kept = dearer**draws - (dearer - law[turn]).clamp(min=0) ** draws
    two = x[length == 2, 0] * 3 + x[length == 2, 1]
    found = two.bincount(minlength=9)[turn] / len(two)
    assert (found - kept).abs().sum() / 2 < 0.03


@pytest.fixture
def small(monkeypatch):
    """A few verses, small networks, few temperatures."""
    cut = {split: rows(split)[:200] for split in ("train", "test")}
    cut["test"] = cut["test"][:6]
    closed = {split: ended(split)[: len(x)] for split, x in cut.items()}
    for module in (word_measures, word_orders):
        monkeypatch.setattr(module, "rows", lambda split="train": cut[split])
    monkeypatch.setattr(word_orders, "ended", lambda split="train": closed[split])
    for name, value in (("WIDTH", 16), ("HEADS", 2), ("DEPTH", 1)):
        monkeypatch.setattr(words, name, value)
    monkeypatch.setattr(word_orders, "TEMPERATURES", (1.0, 0.5))
    monkeypatch.setattr(word_orders, "OF_DRAWS", (1.0, 0.8, 0.5))
    monkeypatch.setattr(word_orders, "DRAWS", 2)
    monkeypatch.setattr(word_orders, "READ", 4)
    nets = {}

    def fresh(recipe, device):
        if recipe.name not in nets:
            torch.manual_seed(0)
            nets[recipe.name] = recipe.fresh_model()
        return nets[recipe.name]

    monkeypatch.setattr(word_orders, "shipped", fresh)
    return cut


def test_what_is_measured(small):
    got = word_orders.measure_orders(words.masked, words.ar, "cpu", n=5)
    json.dumps(got)
    chosen = "left to right, likeliest of 2"
    assert list(got["of"]) == ["any order", "left to right", chosen, "autoregression"]
    for name, of in got["of"].items():
        assert list(of["by"]) == ([1.0, 0.8, 0.5] if name == chosen else [1.0, 0.5])
        assert of["shown"] == (0.8 if name == chosen else 0.5) and len(of["samples"]) == 5
        assert all(q["perplexity"] > 1 for q in of["by"].values())
    # The verses that are shown: of two draws the likeliest, at the temperature that is said.
    process, net = words.masked.process(), word_orders.shipped(words.masked, "cpu").eval()
    lengths = word_orders.the_lengths(5, 0)
    best = word_orders.likeliest_of(process, net, lengths, 2, 0.8)
    assert got["of"][chosen]["samples"] == word_measures.lines(best)
    lengths = word_orders.the_lengths(5, 0)
    assert got["draws"] == 2 and got["calls"] == pytest.approx(2 * lengths.double().mean().item())
    assert (
        lengths.equal(word_orders.the_lengths(5, 0))
        and (got["n"], got["read_verses"]) == (5, 4)
        and got["real"]["perplexity"] > 1
    )
    # Untrained networks say the same of every word, so all orders cost the same.
    read = got["read"]
    assert read["any order, mean"]["mean"] == pytest.approx(read["left to right"]["mean"], rel=1e-5)
    assert read["autoregression"]["mean"] != pytest.approx(read["left to right"]["mean"], rel=1e-3)
    assert read["left to right"]["se"] > 0
    assert words.by_order.name == "words_by_order" and size() > 5000


def test_a_lower_temperature_writes_likelier_words(small):
    process, net = tiny()
    length = torch.full((300,), 4)
    nats = []
    for temperature in (1.0, 0.3):
        torch.manual_seed(0)
        x = word_orders.written_in_order(process, net, length, left_to_right, temperature)
        nats.append(word_orders.nats_in_order(process, net, x).mean().item())
    assert nats[1] < nats[0] - 0.3


def test_verses_are_shown_at_the_temperature_that_is_said(small):
    made = {1.0: small["train"][:5], 0.5: small["train"][5:10]}
    for shown in made:
        said = word_orders.said_of(made, 5, shown)
        assert said["shown"] == shown and said["samples"] == word_measures.lines(made[shown])
