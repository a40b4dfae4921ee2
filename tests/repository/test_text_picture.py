"""The README's animation is what the shipped network writes."""

import io
from itertools import pairwise

from PIL import Image

from course_lib.colours import COLOURS
from course_lib.recipes.verse_sets import vocabulary
from tools import text_picture as T

LENGTHS = (3, 2)


def test_a_run_starts_from_masks_and_ends_in_words():
    seen = T.states(LENGTHS, steps=4)
    assert len(seen) == 5
    assert all(word == T.MASKED for verse in seen[0] for word in verse)
    assert [len(verse) for verse in seen[-1]] == [3, 2]
    assert {word for verse in seen[-1] for word in verse} <= set(vocabulary().words)
    for then, now in pairwise(seen):
        told = [
            (a, b) for x, y in zip(then, now, strict=True) for a, b in zip(x, y, strict=True) if a != T.MASKED
        ]
        assert all(a == b for a, b in told)  # a word stays


def test_new_words_have_the_learned_colour_and_masks_theirs():
    def colours(verse, before):
        return {c for _, c in T.frame([verse], [before]).convert("RGB").getcolors(100_000)}

    def has(role, found):  # the edges of letters are paler
        wanted = bytes.fromhex(COLOURS[role][1:])
        return any(max(abs(a - b) for a, b in zip(wanted, c, strict=True)) < 60 for c in found)

    assert has("learned", colours(["word"], [T.MASKED]))
    assert not has("learned", colours(["word"], ["word"]))
    assert has("mask", colours([T.MASKED], [T.MASKED])) and not has("mask", colours(["word"], ["word"]))


def test_the_animation_is_small_and_holds_its_last_picture(monkeypatch):
    monkeypatch.setattr(T, "LENGTHS", LENGTHS)
    seen = [[["____"] * 3], [["a", "____", "c"]], [["a", "b", "c"]]]
    monkeypatch.setattr(T, "states", lambda: seen)
    data = T.draw()
    picture = Image.open(io.BytesIO(data))
    assert picture.n_frames >= 3 and len(data) < 300_000
    picture.seek(picture.n_frames - 1)
    assert picture.info["duration"] >= T.HOLD * T.PAUSE
