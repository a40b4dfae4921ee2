"""The KV cache against calls that read everything again: same numbers, same samples, one position a call."""

import copy

import pytest
import torch

from course_lib.autoregressive import BLANK, Autoregressive, takes_cache
from course_lib.infilling import approximately, keep
from course_lib.nets import CausalNet, Given, TokenNet, Wrapped
from course_lib.process import last, sample
from course_lib.transformer import KVCache, Transformer
from course_lib.weights import Autocast

K, L, B = 7, 10, 3


def randomised(net, dtype=torch.float64):
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net.to(dtype).eval()


def writer(dtype=torch.float64):
    return randomised(CausalNet(K, 16, 2, 2), dtype)


class Uncached(Wrapped):
    """The network, which reads everything again at each call."""

    takes_cache = False


def in_pieces(net, x, pieces):
    """Logits of the rows x, worked out so many positions at a time."""
    cache, ends, found = KVCache(L), torch.tensor(pieces).cumsum(0).tolist(), []
    with torch.no_grad():
        for end in ends:
            found.append(net(x[:, :end], cache=cache))
            assert cache.length == end
    return torch.cat(found, 1)


@pytest.mark.parametrize("pieces", [[1] * L, [4, 1, 3, 2], [L]])
def test_logits_are_those_of_one_call(pieces):
    net, x = writer(), torch.randint(K, (B, L))
    torch.testing.assert_close(in_pieces(net, x, pieces), net(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_logits_in_narrower_floats(dtype, tolerance, device):
    wide, x = writer(), torch.randint(K, (B, L))
    net = copy.deepcopy(wide).to(device, dtype)
    found = in_pieces(net, x.to(device), [3] + [1] * (L - 3))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double().cpu(), wide(x), rtol=tolerance, atol=tolerance)


def drawn(process, model, n, steps, clamp=None):
    torch.manual_seed(1)
    return last(sample(process, model, n, steps, clamp))[1]


def prompts():
    """Rows whose first 4, 0 and 2 tokens are known."""
    known = torch.arange(L) < torch.tensor([4, 0, 2])[:, None]
    return known, torch.randint(K, (B, L))


@pytest.mark.parametrize("steps", [1, 3, L])
@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("prompted", [False, True])
def test_samples_are_the_same(steps, temperature, prompted):
    net, process = writer(torch.float32), Autoregressive(K, L, temperature)
    clamp = keep(*prompts()) if prompted else None
    found = drawn(process, net, B, steps, clamp)
    assert found.equal(drawn(process, Uncached(net), B, steps, clamp))
    assert (found != BLANK).all() and process.past is None
    if prompted:
        assert found[clamp.known].equal(clamp.context[clamp.known])
    assert takes_cache(Given(net)) and drawn(process, Given(net), B, steps, clamp).equal(found)


def test_logits_under_autocast():
    net, x = writer(torch.float32), torch.randint(K, (B, L))
    found = in_pieces(Autocast(net, torch.bfloat16), x, [3] + [1] * (L - 3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, net(x), rtol=0.1, atol=0.1)


def positions_read(net, call):
    """How many positions the trunk is given at each call of the network."""
    read = []
    hook = net.trunk.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[1]))
    call()
    hook.remove()
    return read


def test_one_position_a_call():
    net, process = writer(), Autoregressive(K, L)
    for steps in (1, 5, L):
        assert positions_read(net, lambda steps=steps: drawn(process, net, B, steps)) == [1] * L
    every = positions_read(net, lambda: drawn(process, Uncached(net), B, L))
    assert every == list(range(1, L + 1))
    known = (torch.arange(L) < 4).expand(B, L)
    clamp = keep(known, torch.zeros(B, L, dtype=torch.long))
    assert positions_read(net, lambda: drawn(process, net, B, L, clamp)) == [5, 1, 1, 1, 1, 1]


def test_what_a_clamp_changes_is_read_again():
    """A clamp that turns every token it sees into its neighbour, places that were read long ago too."""

    def turned(x):
        return torch.where(x == BLANK, x, (x + 1) % K)

    net, process = writer(torch.float32), Autoregressive(K, L)
    clamp = approximately(turned)
    assert drawn(process, net, B, L, clamp).equal(drawn(process, Uncached(net), B, L, clamp))


