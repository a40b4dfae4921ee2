"""Chapter 8: the scoreboard reads what recipes wrote, and each measure says what it is named after."""

import json
import math

import pytest
import torch
from torch import nn

from course_lib.autoregressive import Autoregressive
from course_lib.data import addresses, decode, encode, windows
from course_lib.evaluate import Estimate
from course_lib.nets import CausalNet
from course_lib.ngram import NGram
from course_lib.recipes import gaps_and_errors as G
from course_lib.recipes import scoreboard as B
from course_lib.recipes import side_by_side as S
from course_lib.recipes.run import ASSETS, Recipe

# The scoreboard


def test_every_row_has_its_number_or_the_command_that_makes_it():
    for sources in (B.LETTERS, B.WORDS):
        rows = B.scoreboard(sources)
        assert [r.system for r in rows] == [s.system for s in sources]
        for r, source in zip(rows, sources, strict=True):
            there = (ASSETS / f"{source.results}.results.json").is_file()
            assert there == (r.value is not None)
            if there:
                assert r.value.mean > 0 and (r.value.se > 0 or "gram" in r.system)
            else:
                assert r.made.startswith("not trained yet: python -m course_lib.recipes run words.")


def test_a_row_fills_itself(tmp_path):
    source = B.within("a", "bound", "06_d3pm/words_uniform", "bounds", "SEDD")
    assert B.row(source, tmp_path) == B.Row(
        "a", "bound", None, "not trained yet: python -m course_lib.recipes run words.uniform"
    )
    (tmp_path / "06_d3pm").mkdir()
    path = tmp_path / "06_d3pm" / "words_uniform.results.json"
    path.write_text(json.dumps({"bounds": {"SEDD": {"mean": 4.0, "se": 0.5}}}))
    path.with_name("words_uniform.log.json").write_text(json.dumps({"steps": 20000, "seconds": 120}))
    row = B.row(source, tmp_path)
    assert row == B.Row("a", "bound", Estimate(4.0, 0.5), "20,000 steps, 2 min")
    missing = B.Row("b", "exact", None, "not trained yet")
    assert B.cells([row, missing]) == [
        ("a", "4.000 ± 0.500", "bound", "20,000 steps, 2 min"),
        ("b", "-", "exact", "not trained yet"),
    ]
    fig = B.figure([row, missing], "title", "nats")
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["a"]
    assert [bar.get_width() for bar in fig.axes[0].patches] == [4.0]
    (line,) = (line for bars in fig.axes[0].collections for line in bars.get_segments())
    assert line[:, 0].tolist() == [3.0, 5.0]  # two standard errors to both sides
    assert B.row(source._replace(made="counts"), tmp_path).made == "counts"
    path.write_text("{}")
    with pytest.raises(
        ValueError, match="words_uniform.results.json must have a number at bounds / SEDD / mean"
    ):
        B.row(source, tmp_path)
    with pytest.raises(ValueError, match="none writes 06_d3pm/nothing"):
        B.row(B.pair("a", "exact", "06_d3pm/nothing", "x"), tmp_path)


def test_the_figure_of_three_tasks_names_the_best():
    value = {"mean": 2.0, "se": 0.1}
    point = {"seconds": 1.0, "judged_bits": 4.0, "judged_bits_se": 0.25}
    results = {
        "length": 128,
        "real": {"judged_bits": 1.5},
        "calls": {
            "autoregression": {"128": point | {"seconds": 2.0, "judged_bits": 2.0}},
            "D3PM, masks": {"4": point, "16": point | {"seconds": 4.0, "judged_bits": 3.0}},
            "D3PM, random letters": {"4": point},
        },
        "infilling": {
            "masks": {"judged_bits": value},
            "drafts": {"judged_bits": value | {"mean": 1.8}},
            "the text itself": {"judged_bits": value | {"mean": 1.0}},
        },
        "repair": {"left as it is": {"wrong": value}, "masks": {"wrong": value | {"mean": 1.0}}},
    }
    write, gap, errors = B.which(results).axes
    assert write.lines[0].get_xdata().tolist() == [0.5, 2.0] and write.lines[0].get_ydata().tolist() == [
        4.0,
        3.0,
    ]
    bars = write.collections[0].get_segments()  # two standard errors to both sides
    assert [end[1] for bar in bars for end in bar] == [3.5, 4.5, 2.5, 3.5]
    best = lambda ax: [i for i, bar in enumerate(ax.patches) if bar.get_facecolor()[2] > 0.9]  # noqa: E731
    assert best(gap) == [1] and best(errors) == [1]
    assert [bar.get_width() for bar in gap.patches] == [2.0, 1.8, 1.0]


