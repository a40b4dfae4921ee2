"""Trunks for long rows: who sees whom by moving one input, positions by their laws, and plain attention."""

import pytest
import torch
from scipy.stats import hypergeom

from course_lib.length_extrapolation import LocalAttention, RandomPositions
from course_lib.nets import CausalNet, TokenNet
from course_lib.transformer import KVCache, Transformer, rotate

SIZE = {"width": 16, "heads": 2, "depth": 1}


def randomised(trunk):
    torch.manual_seed(0)
    for p in trunk.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return trunk.double().eval()


def moved(trunk, L=12, at=5):
    """Which outputs change when input `at` does."""
    torch.manual_seed(1)
    h, u = torch.randn(1, L, SIZE["width"]).double(), torch.zeros(1).double()
    other = h.clone()
    other[:, at] += torch.randn(16).double()  # not one number: the norm would take it off
    return [int(i) for i in (trunk(h, u) != trunk(other, u)).any(2)[0].nonzero()]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("window", [1, 2])
def test_a_window_is_seen_on_both_sides_and_depth_times_as_far(window, depth):
    reach = depth * window
    seen = moved(randomised(LocalAttention(window, **SIZE | {"depth": depth})))
    assert seen == list(range(5 - reach, 5 + reach + 1))


def test_a_causal_window_looks_back_only():
    assert moved(randomised(LocalAttention(2, causal=True, **SIZE))) == [5, 6, 7]


def test_a_window_as_wide_as_the_row_is_plain_attention():
    plain = randomised(Transformer(**SIZE))
    local = LocalAttention(11, **SIZE).double()
    local.load_state_dict(plain.state_dict())
    h, u = torch.randn(2, 12, 16).double(), torch.rand(2).double()
    torch.testing.assert_close(local.eval()(h, u), plain(h, u), rtol=0, atol=1e-12)


def test_a_window_knows_of_the_cache():
    trunk = randomised(LocalAttention(3, causal=True, **SIZE | {"depth": 2}))
    h, u, cache = torch.randn(2, 9, 16).double(), torch.zeros(2).double(), KVCache(9)
    with torch.no_grad():
        pieces = [trunk(part, u, cache=cache) for part in h.split([4, 1, 4], 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), trunk(h, u), rtol=0, atol=1e-12)


def test_turned_by_given_positions_as_by_one_after_the_other():
    x = torch.randn(1, 2, 30, 8).double()
    torch.testing.assert_close(rotate(x, torch.arange(30)), rotate(x))
    places = torch.tensor([2, 3, 11, 29])
    torch.testing.assert_close(rotate(x[:, :, places], places), rotate(x)[:, :, places])


def test_as_many_positions_as_there_is_room_is_plain_attention():
    plain = randomised(Transformer(causal=True, **SIZE))
    drawn = RandomPositions(12, causal=True, **SIZE).double()
    drawn.load_state_dict(plain.state_dict())
    h, u = torch.randn(2, 12, 16).double(), torch.zeros(2).double()
    torch.testing.assert_close(drawn.eval()(h, u), plain(h, u), rtol=0, atol=1e-12)


def test_positions_are_a_sorted_draw_without_replacement():
    trunk, n = RandomPositions(9, **SIZE), 6000
    torch.manual_seed(0)
    drawn = torch.stack([trunk.positions(torch.zeros(1, 4, 16), 0) for _ in range(n)])
    assert (drawn.diff(dim=1) > 0).all() and drawn.min() == 0 and drawn.max() == 8
    share = torch.stack([(drawn == i).any(1).double().mean() for i in range(9)])
    assert (share - 4 / 9).abs().max() < 5 * (20 / 81 / n) ** 0.5
    # The second is at most k if two or more of the four lie in 0..k.
    for k in range(1, 8):
        want = hypergeom(9, k + 1, 4).sf(1)
        assert abs((drawn[:, 1] <= k).double().mean().item() - want) < 5 * (0.25 / n) ** 0.5


def test_they_take_the_place_of_the_trunk_of_a_network():
    x = torch.randint(3, (2, 8))
    for trunk in (LocalAttention(2, **SIZE), RandomPositions(8, **SIZE)):
        net = TokenNet(4, 3, 16, heads=2, depth=1)
        net.trunk = trunk
        assert net(x, torch.zeros(2)).shape == (2, 8, 3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="room = 4 positions, not 5"):
        RandomPositions(4, **SIZE)(torch.zeros(1, 5, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="window must be"):
        LocalAttention(0, **SIZE)
    with pytest.raises(ValueError, match="room must be"):
        RandomPositions(0, **SIZE)
    net = CausalNet(3, 16, heads=2, depth=1)
    net.trunk = RandomPositions(9, causal=True, **SIZE)
    cache = KVCache(9)
    with torch.no_grad():
        net(torch.zeros(1, 4).long(), cache=cache)
        with pytest.raises(ValueError, match="cache must be None"):
            net(torch.zeros(1, 5).long(), cache=cache)