def test_states_given_away_may_be_changed():
    """Who is given a state may write into it: the next step goes on from what it holds then."""
    net, process = writer(torch.float32), Autoregressive(K, L)

    def spoiled(model):
        torch.manual_seed(1)
        for t, x in sample(process, model, B, L):
            if t < 5:
                x[:, 1:3] = (x[:, 1:3] + 1) % K
        return x

    assert spoiled(net).equal(spoiled(Uncached(net)))


def test_a_network_without_a_cache_is_asked_as_before():
    net = randomised(TokenNet(K, K, 16, 2, 1), torch.float32)
    assert not takes_cache(net) and not takes_cache(lambda x, u: x) and takes_cache(writer())
    assert drawn(Autoregressive(K, 4), net, B, 4).shape == (B, 4)


# Finished blocks


def block_by_block(net, h, u, width):
    """A trunk without cache in which each position sees its own block and those before it."""
    block = torch.arange(h.shape[1]) // width
    keys = (block[:, None] >= block)[None, None]
    for layer in net.blocks:
        h = layer(h, net.time(u), keys)
    return net.norm(h)


def test_finished_blocks_and_one_in_the_making():
    """Both directions inside a block, backwards only between blocks; drafts of the second one are taken back."""
    net, u = randomised(Transformer(16, 2, 2)), torch.rand(B, dtype=torch.float64)
    h = torch.randn(B, 8, 16, dtype=torch.float64)
    want, cache = block_by_block(net, h, u, 4), KVCache(8)
    with torch.no_grad():
        first = net(h[:, :4], u, cache=cache)
        for _ in range(3):
            net(torch.randn(B, 4, 16, dtype=torch.float64), u, cache=cache)
            cache.crop(4)
        second = net(h[:, 4:], u, cache=cache)
    torch.testing.assert_close(torch.cat([first, second], 1), want, rtol=0, atol=1e-12)
    assert cache.length == 8


def test_an_interrupted_call_leaves_the_cache_as_it_was():
    net, x, cache = writer(), torch.randint(K, (B, L)), KVCache(L)
    want = net(x)[:, 4:]
    hook = net.trunk.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with torch.no_grad():
        with pytest.raises(ZeroDivisionError):
            net(x[:, :4], cache=cache)
        hook.remove()
        assert cache.length == 0
        net(x[:, :4], cache=cache)
        torch.testing.assert_close(net(x, cache=cache), want, rtol=0, atol=1e-12)


# Bad input


def test_bad_caches_are_named(unchecked):
    net, x, cache = writer(), torch.randint(K, (B, L)), KVCache(6)
    with pytest.raises(RuntimeError, match=r"a cache keeps no gradients.*torch.no_grad\(\)"):
        net(x[:, :2], cache=cache)
    with torch.no_grad():
        net(x[:, :4], cache=cache)
        with pytest.raises(
            ValueError, match="4 positions, with room for 6, must be given new ones that fit, not 6"
        ):
            net(x, cache=cache)
        with pytest.raises(ValueError, match="must be given new ones that fit, not 0"):
            net(x[:, :4], cache=cache)
        with pytest.raises(ValueError, match="a cache of 3 rows must be given as many, not 2"):
            net(x[:2, :5], cache=cache)
        with pytest.raises(ValueError, match="it holds what another network has read"):
            writer()(x[:, :5], cache=cache)
        with pytest.raises(ValueError, match="mask must be None where a cache is given"):
            net.trunk(torch.zeros(B, 1, 16).double(), torch.zeros(B), x[:, :1] >= 0, cache)
    with pytest.raises(ValueError, match="length must be at most the 4 positions in the cache, not 5"):
        cache.crop(5)
    with pytest.raises(ValueError, match="length must be at least 0, not -1"):
        cache.crop(-1)
    with pytest.raises(ValueError, match="capacity must be at least 1, not 0"):
        KVCache(0)