# Small parts


@pytest.fixture(scope="module")
def judge():
    row = addresses("train")[:40000]
    return S.Judge(NGram(row, S.K, 5), set(decode(row).split()), windows(row, S.LENGTH)[:200])


def test_texts_without_a_model(judge):
    x = S.repeated("of the ", 9)
    assert x.shape == (9, S.LENGTH) and decode(x[0]).startswith("of the of the ")
    assert decode(x[1]).startswith("f the of") and torch.equal(x[0], x[7])
    real = judge(windows(addresses("test"), S.LENGTH)[:9])
    said = judge(x)
    assert said["judged_bits"] < real["judged_bits"] and said["distinct2"] < 0.1
    assert said["divergence"] > real["divergence"]


def test_the_judge_s_own_texts_have_its_own_entropy(judge):
    """E[-log q] under q itself is its entropy rate: own texts get fewer bits than real ones of other addresses."""
    x = S.own_texts(judge.model, 48)
    assert x.shape == (48, S.LENGTH) and x.min() >= 0 and x.max() < S.K
    held_out = windows(addresses("test"), S.LENGTH)[:200]
    assert judge.model.bits(x, 4) < judge.model.bits(held_out, 4)
    starts = torch.bincount(x[:, 0], minlength=S.K) / 48
    first = judge.model.log_prob(torch.arange(S.K)[:, None])[:, 0].exp()
    assert (starts - first).abs().max() < 0.25 and first.sum().item() == pytest.approx(1)


def test_colder_logits():
    f = torch.randn(2, 3, 5)
    model = S.Colder(lambda x, u: f, 0.5)
    torch.testing.assert_close(model(torch.zeros(2, 3).long(), torch.ones(2)), 2 * f)


class Copycat(nn.Module):
    """A writer that expects the letter after the last one in the alphabet, with a margin."""

    takes_cache = True

    def __init__(self, K, margin):
        super().__init__()
        self.K, self.margin = K, margin
        self.one = nn.Parameter(torch.zeros(1))

    def forward(self, x, u=None, cache=None):
        before = torch.nn.functional.pad(x[:, :-1], (1, 0), value=self.K - 1)
        logits = self.margin * torch.nn.functional.one_hot((before + 1) % self.K, self.K).float()
        return logits[:, cache.length if cache is not None else 0 :]


def stands_in(net):
    """In place of `shipped`: this network, for any recipe and for the device that all these tests are on."""

    def given(recipe, device):
        assert isinstance(recipe, Recipe) and device == "cpu"
        return net

    return given


def alphabet(n):
    return (torch.arange(S.LENGTH)[None] + torch.zeros(n, 1).long()) % S.K


def test_gaps_and_errors_by_a_writer_that_knows(monkeypatch):
    """A network that is certain of the alphabet fills and mends it without an error; so does one draft."""
    monkeypatch.setattr(G, "shipped", stands_in(Copycat(S.K, 30.0)))
    real = alphabet(4)
    for drafts in (1, 3):
        assert torch.equal(G.gap_by_writer("cpu", real, drafts), real)
    torch.manual_seed(0)
    x = torch.where(torch.rand(real.shape) < 0.1, torch.randint(S.K, real.shape), real)
    assert (x != real).any()
    for beam in (1, 4):
        assert torch.equal(G.mended_by_writer("cpu", x, beam), real)


