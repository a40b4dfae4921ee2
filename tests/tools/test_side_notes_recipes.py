"""The recipes of the side notes run for a few steps, and judge by length what `bound` judges."""

import math

import pytest
import torch

from course_lib.autoregressive import Autoregressive
from course_lib.evaluate import bound
from course_lib.length_extrapolation import LocalAttention, RandomPositions
from course_lib.recipes import side_notes
from course_lib.recipes.run import shipped
from course_lib.transformer import Transformer

RECIPES = {
    "rotary": Transformer,
    "random_positions": RandomPositions,
    "local": LocalAttention,
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_its_trunk_and_is_measured(name):
    recipe = getattr(side_notes, name)
    model = recipe.fresh_model()
    assert type(model.trunk) is RECIPES[name]
    (record, *_) = recipe.train(model, 1)
    found = side_notes.measure(recipe, record.average, n=2, pieces=4)
    assert list(found["lengths"]) == [64, 128, 256]
    assert list(found["steps"]) == [64, 128, 256] and found["bits_per_char"] == found["lengths"][64]["bits"]
    for n, seen in found["lengths"].items():
        assert 3 < seen["bits"] < 6  # an untrained network says log2 27 = 4.75
        assert all(len(text) == n for text in seen["samples"])


def test_bits_by_length_are_the_bound_of_the_same_text():
    model = shipped(side_notes.local).eval()
    row = side_notes.text("test")[0][:32].flatten()
    found = side_notes.by_length(model, row, [64, 128])
    for n in (64, 128):
        want = bound(Autoregressive(27, n), model, row.reshape(-1, n)).mean / (n * math.log(2))
        assert found[n]["bits"] == pytest.approx(want)
    more = found[128]["bits"] - found[64]["bits"]
    assert found[128]["more"] == pytest.approx(more) and found[64]["more"] == 0
    halves = side_notes.bits(model, row.reshape(-1, 64)).reshape(-1, 2).mean(1)
    pairs = side_notes.bits(model, row.reshape(-1, 128)) - halves
    assert found[128]["more_se"] == pytest.approx(pairs.std().item() / len(pairs) ** 0.5)


def test_what_is_shipped_says_what_the_note_says():
    models = {name: shipped(getattr(side_notes, name)).eval() for name in RECIPES}
    torch.manual_seed(0)
    row = side_notes.text("test")[0][:64].flatten()
    more = {name: side_notes.by_length(m, row, [64, 256])[256]["more"] for name, m in models.items()}
    assert more["rotary"] > 1 > more["random_positions"] > 0 > more["local"]
