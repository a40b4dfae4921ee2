"""Networks of words: one table to read and to answer with; dropout, in training only."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from course_lib.layers import TiedHead, TokenEmbedding, dropping
from course_lib.nets import CausalNet, TokenNet
from course_lib.transformer import KVCache, Transformer

B, L = 3, 6
NETS = {
    "all": lambda **options: TokenNet(7, 5, 16, 2, 2, radius=2, **options),
    "causal": lambda **options: CausalNet(7, 16, 2, 2, **options),
}


def randomised(net):
    """Every parameter random, those that start at 0 too."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


@pytest.fixture
def given():
    torch.manual_seed(0)
    return torch.randint(7, (B, L)), torch.rand(B)


def test_a_tied_head_restated(given):
    """f_k = e_k . (W h + c) + b_k, and what is read is sqrt(width) e_k."""
    x, u = given
    net = randomised(TokenNet(7, 5, 16, 2, 1, tied=True)).eval()
    e, turn = net.embedding.weight, net.head.turn
    h = net.trunk(math.sqrt(16) * e[x], u)
    want = torch.einsum("blw,kw->blk", h @ turn.weight.T + turn.bias, e[:5]) + net.head.bias
    torch.testing.assert_close(net(x, u), want, rtol=1e-4, atol=1e-5)
    where = torch.rand(B, L) < 0.5
    torch.testing.assert_close(net(x, u, at=where), want[where], rtol=1e-4, atol=1e-5)


def test_a_tied_causal_head_restated(given):
    x, _ = given
    net = randomised(CausalNet(7, 16, 2, 1, tied=True)).eval()
    e, before = net.embedding.weight, torch.cat([torch.full((B, 1), 7), x[:, :-1]], 1)
    assert e.shape == (8, 16)
    h = net.trunk(4 * e[before], torch.zeros(B))
    torch.testing.assert_close(net(x), net.head.turn(h) @ e[:7].T + net.head.bias, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        cache, whole = KVCache(L), net(x)
        parts = [net(x[:, :n], cache=cache) for n in (2, 3, L)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_an_untrained_tied_network_says_0_and_learns_everywhere(name, given):
    x, u = given
    net = NETS[name](tied=True)
    assert not net(x, u).any()
    randomised(net)(x, u).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("width", [64, 256])
def test_what_the_trunk_reads_has_variance_1(width):
    torch.manual_seed(0)
    table = TokenEmbedding(2000, width)
    assert table.weight.var().item() == pytest.approx(1 / width, rel=0.03)
    assert table(torch.arange(2000)[None]).var().item() == pytest.approx(1, rel=0.03)


def test_sizes():
    """Shipped weights must go on fitting."""

    def size(net):
        return sum(p.numel() for p in net.parameters())

    width, K = 32, 50
    assert size(TiedHead(width, K)) == width**2 + width + K
    untied = size(TokenNet(K + 1, K, width)) - width * K
    assert size(TokenNet(K + 1, K, width, tied=True)) == untied + width**2 + width
    assert size(TokenNet(K + 1, K, width, dropout=0.1)) == size(TokenNet(K + 1, K, width))
    assert size(TokenNet(5786, 5785, 256, 4, 4, 4, 0.1, True)) == 6372249
    assert size(CausalNet(5786, 256, 4, 4, 0.2, True)) == 6369946


def test_options_change_no_name_and_no_draw():
    """Nets without them have the parameters that they had, and start from the same numbers."""
    torch.manual_seed(0)
    plain = TokenNet(7, 5, 16, 2, 1, radius=1)
    after = torch.rand(())
    torch.manual_seed(0)
    dropped = TokenNet(7, 5, 16, 2, 1, radius=1, dropout=0.3)
    assert torch.rand(()).equal(after)
    assert {k: v.sum() for k, v in plain.state_dict().items()} == {
        k: v.sum() for k, v in dropped.state_dict().items()
    }
    assert {k.split(".")[0] for k in plain.state_dict()} == {"embedding", "spread", "trunk", "head"}
    assert set(plain.head.state_dict()) == {"weight", "bias"}


# Dropout


@pytest.mark.parametrize("name", NETS)
def test_dropout_plays_no_part_in_eval_mode(name, given):
    x, u = given
    net = randomised(NETS[name](dropout=0.5))
    plain = NETS[name]()
    plain.load_state_dict(net.state_dict())
    assert net.eval()(x, u).equal(plain(x, u))
    assert not net.train()(x, u).allclose(plain(x, u))


def test_no_dropout_draws_no_number(given):
    x, u = given
    net = randomised(NETS["all"]()).train()
    state = torch.get_rng_state()
    net(x, u)
    assert torch.get_rng_state().equal(state)


def test_dropout_keeps_the_mean_of_what_comes_in_and_of_each_branch():
    """With gates as they start, 0, only what comes in is dropped; a dropped entry is 0, the others grow by 1 / 0.8."""
    torch.manual_seed(0)
    trunk, h = Transformer(64, 2, 1, dropout=0.2).train(), torch.ones(50, 20, 64)
    seen = []
    trunk.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0]))
    trunk(h, torch.rand(50))
    assert sorted(seen[0].unique().tolist()) == [0, 1.25]
    assert seen[0].mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("branch", ["proj", "mlp"])
def test_each_branch_is_dropped_before_its_gate(branch):
    torch.manual_seed(0)
    block = Transformer(64, 2, 1, dropout=0.5).train().blocks[0]
    h, c = torch.randn(50, 20, 64), torch.zeros(50, 64)
    # The gates of the branch in question are 1, the other's 0.
    gate = 2 if branch == "proj" else 5
    with torch.no_grad():
        block.ada.bias[gate * 64 : (gate + 1) * 64] = 1
        added = block(h, c, None) - h
        whole = copy.deepcopy(block).eval()(h, c, None) - h
    kept = added != 0
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(added[kept], 2 * whole[kept], rtol=1e-3, atol=1e-3)


def test_dropped_shares_are_those_asked_for():
    torch.manual_seed(0)
    x = torch.ones(100_000)
    assert (dropping(0.3).train()(x) == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropping(0.0).train()(x) is x
    for share in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), not"):
            TokenNet(7, 5, 16, 2, 1, dropout=share)


def test_a_table_cannot_answer_with_more_than_it_reads():
    with pytest.raises(ValueError, match="K_out must be at most K_in = 5 where they are tied, not 7"):
        TokenNet(5, 7, 16, 2, 1, tied=True)


def test_a_tied_network_learns_to_copy():
    """Both uses of the table get gradients: the untrained network knows nothing, the trained one all."""
    torch.manual_seed(0)
    net = TokenNet(20, 20, 16, 2, 1, tied=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        x = torch.randint(20, (16, 5))
        loss = F.cross_entropy(net(x, torch.rand(16)).flatten(0, 1), x.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * math.log(20)
