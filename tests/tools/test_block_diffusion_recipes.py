"""The recipes of block diffusion: one network at five block lengths, and what is measured about them."""

from dataclasses import replace

import pytest

from course_lib.block_nets import BlockNet
from course_lib.data import windows
from course_lib.recipes import block_diffusion as B


@pytest.mark.parametrize("block", B.BLOCKS)
def test_one_recipe_for_every_block_length(block):
    recipe = getattr(B, f"block_{block}")
    assert recipe.chapter == "09_after_sedd" and recipe.name == f"block_{block}"
    assert (recipe.steps, recipe.batch, recipe.lr, recipe.ema) == (3000, 32, 3e-3, 0.995)
    assert recipe.process().block == recipe.trains().block == recipe.fresh_model().block == block
    assert sum(p.numel() for p in recipe.fresh_model().parameters()) == 246640


def test_the_rows_are_words_of_verses():
    x, none = B.text("test")
    assert none is None and x.shape[1] == B.LENGTH and (x >= 0).all() and x.max() < len(B.vocabulary())
    assert B.said(B.row("train")[:6]) == "at the first god made the"


def test_a_short_run_learns_and_is_measured():
    recipe = replace(B.block_4, data=lambda split: (windows(B.row("train"), 16)[:64], None), steps=40)
    model = recipe.fresh_model()
    losses = [record.loss.mean().item() for record in recipe.train(model)]
    assert sum(losses[-5:]) < sum(losses[:5]) - 1
    results = B.measure(recipe, model, repeats=1, n=4)
    assert set(results["calls"]) == {16, 8, 4}  # two calls cannot write four blocks
    assert 0 < results["nats_per_word"] < 8 and results["windows"] == 64
    for row in results["calls"].values():
        assert row["judged_nats"] > 0 and row["seconds"] > 0
    assert len(results["samples"][8][0].split()) == 16


def test_fewer_calls_open_as_many_words_in_every_block():
    blocks, asked = B.process(8), []
    net = BlockNet(blocks.noise.K, blocks.noise.V, 16, 8, 16, 2, 1)

    def counts(x, u):
        asked.append((x == blocks.noise.mask).sum(1).tolist())
        return net(x, u)

    x, seconds = B.written(blocks, counts, 4, 3)
    assert (x < blocks.noise.V).all() and seconds > 0
    assert asked == [[16] * 3, [12] * 3, [8] * 3, [4] * 3]