def test_a_beam_that_holds_everything_finds_the_likeliest_text(monkeypatch):
    """Against all 27^3 texts; and one beginning alone is greedy."""
    torch.manual_seed(1)
    move = 3 * torch.randn(S.K + 1, S.K)

    class Chain(Copycat):
        def forward(self, x, u=None, cache=None):
            before = torch.nn.functional.pad(x[:, :-1], (1, 0), value=S.K)
            return move[before][:, cache.length :]

    class Remembers(nn.Module):
        takes_cache = True

        def forward(self, x, u=None, cache=None):
            return Chain(S.K, 0.0)(x, u, cache)

    monkeypatch.setattr(G, "shipped", stands_in(Remembers()))
    x = torch.randint(S.K, (3, 3))
    every = torch.cartesian_prod(*[torch.arange(S.K)] * 3)
    log_p = move.log_softmax(-1)
    prior = log_p[S.K, every[:, 0]] + log_p[every[:, 0], every[:, 1]] + log_p[every[:, 1], every[:, 2]]
    seen = G.channel(x).log()
    likelihood = torch.stack([sum(row[i, every[:, i]] for i in range(3)) for row in seen])
    assert torch.equal(G.mended_by_writer("cpu", x, S.K**2), every[(prior + likelihood).argmax(1)])
    greedy, last = [], torch.full((3,), S.K)
    for i in range(3):
        last = (log_p[last] + seen[:, i]).argmax(-1)
        greedy.append(last)
    assert torch.equal(G.mended_by_writer("cpu", x, 1), torch.stack(greedy, 1))


def test_beginnings_keep_their_own_cache(monkeypatch):
    """A network that reads everything before, through its cache, and all 27^3 texts without one: the same best text."""
    torch.manual_seed(0)
    net = CausalNet(S.K, 16, 2, 2)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    monkeypatch.setattr(G, "shipped", stands_in(net))
    monkeypatch.setattr(G, "WRONG", 0.9)  # so that the network has its say
    x = torch.randint(S.K, (4, 3))
    every = torch.cartesian_prod(*[torch.arange(S.K)] * 3)
    with torch.no_grad():
        log_p = -Autoregressive(S.K, 3).each(net, every)[0].double().sum(1)
    likelihood = torch.stack([sum(row[i, every[:, i]] for i in range(3)) for row in G.channel(x).log()])
    best = every[(log_p + likelihood).argmax(1)]
    assert (best != x).any()
    assert torch.equal(G.mended_by_writer("cpu", x, S.K**2), best)


def test_drafts_are_weighed_by_what_follows(monkeypatch):
    """Chain of letters with a known answer: from drafts of the gap those are kept that lead to the right side."""
    monkeypatch.setattr(G, "shipped", stands_in(Copycat(S.K, 4.0)))
    real = alphabet(64)
    shares = {
        d: (G.gap_by_writer("cpu", real, d) == real)[:, G.GAP.stop - 1].double().mean() for d in (1, 16)
    }
    assert shares[16] > shares[1] + 0.1


def test_what_is_drawn_comes_from_a_seed_of_its_own(monkeypatch):
    """The measures say the same, whatever was drawn before them."""
    monkeypatch.setattr(G, "shipped", stands_in(Copycat(S.K, 1.0)))
    for name in ("mended_at_once", "mended_by_masks", "mended_by_writer"):
        monkeypatch.setattr(G, name, lambda device, x, beam=1: x)
    judge, real = NGram(encode("the cat sat on the mat " * 20), S.K, 3), alphabet(4)
    for measure in (
        lambda: G.mended("cpu", real),
        lambda: G.gap_by_writer("cpu", real, 3).tolist(),
        lambda: S.own_texts(judge, 2).tolist(),
    ):
        said = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            said.append(measure())
        assert said[0] == said[1]


