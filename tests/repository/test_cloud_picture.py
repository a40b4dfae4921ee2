"""Chapter 1's animation runs from data to noise and back."""

import io

import pytest
import torch
from PIL import Image

from course_lib.colours import COLOURS
from course_lib.data import eight_gaussians
from tools import cloud_picture as C


def test_the_points_become_noise_and_noise_becomes_the_points():
    seen = C.states(points=2000, T=100)
    assert [t for t, _ in seen["q"]] == list(range(101)) and [t for t, _ in seen["p"]] == list(
        range(100, -1, -1)
    )
    assert torch.equal(seen["q"][0][1], seen["q"][0][1].float())
    for way, at in (("q", -1), ("p", 0)):  # pure noise: mean 0, variance 1, in each direction
        noise = seen[way][at][1]
        assert noise.mean(0).abs().max() < 0.1 and (noise.var(0) - 1).abs().max() < 0.12
    law = eight_gaussians()
    for way, at in (("q", 0), ("p", -1)):  # data: on one of the eight blobs
        ends = seen[way][at][1].double()
        near = torch.cdist(ends, law.means).min(1).values
        assert (near < 0.5).double().mean() > 0.95
    moved = [(b - a).norm(dim=1).mean() for (_, a), (_, b) in zip(seen["q"], seen["q"][1:], strict=False)]
    assert max(moved[:80]) < 0.5  # one step is small: no frame jumps


@pytest.mark.parametrize(("way", "blue"), [("q", True), ("p", False)])
def test_data_is_blue_and_what_is_exact_is_not(way, blue):
    wanted = bytes.fromhex(COLOURS["data"][1:])
    found = {colour for _, colour in C.frame(3, torch.zeros(50, 2), way).convert("RGB").getcolors(10_000)}
    assert any(max(abs(a - b) for a, b in zip(wanted, c, strict=True)) < 40 for c in found) is blue


def test_the_animation_is_small_and_holds_both_ends(monkeypatch):
    states = {
        "q": [(t, torch.randn(5, 2)) for t in range(3)],
        "p": [(t, torch.randn(5, 2)) for t in (2, 1, 0)],
    }
    monkeypatch.setattr(C, "states", lambda: states)
    monkeypatch.setattr(C, "EVERY", 1)
    picture = Image.open(io.BytesIO(C.draw()))
    assert picture.n_frames >= 6 and picture.info["loop"] == 0
    picture.seek(0)
    assert picture.info["duration"] >= C.HOLD * C.PAUSE
    picture.seek(picture.n_frames - 1)
    assert picture.info["duration"] >= C.HOLD * C.PAUSE
