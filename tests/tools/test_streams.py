"""Batches that know their place: nothing twice, nothing left out, nothing read again; text packed and padded."""

import json

import pytest
import torch
from torch.utils.data import TensorDataset

from course_lib import batching
from course_lib.absorbing import Absorbing
from course_lib.batching import Batches, rows
from course_lib.data import batches, two_bumps
from course_lib.ddpm import DDPM
from course_lib.mdlm import MDLM
from course_lib.nets import MLP, TokenNet
from course_lib.schedules import cosine, log_linear, table
from course_lib.sentences import PAD, bucketed
from course_lib.text_stream import Lines, packed, padded
from course_lib.train import train

TEXTS = [chr(97 + i) * (1 + i % 5) for i in range(20)]  # each its own letter, 1 to 5 times


def encode(text):
    return [ord(c) - 97 for c in text]


def sentences():
    x = torch.randint(5, (30, 6))
    return torch.where(torch.arange(6) < 1 + torch.arange(30)[:, None] % 6, x, PAD)


class Dictionaries:
    """A data set of dictionaries that notes what is read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 11

    def __getitem__(self, i):
        self.read.append(i)
        return {"x": torch.tensor([float(i)]), "y": i}


STREAMS = {
    "tensor": lambda: batches(torch.arange(11.0)[:, None], 4),
    "bucketed": lambda: bucketed(sentences(), 4),
    "tuples": lambda: rows(TensorDataset(torch.arange(11.0), torch.arange(11)), 4),
    "dictionaries": lambda: rows(Dictionaries(), 4),
    "packed": lambda: packed(TEXTS, encode, 6, 4, end=20),
    "padded": lambda: padded(TEXTS, encode, 6, 4),
}


def said(batch):
    if isinstance(batch, dict):
        return {k: v.tolist() for k, v in batch.items()}
    return [v.tolist() for v in batch]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("stop", [0, 1, 7])
def test_a_stream_goes_on_where_it_was(name, stop):
    make = STREAMS[name]
    torch.manual_seed(0)
    whole = make()
    every = [said(next(whole)) for _ in range(stop + 9)]
    torch.manual_seed(0)
    first = make()
    assert [said(next(first)) for _ in range(stop)] == every[:stop]
    place = json.loads(json.dumps(first.state_dict()))
    torch.manual_seed(0)
    rest = make()
    rest.load_state_dict(place)
    assert [said(next(rest)) for _ in range(9)] == every[stop:] and iter(rest) is rest
    rest.load_state_dict(place)
    assert said(next(rest)) == every[stop]


def test_what_was_used_is_not_read_again():
    data = Dictionaries()
    stream = rows(data, 4)
    for _ in range(5):
        next(stream)
    place, done = stream.state_dict(), len(data.read)
    assert place == {"batches": 5} and done == 20
    again = Dictionaries()
    stream = rows(again, 4)
    stream.load_state_dict(place)
    assert again.read == []
    next(stream)
    assert len(again.read) == 4


def test_each_example_comes_once_a_pass():
    stream = rows(Dictionaries(), 4, seed=2)
    seen = torch.cat([next(stream)["y"] for _ in range(11)])  # four passes of 11
    for one in seen.reshape(4, 11):
        assert sorted(one.tolist()) == list(range(11))
    assert not seen[:11].equal(seen[11:22])
    other = next(rows(Dictionaries(), 4, seed=3))["y"]
    assert not other.equal(seen[:4])


@pytest.mark.parametrize("name", ["tensor", "packed"])
def test_a_continued_training_reads_on(tmp_path, name, monkeypatch):
    """The checkpoint holds the place; nothing is skipped by reading it."""

    def go(upto):
        torch.manual_seed(0)
        if name == "tensor":
            p, model, stream = (
                DDPM(table(cosine(), 20), (1,)),
                MLP((1,), width=8, depth=1),
                batches(two_bumps().sample(50), 8),
            )
        else:
            p, model = MDLM(Absorbing(21, log_linear()), 6), TokenNet(22, 21, width=8, heads=1, depth=1)
            stream = packed(TEXTS, encode, 6, 4, end=20)
        torch.manual_seed(1)
        reads = []
        once = type(stream).__next__
        monkeypatch.setattr(type(stream), "__next__", lambda self: reads.append(1) or once(self))
        losses = {}
        for record in train(
            p, model, stream, 9, checkpoint=tmp_path / f"{upto}" if upto > 9 else tmp_path / "c", every=4
        ):
            losses[record.step] = record.loss.tolist()
            if record.step == upto:
                break
        monkeypatch.setattr(type(stream), "__next__", once)
        return losses, len(reads)

    whole, _ = go(10)
    first, _ = go(6)
    rest, reads = go(9)
    assert list(rest) == [5, 6, 7, 8, 9] and rest.items() <= whole.items() and first.items() <= whole.items()
    assert reads == 5


def test_a_place_of_another_kind_of_stream_is_refused(tmp_path):
    def go(stream):
        p, model = MDLM(Absorbing(21, log_linear()), 6), TokenNet(22, 21, width=8, heads=1, depth=1)
        return list(
            train(p, model, stream, 2 if not (tmp_path / "c").exists() else 3, checkpoint=tmp_path / "c")
        )

    go(packed(TEXTS, encode, 6, 4, end=20))
    with pytest.raises(ValueError, match="batches must be of the kind that the checkpoint was written with"):
        go(padded(TEXTS, encode, 6, 4))
    with pytest.raises(ValueError, match="size must be the 4 of the run that is continued, not 5"):
        go(packed(TEXTS, encode, 6, 5, end=20))
    go(iter(padded(TEXTS, encode, 6, 4).__next__, None))  # knows no place: skipped as ever


# Text


def test_padded_rows_are_the_texts():
    stream = padded(TEXTS, encode, 6, 5)
    rows = torch.cat([next(stream) for _ in range(4)])
    assert rows.dtype == torch.int64 and rows.shape == (20, 6)
    want = sorted([encode(t) + [PAD] * (6 - len(t)) for t in TEXTS])
    assert sorted(rows.tolist()) == want


@pytest.mark.parametrize("length", [1, 4, 7, 50])
@pytest.mark.parametrize("end", [None, 20])
def test_packed_rows_are_the_texts_one_after_the_other(length, end):
    """Each row of the batches, read on and on, is whole texts; a pass of all rows has each text once."""
    stream, size = packed(TEXTS, encode, length, 5, end=end, seed=1), 5
    lanes = torch.cat([next(stream) for _ in range(400 // length)], 1)
    texts = {tuple(encode(t)) for t in TEXTS}
    seen = [[] for _ in range(size)]
    for lane, row in enumerate(lanes.tolist()):
        text = []
        for token in row:
            if (end is None and text and token != text[-1]) or token == end:
                seen[lane].append(tuple(text))
                text = []
            if token != end:
                text.append(token)
    if end is not None:
        assert all(text in texts for lane in seen for text in lane)
        first = [text for lane in seen for text in lane[:4]]
        assert sorted(first) == sorted(texts)
        second = [text for lane in seen for text in lane[4:8]]
        assert sorted(second) == sorted(texts) and second != first
    else:  # the same letter twice in a row cannot be told apart
        assert {text[0] for lane in seen for text in lane} == set(range(20))


def test_a_row_longer_than_many_texts_and_a_text_longer_than_many_rows():
    stream = packed(["ab" * 50], encode, 7, 1)
    row = torch.cat([next(stream) for _ in range(30)], 1)[0].tolist()
    assert row == (encode("ab") * 105)[:210]
    stream = packed(["a", "b", ""], encode, 9, 1)
    assert {tuple(sorted(set(next(stream)[0].tolist()))) for _ in range(3)} == {(0, 1)}


def test_lines_of_a_file(tmp_path):
    path = tmp_path / "t"
    path.write_bytes("é one\r\n\n  \ntwo\nthree".encode())
    lines = Lines(path)
    assert list(lines) == ["é one", "two", "three"] and len(lines) == 3 and lines[2] == "three"
    assert next(padded(lines, lambda s: [len(s)], 1, 3)).sort(0)[0].tolist() == [[3], [5], [5]]
    with pytest.raises(IndexError):
        lines[3]
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match="must have a line that is not empty"):
        Lines(path)
    with pytest.raises(FileNotFoundError):
        Lines(tmp_path / "none")


def test_long_texts(tmp_path):
    with pytest.raises(
        ValueError, match=r"documents\[\d+\] must have at most 4 tokens, not 5: or pass longer='cut'"
    ):
        for _ in range(4):
            next(padded(TEXTS, encode, 4, 20))
    rows = next(padded(TEXTS, encode, 4, 20, longer="cut"))
    assert sorted(rows.tolist()) == sorted([(encode(t) + [PAD] * 4)[:4] for t in TEXTS])


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"documents": "text"}, TypeError, "documents must be a sequence of texts, .*, not str"),
        ({"documents": iter(TEXTS)}, TypeError, "documents must be a sequence of texts"),
        ({"documents": []}, ValueError, "data must not be empty"),
        ({"size": 21}, ValueError, "size must be at most the 20 documents there are, not 21"),
        ({"size": 0}, ValueError, "size must be at least 1"),
        ({"length": 0}, ValueError, "length must be at least 1"),
        ({"encode": "utf-8"}, TypeError, "encode must be a function of a text, not str"),
        (
            {"encode": lambda s: [0.5]},
            ValueError,
            r"encode must give integers of 0 or more, but documents\[\d+\]",
        ),
        ({"encode": lambda s: [-1]}, ValueError, "encode must give integers of 0 or more"),
        (
            {"encode": lambda s: s.split()},
            TypeError,
            r"encode must give integers, but documents\[\d+\] raises",
        ),
        ({"encode": lambda s: 3}, TypeError, "encode must give integers"),
    ],
)
@pytest.mark.parametrize("kind", [packed, padded])
def test_bad_streams_are_named(options, error, says, kind, unchecked):
    with pytest.raises(error, match=says):
        next(kind(**{"documents": TEXTS, "encode": encode, "length": 6, "size": 4} | options))


def test_bad_streams_more(unchecked):
    with pytest.raises(ValueError, match="must have a token, but have none"):
        next(packed(["", ""], encode, 6, 2))
    with pytest.raises(ValueError, match="end must be at least 0, not -1"):
        packed(TEXTS, encode, 6, 2, end=-1)
    with pytest.raises(ValueError, match="longer must be one of error, cut, not 'skip'"):
        padded(TEXTS, encode, 6, 2, longer="skip")
    with pytest.raises(TypeError, match=r"dataset must have a length and take dataset\[i\], not generator"):
        rows((i for i in range(3)), 2)
    with pytest.raises(ValueError, match="size must be at most the 11 examples of the data, not 12"):
        rows(Dictionaries(), 12)
    assert isinstance(rows(Dictionaries(), 11), Batches) and batching.shuffled(3, 2, 0)