def test_the_channel():
    c = G.channel(torch.tensor([[0, 3]]))
    assert c[0, 0, 0].item() == pytest.approx(0.9 + 0.1 / 27) and c[0, 1, 0].item() == pytest.approx(0.1 / 27)
    torch.testing.assert_close(c.sum(-1), torch.ones(1, 2).double())


def test_masks_mend_where_they_are_certain(monkeypatch):
    """Every letter is asked about once, with itself masked, and the letter read counts."""
    seen = []

    def net(x, u):
        seen.append((x == S.K).sum().item())
        return 30.0 * torch.nn.functional.one_hot(alphabet(len(x)), S.K).float()

    class Net(nn.Module):
        def forward(self, x, u):
            return net(x, u)

    monkeypatch.setattr(G, "shipped", stands_in(Net()))
    x = alphabet(2).clone()
    x[0, 5] = 0
    assert torch.equal(G.mended_by_masks("cpu", x), alphabet(2))
    assert seen == [2 * S.LENGTH // 8] * 8


def test_random_letters_are_mended_by_their_posterior(monkeypatch):
    """A flat network knows nothing, so the likeliest letter is the one read; a certain one overrules it."""

    class Net(nn.Module):
        def __init__(self, margin):
            super().__init__()
            self.margin = margin

        def forward(self, x, u):
            return self.margin * torch.nn.functional.one_hot(alphabet(len(x)), S.K).float()

    x = alphabet(2).clone()
    x[1, 7] = 1
    for margin, want in ((0.0, x), (3.0, x), (30.0, alphabet(2))):
        monkeypatch.setattr(G, "shipped", stands_in(Net(margin)))
        assert torch.equal(G.mended_at_once("cpu", x), want)


def test_bits_by_position(monkeypatch):
    """A writer of known bits: log2(27) everywhere but where its guess is right."""
    monkeypatch.setattr(S, "shipped", stands_in(Copycat(S.K, 0.0)))
    out = S.by_position("cpu", encode("the law of the land " * 700)[: 128 * 100].reshape(100, 128), 20)
    assert out["first"] == list(range(0, 128, 8))
    assert out["bits"] == pytest.approx([math.log2(27)] * 16)


def test_costs_say_what_was_asked(monkeypatch):
    monkeypatch.setattr(S, "shipped", lambda r, device: Copycat(S.K, 0.0) if r is S.d3pm.ar else Flat())
    out = S.costs("cpu", 2)
    names = ("autoregression, cache", "autoregression, no cache", "masks, a call")
    assert set(out) == {f"{name}, {m} at once" for name in names for m in (1, 2)} and min(out.values()) > 0
    net = S.Uncached(Copycat(S.K, 1.0))
    x = alphabet(1)
    torch.testing.assert_close(net(x, torch.zeros(1)), Copycat(S.K, 1.0)(x))
    process = Autoregressive(S.K, S.LENGTH)
    assert S.d3pm.ar.process().length == process.length


def test_a_cost_is_that_of_one_text_or_of_one_call_for_it(monkeypatch):
    """By a clock that ticks once a call: 128 for a text alone, 64 for each of two; 1 and 1/2 for a call of masks."""
    ticks = []

    def ticking(net):
        net.register_forward_hook(lambda *_: ticks.append(1))
        return net

    writer, masks = ticking(Copycat(S.K, 0.0)), ticking(Flat())
    monkeypatch.setattr(S, "shipped", lambda r, device: writer if r is S.d3pm.ar else masks)
    monkeypatch.setattr(S, "clock", lambda device: lambda: len(ticks))
    out = S.costs("cpu", 2)
    for name, alone in (
        ("autoregression, cache", 128),
        ("autoregression, no cache", 128),
        ("masks, a call", 1),
    ):
        assert [out[f"{name}, {m} at once"] for m in (1, 2)] == [alone, alone / 2]


class Flat(nn.Module):
    """All letters alike."""

    def forward(self, x, u):
        return torch.zeros(*x.shape, S.K)
