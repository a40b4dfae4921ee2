"""The networks against plain re-statements, and what each promises: silence at first, symmetry, masks."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from course_lib.layers import TimeEmbedding, time_features, zero
from course_lib.nets import MLP, CausalNet, Given, PixelAttention, ResBlock, TokenNet, TwoHeads, UNet, Wrapped
from course_lib.transformer import Block, Transformer, rotate
from course_lib.word_nets import EmbeddingNet, MixingNet, SentenceClassifier

B, L = 3, 6


def randomise(net, scale=0.2):
    """Every parameter random, those that start at 0 too."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=scale)
    return net.eval()


def ids(n=L, K=7):
    return torch.randint(K, (B, n))


CASES = {
    "mlp": (lambda: MLP((2,), width=16, depth=2), lambda: torch.randn(B, 2), (B, 2)),
    "mlp of tables": (lambda: MLP((2, 3), width=16), lambda: torch.randn(B, 2, 3), (B, 2, 3)),
    "unet 8": (lambda: UNet(1, (8, 16)), lambda: torch.randn(B, 1, 8, 8), (B, 1, 8, 8)),
    "unet 28": (lambda: UNet(2, (8, 16, 24)), lambda: torch.randn(B, 2, 28, 28), (B, 2, 28, 28)),
    "unet oblong": (lambda: UNet(1, (8, 16)), lambda: torch.randn(B, 1, 8, 12), (B, 1, 8, 12)),
    "tokens": (lambda: TokenNet(7, 5, width=16, heads=2, depth=2), ids, (B, L, 5)),
    "tokens, spread": (lambda: TokenNet(7, 5, width=16, heads=2, depth=2, radius=2), ids, (B, L, 5)),
    "embeddings": (
        lambda: EmbeddingNet(7, 4, width=16, heads=2, depth=2),
        lambda: torch.randn(B, L, 4),
        (B, L, 4),
    ),
    "mixing": (
        lambda: MixingNet(
            7, 4, torch.linspace(1, 0.01, 11) ** 2, width=16, heads=2, depth=2, normalised=True
        ),
        lambda: torch.randn(B, L, 4),
        (B, L, 4),
    ),
    "mixing, guess": (
        lambda: MixingNet(
            7, 4, torch.linspace(1, 0.01, 11) ** 2, width=16, heads=2, depth=2, tied=False, guess=True
        ),
        lambda: torch.randn(B, L, 4),
        (B, L, 4),
    ),
}


@pytest.fixture(params=CASES)
def case(request, device):
    make, data, shape = CASES[request.param]
    torch.manual_seed(0)
    return make().to(device), data().to(device), torch.rand(B, device=device), shape


def test_an_untrained_network_says_0(case):
    net, x, u, shape = case
    out = net(x, u)
    assert out.shape == shape and out.dtype == torch.float32
    said = (
        net.leave(net.features(x, u)) if isinstance(net, MixingNet) else out
    )  # what it mixes is evidence then
    assert not said.any()


def test_time_and_input_matter(case):
    net, x, u, _ = case
    randomise(net)
    out = net(x, u)
    assert out.isfinite().all()
    assert ((net(x, 1 - u) - out).flatten(1).abs().amax(1) > 1e-4).all()
    assert ((net(x.roll(1, 0), u) - out).flatten(1).abs().amax(1) > 1e-4).all()


def test_examples_do_not_see_each_other(case):
    net, x, u, _ = case
    randomise(net)
    torch.testing.assert_close(net(x, u)[1:2], net(x[1:2], u[1:2]), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter(case):
    net, x, u, _ = case
    randomise(net)
    out = net(x, u)
    out = net.logits(out) if isinstance(net, EmbeddingNet) else out
    out.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_networks_run_under_autocast(case):
    net, x, u, shape = case
    randomise(net, 0.05)
    with torch.autocast(x.device.type, torch.bfloat16):
        out = net(x, u)
    assert out.shape == shape
    torch.testing.assert_close(out.float(), net(x, u), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "net, count",
    [
        (MLP(), 174082),
        (UNet(), 368353),
        (UNet(1, (24, 48, 64)), 445433),
        (Transformer(), 1212416),
        (TokenNet(7, 5), 1213957),
        (TokenNet(28, 27, 96, 4, 3, radius=4), 523995),
        (TokenNet(28, 27, 64, 4, 2, radius=4), 162011),
        (EmbeddingNet(7, 4), 1213600),
        (MixingNet(7, 4, torch.ones(3), 192, normalised=True, recall=True, classes=6), 2719527),
        (MixingNet(7, 4, torch.ones(3), tied=False, K_out=5), 1213729),
        (MixingNet(7, 4, torch.ones(3), tied=False, guess=True), 1213987 + 128 * 128),
        (MixingNet(7, 4, torch.ones(3), guess=True), 1213607 + 4 * 128),
        (SentenceClassifier(4, 3), 158339),
    ],
)
def test_sizes(net, count):
    """Shipped weights must go on fitting: a change of size here makes them useless."""
    assert sum(p.numel() for p in net.parameters()) == count


# Time


def test_time_features_exactly():
    u = torch.tensor([0.0, 0.5, 1.0])
    want = [[math.cos(v), math.cos(1000 * v), math.sin(v), math.sin(1000 * v)] for v in u.tolist()]
    torch.testing.assert_close(time_features(u, 4), torch.tensor(want), atol=3e-4, rtol=0)
    three = time_features(u, 6)
    torch.testing.assert_close(three[:, 1], torch.cos(u * math.sqrt(1000)), atol=1e-5, rtol=0)
    assert time_features(u.double(), 4).dtype == torch.float32


@pytest.mark.parametrize("n", [0, 2, 5])
def test_time_features_refuse(n):
    with pytest.raises(ValueError, match=f"n must be even and at least 4, not {n}"):
        time_features(torch.zeros(1), n)


def test_time_embedding_is_a_small_mlp_of_the_features(device):
    net, u = randomise(TimeEmbedding(8)).to(device), torch.rand(4, device=device)
    h = F.silu(F.linear(time_features(u, 64), net[0].weight, net[0].bias))
    torch.testing.assert_close(net(u), F.silu(F.linear(h, net[2].weight, net[2].bias)))
    assert TimeEmbedding(8, 16)(u.cpu()).shape == (4, 8)


def test_zero():
    layer = torch.nn.Linear(3, 2)
    assert zero(layer) is layer and not layer.weight.any() and not layer.bias.any()


# Points


def test_mlp_restated():
    net, x, u = randomise(MLP((2, 2), width=8, depth=2)), torch.randn(B, 2, 2), torch.rand(B)
    film = net.film(net.time(u))
    h = net.enter(x.reshape(B, 4))
    h = h + F.silu(net.layers[0](h) * (1 + film[:, :8]) + film[:, 8:16])
    h = h + F.silu(net.layers[1](h) * (1 + film[:, 16:24]) + film[:, 24:])
    torch.testing.assert_close(net(x, u), net.leave(h).reshape(B, 2, 2))


# Images


@pytest.mark.parametrize("c_in, c_out", [(8, 16), (8, 8)])
def test_res_block_restated(c_in, c_out):
    net, x, c = randomise(ResBlock(c_in, c_out, 4)), torch.randn(B, c_in, 5, 5), torch.randn(B, 4)
    h = F.conv2d(
        F.silu(F.group_norm(x, 8, net.norm1.weight, net.norm1.bias)),
        net.conv1.weight,
        net.conv1.bias,
        padding=1,
    )
    film = net.film(c).reshape(B, 2, c_out, 1, 1)
    h = F.group_norm(h, 8, net.norm2.weight, net.norm2.bias) * (1 + film[:, 0]) + film[:, 1]
    h = F.conv2d(F.silu(h), net.conv2.weight, net.conv2.bias, padding=1)
    skip = F.conv2d(x, net.skip.weight, net.skip.bias) if c_in != c_out else x
    torch.testing.assert_close(net(x, c), h + skip)


def test_res_block_starts_as_its_skip():
    x = torch.randn(B, 8, 5, 5)
    assert ResBlock(8, 8, 4)(x, torch.randn(B, 4)).equal(x)


def test_pixel_attention_restated():
    net, x = randomise(PixelAttention(8), 0.5), torch.randn(B, 8, 3, 2)
    pixels = F.group_norm(x, 8, net.norm.weight, net.norm.bias).permute(0, 2, 3, 1).reshape(B, 6, 8)
    q, k, v = (pixels @ net.qkv.weight[:, :, 0, 0].T + net.qkv.bias).split(8, -1)
    seen = torch.einsum("bij,bjc->bic", torch.einsum("bic,bjc->bij", q, k).div(math.sqrt(8)).softmax(-1), v)
    out = seen @ net.out.weight[:, :, 0, 0].T + net.out.bias
    torch.testing.assert_close(net(x), x + out.reshape(B, 3, 2, 8).permute(0, 3, 1, 2))


def test_pixel_attention_starts_as_the_identity_and_has_no_sense_of_place():
    x, order = torch.randn(B, 8, 3, 4), torch.randperm(12)
    assert PixelAttention(8)(x).equal(x)

    def shuffled(z):
        return z.flatten(2)[:, :, order].reshape(z.shape)

    net = randomise(PixelAttention(8), 0.5)
    torch.testing.assert_close(net(shuffled(x)), shuffled(net(x)))


def test_unet_restated():
    net, x, u = randomise(UNet(1, (8, 16, 24))), torch.randn(B, 1, 8, 8), torch.rand(B)
    c = net.time(u)
    d0 = net.down[0](net.enter(x), c)
    d1 = net.down[1](F.avg_pool2d(d0, 2), c)
    d2 = net.down[2](F.avg_pool2d(d1, 2), c)
    m = net.middle[1](net.attend(net.middle[0](d2, c)), c)
    up2 = net.up[2](torch.cat([m, d2], 1), c).repeat_interleave(2, 2).repeat_interleave(2, 3)
    up1 = net.up[1](torch.cat([up2, d1], 1), c).repeat_interleave(2, 2).repeat_interleave(2, 3)
    up0 = net.up[0](torch.cat([up1, d0], 1), c)
    assert (d0.shape[1:], d1.shape[1:], d2.shape[1:]) == ((8, 8, 8), (16, 4, 4), (24, 2, 2))
    torch.testing.assert_close(
        net(x, u), net.leave(F.silu(F.group_norm(up0, 8, net.norm.weight, net.norm.bias)))
    )


def test_unet_defaults_and_names():
    net = UNet()
    assert net.leave.weight.shape == (*net.enter.weight.shape[1::-1], 3, 3) == (1, 32, 3, 3)
    assert {n.split(".")[0] for n, _ in net.named_parameters()} == set(
        ["time", "enter", "down", "middle", "attend", "up", "norm", "leave"]
    )


@pytest.mark.parametrize("size", [(9, 8), (8, 10), (6, 8)])
def test_unet_refuses_sizes(size):
    with pytest.raises(
        ValueError, match=rf"x must have height and width divisible by 4, not \({size[0]}, {size[1]}\)"
    ):
        UNet(1, (8, 8, 8))(torch.zeros(1, 1, *size), torch.zeros(1))


def test_unet_refuses_widths():
    with pytest.raises(ValueError, match=r"widths must be multiples of 8, not \(8, 12\)"):
        UNet(1, (8, 12))


# Sequences


def test_rotary_angles_exactly(device):
    d, x = 8, torch.randn(2, 3, 5, 8, device=device)
    frequency = torch.tensor([10000 ** (-2 * i / d) for i in range(d // 2)], dtype=torch.float64)
    angle = torch.arange(5)[:, None] * frequency
    z = torch.complex(x[..., :4].cpu().double(), x[..., 4:].cpu().double()) * torch.polar(
        torch.ones(5, 4).double(), angle
    )
    torch.testing.assert_close(rotate(x).cpu(), torch.cat([z.real, z.imag], -1).float(), rtol=1e-5, atol=1e-5)
    assert rotate(x.bfloat16()).dtype == torch.bfloat16


def test_rotary_products_depend_on_the_difference_of_positions():
    q, k = torch.randn(8).expand(1, 1, 9, 8), torch.randn(8).expand(1, 1, 9, 8)
    product = (rotate(q) @ rotate(k).transpose(-1, -2))[0, 0]
    for offset in range(-8, 9):
        diagonal = product.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
    assert product[0].unique().numel() == 9


def test_block_restated():
    width, heads = 8, 2
    net, h, c = randomise(Block(width, heads), 0.4), torch.randn(B, L, width), torch.randn(B, width)
    keys = torch.rand(B, L) < 0.7
    keys[:, 0] = True
    s1, c1, g1, s2, c2, g2 = net.ada(c).reshape(B, 1, 6, width).unbind(2)
    z = F.layer_norm(h, (width,)) * (1 + c1) + s1
    q, k, v = (y.reshape(B, L, heads, 4).permute(0, 2, 1, 3) for y in net.qkv(z).split(width, -1))
    score = torch.einsum("bhid,bhjd->bhij", rotate(q), rotate(k)) / math.sqrt(4)
    share = score.masked_fill(~keys[:, None, None], -math.inf).softmax(-1)
    seen = torch.einsum("bhij,bhjd->bihd", share, v).reshape(B, L, width)
    want = h + g1 * net.proj(seen)
    want = want + g2 * net.mlp(F.layer_norm(want, (width,)) * (1 + c2) + s2)
    torch.testing.assert_close(net(h, c, keys[:, None, None]), want, rtol=1e-4, atol=1e-5)


def test_block_starts_as_the_identity():
    h = torch.randn(B, L, 8)
    assert Block(8, 2)(h, torch.randn(B, 8), None).equal(h)


def test_transformer_restated():
    net, h, u = randomise(Transformer(8, 2, 2)), torch.randn(B, L, 8), torch.rand(B)
    c = net.time(u)
    deep = net.blocks[1](net.blocks[0](h, c, None), c, None)
    torch.testing.assert_close(net(h, u), F.layer_norm(deep, (8,), net.norm.weight, net.norm.bias))
    assert net(h, u).shape == h.shape and not net(h, u).allclose(net(h, u, torch.arange(L).expand(B, L) < 3))


@pytest.mark.parametrize("name", ["tokens", "embeddings"])
def test_masked_positions_are_not_seen_and_padding_changes_nothing(name, device):
    make, data, _ = CASES[name]
    net, x, u = randomise(make(), 0.4).to(device), data().to(device), torch.rand(B, device=device)
    mask = (torch.arange(L) < 4).expand(B, L).to(device)
    out = net(x, u, mask)
    other = x.clone()
    other[:, 4:] = data().to(device)[:, 4:]
    torch.testing.assert_close(net(other, u, mask)[:, :4], out[:, :4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x[:, :4], u), out[:, :4], rtol=1e-4, atol=1e-5)
    assert not net(x, u)[:, :4].allclose(out[:, :4], atol=1e-3)
    assert net(x, u, torch.ones_like(mask)).allclose(net(x, u), atol=1e-4)


def test_transformer_refuses_odd_heads():
    with pytest.raises(ValueError, match="width must be a multiple of 2 x heads = 8, not 12"):
        Transformer(12, 4)
    assert Transformer(8, 4, 1).blocks[0].heads == 4


def test_tokens_go_in_by_their_embedding():
    net, x, u = randomise(TokenNet(7, 5, 16, 2, 1)), ids(), torch.rand(B)
    torch.testing.assert_close(net(x, u), net.head(net.trunk(net.embedding.weight[x], u)))


def test_spread_adds_what_stands_around():
    net, x, u = randomise(TokenNet(7, 5, 16, 2, 1, radius=2)), ids(), torch.rand(B)
    e = F.pad(net.embedding.weight[x], (0, 0, 2, 2))
    w = net.spread.weight[:, 0]  # (width, 5): one filter for each channel
    around = sum(e[:, i : i + L] * w[:, i] for i in range(5)) + net.spread.bias
    want = net.head(net.trunk(net.embedding.weight[x] + around, u))
    torch.testing.assert_close(net(x, u), want, rtol=1e-4, atol=1e-5)
    assert TokenNet(7, 5, 16, 2, 1).spread is None


def test_at_gives_the_same_numbers_at_the_positions_asked_for():
    x, u, where = ids(), torch.rand(B), torch.rand(B, L) < 0.5
    for K_out in (5, 1024):  # with a small head all rows are worked out, with a large one those asked for
        net = randomise(TokenNet(7, K_out, 16, 2, 1))
        torch.testing.assert_close(net(x, u, at=where), net(x, u)[where])
        assert net(x, u, at=torch.zeros_like(where)).shape == (0, K_out) and net.takes_at
    heads = []
    net.head.register_forward_hook(lambda layer, given, out: heads.append(out.shape[:-1]))
    net(x, u, at=where), net(x, u)
    assert heads == [(where.sum(),), (B, L)]


def test_embedding_net_restated():
    net, x, u = randomise(EmbeddingNet(7, 4, 16, 2, 1, normalised=False)), torch.randn(B, L, 4), torch.rand(B)
    torch.testing.assert_close(net(x, u), net.leave(net.trunk(net.enter(x), u)))
    tokens = ids()
    assert net.embed(tokens).equal(net.embedding.weight[tokens])


def test_logits_are_highest_for_the_nearest_embedding():
    net, x = randomise(EmbeddingNet(20, 3, 8, 2, 1, normalised=False), 1.0), torch.randn(4, 50, 3)
    distance = torch.cdist(x, net.embedding.weight.expand(4, -1, -1))
    assert net.logits(x).argmax(-1).equal(distance.argmin(-1))
    torch.testing.assert_close(
        net.logits(x), (x.square().sum(-1, keepdim=True) - distance.square()) / 2, atol=1e-4, rtol=1e-4
    )


def test_normalised_embeddings_have_length_root_D():
    net, x = randomise(EmbeddingNet(20, 4, 8, 2, 1), 1.0), torch.randn(3, 5, 4)
    torch.testing.assert_close(net.table.norm(dim=1), torch.full((20,), 2.0))
    torch.testing.assert_close(net.table, 2 * F.normalize(net.embedding.weight))
    plain = EmbeddingNet(20, 4, 8, 2, 1, normalised=False)
    assert plain.table.equal(plain.embedding.weight) and not plain.normalised
    distance = torch.cdist(x, net.table.expand(3, -1, -1))
    assert net.logits(x).argmax(-1).equal(distance.argmin(-1))
    tokens = torch.randint(0, 20, (2, 3))
    assert net.embed(tokens).equal(net.table[tokens])


def test_what_was_said_before_and_the_label_are_added_at_the_entrance():
    net = randomise(EmbeddingNet(7, 4, 16, 2, 1, recall=True, classes=3))
    x, u, before = torch.randn(B, L, 4), torch.rand(B), torch.randn(B, L, 4)
    label = torch.arange(B) % 3

    def restated(before, label):
        h = net.enter(x) + before @ net.remember.weight.T + net.label.weight[label][:, None]
        return net.leave(net.trunk(h, u))

    torch.testing.assert_close(net(x, u, None, before, label), restated(before, label))
    anything = torch.full((B,), 3)
    torch.testing.assert_close(net(x, u), restated(0 * before, anything))
    torch.testing.assert_close(net(x, u, None, before), restated(before, anything))
    assert net.label.weight.shape == (4, 16) and EmbeddingNet(7, 4).label is None
    plain = EmbeddingNet(7, 4, 16, 2, 1)
    assert plain.remember is None and plain.recall is False and plain.classes == 0
    assert not EmbeddingNet(
        7, 4, 16, 2, 1, recall=True
    ).remember.weight.any()  # it begins as if it did not recall
    for given in ((before, None), (None, label)):
        with pytest.raises(
            ValueError, match="before needs a network with recall=True, and label one with classes"
        ):
            plain(x, u, None, *given)


def test_bad_tokens_and_masks_are_named(unchecked):
    net, x, u = EmbeddingNet(7, 4, 16, 2, 1), torch.randn(B, L, 4), torch.rand(B)
    for bad, said in (([[0, 7]], "0..7"), ([[-1, 3]], "-1..3")):
        with pytest.raises(ValueError, match=rf"tokens must lie in 0\.\.6, not {said}"):
            net.embed(torch.tensor(bad))
    mask = torch.ones(B + 1, L, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"mask must have shape \({B}, {L}\), not \({B + 1}, {L}\)"):
        net(x, u, mask)


def test_spread_of_vectors_adds_what_stands_around_and_nothing_of_PAD():
    net, x, u = randomise(EmbeddingNet(7, 4, 16, 2, 1, radius=2)), torch.randn(B, L, 4), torch.rand(B)
    assert EmbeddingNet(7, 4, 16, 2, 1).spread is None
    for mask in (None, (torch.arange(L) < 4).expand(B, L)):
        h = net.enter(x) if mask is None else net.enter(x) * mask[..., None]
        e, w = F.pad(h, (0, 0, 2, 2)), net.spread.weight[:, 0]
        around = sum(e[:, i : i + L] * w[:, i] for i in range(5)) + net.spread.bias
        torch.testing.assert_close(
            net(x, u, mask), net.leave(net.trunk(h + around, u, mask)), rtol=1e-4, atol=1e-5
        )
    mask = (torch.arange(L) < 4).expand(B, L)
    torch.testing.assert_close(net(x, u, mask)[:, :4], net(x[:, :4], u), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_mixing_net_is_bayes_rule_over_words(normalised, tied):
    """p(w | x_t) from the clue and the density of x_t; the mean of E[x_0 | x_t, w], by hand in float64."""
    A = torch.tensor([1.0, 0.9, 0.7, 0.3, 0.01], dtype=torch.float64)
    net = randomise(MixingNet(7, 4, A, 16, 2, 1, normalised=normalised, tied=tied), 0.5)
    x, t = torch.randn(5, L, 4), torch.tensor([1, 2, 3, 4, 1])
    clue = net.leave(net.features(x, t / 4))
    clue = clue @ net.table.T if tied else clue
    e, a, s0 = net.table.double(), A[t][:, None, None, None], 0.1
    var = 1 - a + a * s0
    log = (clue + net.bias)[..., None].double()
    far = (x[:, :, None].double() - a.sqrt() * e).square().sum(-1, keepdim=True)
    p = (log - far / (2 * var)).log_softmax(2)
    gain = a.sqrt() * s0 / var * (t > 1)[:, None, None, None]
    each = e + gain * (x[:, :, None] - a.sqrt() * e)
    x0, log_p = net.explain(x, t / 4)
    torch.testing.assert_close(log_p.double(), p[..., 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x0.double(), (p.exp() * each).sum(2), rtol=1e-4, atol=1e-4)
    assert x0.equal(net(x, t / 4)) and "alpha_bar" not in net.state_dict()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_the_guess_is_bayes_without_context(normalised, tied):
    """p(w) N(x_t; r e_w, sigma^2 + r^2 sigma_0^2), normalised, by hand; its mean of the last layer's rows."""
    A = torch.tensor([1.0, 0.9, 0.7, 0.3, 0.01], dtype=torch.float64)
    net = MixingNet(7, 4, A, 16, 2, 1, normalised=normalised, tied=tied, guess=True, K_out=5)
    x, t = torch.randn(5, L, 4), torch.tensor([1, 2, 3, 4, 1])
    assert net.prior.equal(torch.zeros(5)) and "prior" in net.state_dict()
    assert net.take_in(x, t / 4, None).equal(net.enter(x))  # it starts without
    randomise(net, 0.5)
    net.prior.copy_(torch.randn(5))
    e, a = net.table.double(), A[t][:, None, None, None]
    far = (x[:, :, None].double() - a.sqrt() * e).square().sum(-1)
    p = (net.prior.double() - far / (2 * (1 - a + a * 0.1))[..., 0]).softmax(-1)
    rows = e if tied else F.layer_norm(net.leave.weight.double(), (16,))
    want = net.enter(x) + net.guess((p @ rows).float())
    torch.testing.assert_close(net.take_in(x, t / 4, None), want, rtol=1e-4, atol=1e-4)
    mask = torch.rand(5, L) < 0.5
    kept = torch.where(mask[..., None], want, net.enter(x))
    torch.testing.assert_close(net.take_in(x, t / 4, mask), kept, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.features(x, t / 4), net.trunk(want, t / 4), rtol=1e-4, atol=1e-4)
    net.take_in(x, t / 4, mask).sum().backward()  # no gradient goes through the guess itself
    assert net.embedding.weight.grad is None and net.leave.weight.grad is None
    assert net.guess.weight.grad.any() and net.enter.weight.grad.any()
    assert not MixingNet(7, 4, A, 16, 2, 1).state_dict().keys() & {"prior", "guess.weight"}


def test_weights_of_another_vocabulary_are_refused():
    A = torch.linspace(1, 0.01, 5)
    nets = [randomise(MixingNet(7, 4, A, 16, 2, 1, guess=True)) for _ in range(3)]
    for net, order in zip(nets[:2], (range(7), (1, 0, 2, 3, 4, 5, 6)), strict=True):
        net.prior.copy_(torch.tensor([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1]).log()[list(order)])
    made = {k: v.clone() for k, v in nets[0].state_dict().items()}
    before = nets[1].bias.clone()
    with pytest.raises(
        ValueError, match="the weights belong to another vocabulary: its words have other freq"
    ):
        nets[1].load_state_dict(made)
    assert nets[1].bias.equal(before)
    nets[2].load_state_dict(made)  # its prior was never set
    rounded = {k: v.half() for k, v in made.items()}
    nets[0].load_state_dict(rounded)
    assert nets[2].prior.equal(made["prior"]) and nets[0].bias.equal(rounded["bias"].float())


@pytest.mark.parametrize("tied", [True, False])
def test_a_mixing_network_can_be_asked_for_some_positions(tied):
    net = randomise(MixingNet(7, 4, torch.linspace(1, 0.01, 5), 16, 2, 1, recall=True, tied=tied), 0.5)
    x, u, before = torch.randn(5, L, 4), torch.tensor([1, 2, 3, 4, 1]) / 4, torch.randn(5, L, 4)
    mask, rows = torch.ones(5, L, dtype=torch.bool), torch.rand(5, L) < 0.5
    mask[2, 3:] = rows[2, 3:] = False
    whole, asked = (net.explain(x, u, mask, before, at=r) for r in (None, rows))
    torch.testing.assert_close(asked[1], whole[1][rows])
    torch.testing.assert_close(asked[0][rows], whole[0][rows])
    assert asked[0][~rows].equal(x[~rows]) and asked[1].shape == (rows.sum(), 7)
    assert net(x, u, mask, before, at=rows).equal(asked[0])
    grads = []
    for x0, _ in (whole, asked):
        net.zero_grad()
        x0[rows].square().sum().backward()
        grads.append(net.embedding.weight.grad.clone())
    torch.testing.assert_close(*grads)
    plain = randomise(EmbeddingNet(7, 4, 16, 2, 1, recall=True))
    whole, asked = (plain.explain(x, u, mask, before, at=r) for r in (None, rows))
    torch.testing.assert_close(asked[1], whole[1][rows])
    assert net.takes_at and plain.takes_at


@pytest.mark.parametrize("kind", [EmbeddingNet, MixingNet])
def test_a_network_may_hear_more_tokens_than_it_says(kind):
    given = (torch.linspace(1, 0.01, 5),) if kind is MixingNet else ()
    net = randomise(kind(7, 4, *given, width=16, heads=2, depth=1, normalised=True, K_out=3))
    every = F.normalize(net.embedding.weight, dim=1) * 2
    torch.testing.assert_close(net.embed(torch.arange(7)[None])[0], every)
    torch.testing.assert_close(net.table, every[:3])
    x, u = torch.randn(B, L, 4), torch.full((B,), 0.5)
    log_p = net.explain(x, u)[1]
    torch.testing.assert_close(net.logits(x), x @ every[:3].T - 2)
    assert log_p.shape == (B, L, 3) and (kind is EmbeddingNet or net.bias.shape == (3,))
    assert EmbeddingNet(7, 4).K_out == 7


# Every network in every dtype


def table():
    return torch.linspace(1, 0.01, 11) ** 2


EVERY = {
    **{name: (make, data) for name, (make, data, _) in CASES.items()},
    "two heads": (lambda: TwoHeads(UNet(1, (8, 16))), lambda: torch.randn(B, 1, 8, 8)),
    "many tokens": (lambda: TokenNet(7, 1024, 16, 2, 1), ids),
    "causal": (lambda: CausalNet(7, 16, 2, 2), ids),
    "embeddings, all": (
        lambda: EmbeddingNet(7, 4, 16, 2, 2, recall=True, classes=3, radius=2),
        lambda: torch.randn(B, L, 4),
    ),
    "mixing, all": (
        lambda: MixingNet(
            7, 4, table(), 16, 2, 2, False, True, 3, 2, 5, tied=False, guess=True
        ),
        lambda: torch.randn(B, L, 4),
    ),
    "classifier": (lambda: SentenceClassifier(4, 3, 16, 2, 2), lambda: torch.randn(B, L, 4)),
    "wrapped": (lambda: Wrapped(MLP((2,), 16)), lambda: torch.randn(B, 2)),
    "given": (
        lambda: Given(TokenNet(7, 5, 16, 2, 1), mask=torch.arange(L).expand(B, L) < 4),
        ids,
    ),
}  # fmt: skip
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_every_network_runs_in_every_dtype(name, dtype):
    """Weights in one dtype, x_t and u in float32 or in that one: the same answers, as far as the dtype goes."""
    make, data = EVERY[name]
    torch.manual_seed(0)
    net, x, u = randomise(make(), 0.1), data(), torch.rand(B)
    want, narrow = net(x, u), copy.deepcopy(net).to(dtype)
    tolerance = {torch.bfloat16: 0.1, torch.float16: 0.02}.get(dtype, 1e-5)
    for given in (x, x.to(dtype) if x.is_floating_point() else x):
        out = narrow(given, u)
        assert out.isfinite().all() and out.is_floating_point()
        torch.testing.assert_close(out.double(), want.double(), rtol=tolerance, atol=tolerance)
    if not isinstance(net, MixingNet):  # what it mixes is never narrower than float32
        assert out.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name", [name for name, (make, _) in EVERY.items() if getattr(make(), "takes_at", False)]
)
def test_places_asked_for_are_those_of_the_whole_in_every_dtype(name, dtype):
    """Only the head is asked at fewer places, so they differ by the rounding of one product."""
    make, data = EVERY[name]
    torch.manual_seed(0)
    net, x, u = randomise(make(), 0.1).to(dtype), data(), torch.rand(B)
    x = x.to(dtype) if x.is_floating_point() else x
    where = torch.arange(B * L).reshape(B, L) % 3 == 1
    whole, asked = net(x, u)[where], net(x, u, at=where)
    asked = asked[where] if asked.ndim == 3 else asked
    assert asked.dtype == whole.dtype and asked.shape == whole.shape
    torch.testing.assert_close(asked, whole, rtol=2 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["mlp", "embeddings, all", "mixing"])
def test_gradients_are_right_in_float64(name):
    make, data = EVERY[name]
    net, x, u = randomise(make(), 0.3).double(), data().double().requires_grad_(), torch.rand(B)
    assert torch.autograd.gradcheck(lambda x: net(x, u), (x,))


def test_the_table_of_a_mixing_network_keeps_its_digits():
    """In bfloat16 the first 1 - alpha_bar would be 0 or twice as large."""
    A = torch.linspace(1, 0.01, 1001, dtype=torch.float64) ** 2
    net = MixingNet(7, 4, A, 16, 2, 1)
    for moved in (net.bfloat16(), net.half(), net.to("cpu"), copy.deepcopy(net).float()):
        assert moved.alpha_bar.equal(A) and "alpha_bar" not in moved.state_dict()


def test_words_are_never_told_apart_in_half_precision():
    """The nearest of many words in a narrow network, and under autocast."""
    net = randomise(EmbeddingNet(500, 8, 16, 2, 1, normalised=False), 1.0)
    x = torch.randn(B, L, 8)
    narrow = copy.deepcopy(net).bfloat16()
    for model, given in ((narrow, x), (narrow, x.bfloat16()), (net, x)):
        with torch.autocast("cpu", torch.bfloat16):
            found = model.logits(given)
        e = model.embedding.weight.double()
        want = given.double() @ e.T - e.square().sum(-1) / 2
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-4)


# What is masked


MASKED = {
    "trunk": (lambda: Transformer(16, 2, 2), lambda: torch.randn(B, L, 16)),
    **{k: EVERY[k] for k in ("tokens", "tokens, spread", "many tokens", "embeddings", "embeddings, all")},
    **{k: EVERY[k] for k in ("mixing", "mixing, guess", "mixing, all", "classifier")},
}


@pytest.mark.parametrize("name", MASKED)
def test_what_is_masked_changes_nothing_at_seen_places(name):
    """Not by one bit, whatever stands there: other tokens, other vectors, NaN; nor what was said there before."""
    make, data = MASKED[name]
    net, u = randomise(make(), 0.3), torch.tensor([1.0, 0.5, 0.2])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 1], [0, 0, 0, 1, 1, 1]]).bool()
    recalls = getattr(net, "recall", False)

    def answers(x, before):
        given = {"before": before} if recalls else {}
        out = net(x, u, mask=mask, **given)
        return out if out.ndim == 2 else out[mask]

    x, before = data(), torch.randn(B, L, 4)
    want = answers(x, before)
    strange = [data()] + ([torch.full_like(x, float("nan"))] if x.is_floating_point() else [])
    for other in strange:
        here = mask if x.ndim == 2 else mask[..., None]
        else_before = torch.where(mask[..., None], before, float("nan"))
        assert (answers(torch.where(here, x, other), else_before) - want).abs().max() == 0
    assert (net(data(), u, mask=mask) - net(x, u, mask=mask)).abs().max() > 0


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("mask, error, words", [
    (torch.ones(B, L), TypeError, r"mask must be a bool tensor, not torch.float32 of shape \(3, 6\)"),
    (torch.ones(B, L).long(), TypeError, "mask must be a bool tensor, not torch.int64"),
    (torch.ones(B, L + 1).bool(), ValueError, r"mask must have shape \(3, 6\), not \(3, 7\)"),
    (torch.ones(L).bool(), ValueError, r"mask must have shape \(3, 6\), not \(6,\)"),
    (torch.arange(B)[:, None].expand(B, L) != 1, ValueError, "mask must show a place in each row, but row 1 has none"),
    ([[True]], TypeError, "mask must be a bool tensor, not list"),
])  # fmt: skip
def test_masks_that_are_none_are_named(name, mask, error, words, unchecked):
    make, data = MASKED[name]
    with pytest.raises(error, match=words):
        make()(data(), torch.rand(B), mask=mask)


@pytest.mark.parametrize("radius, error", [(-1, ValueError), (1.5, TypeError)])
def test_a_radius_is_a_count(radius, error, unchecked):
    with pytest.raises(error, match="radius must be"):
        TokenNet(7, 5, 16, 2, 1, radius=radius)


@pytest.mark.parametrize("label, words", [
    (torch.tensor([0, 1, 4]), r"label must lie in 0\.\.3, not 0\.\.4"),
    (torch.tensor([0, 1, -1]), r"label must lie in 0\.\.3, not -1\.\.1"),
    (torch.tensor([0, 1]), r"label must hold 3 integers, one per example, not torch.int64 of shape \(2,\)"),
    (torch.tensor([0.0, 1.0, 1.0]), "label must hold 3 integers, one per example, not torch.float32"),
])  # fmt: skip
def test_labels_that_are_none_are_named(label, words, unchecked):
    net = EmbeddingNet(7, 4, 16, 2, 1, classes=3)
    with pytest.raises(ValueError, match=words):
        net(torch.randn(B, L, 4), torch.rand(B), label=label)
    net(torch.randn(B, L, 4), torch.rand(B), label=torch.tensor([0, 3, 1], dtype=torch.uint8))


# Networks around networks


class Twice(Wrapped):
    """Says everything twice as loud."""

    def forward(self, x, u, **given):
        return 2 * self.inner(x, u, **given)


def test_wrapped_networks_compose_copy_and_pickle():
    plain = randomise(EmbeddingNet(7, 4, 16, 2, 1, recall=True, classes=3))
    x, u, mask = torch.randn(B, L, 4), torch.rand(B), torch.arange(L).expand(B, L) < 4
    label, before = torch.tensor([0, 1, 2]), torch.randn(B, L, 4)
    want = 4 * plain(x, u, mask, before, label)
    for net in (
        Twice(Given(Twice(plain), mask=mask, label=label)),
        Given(Twice(Given(Twice(plain), label=label)), mask=mask),
        Wrapped(Given(Given(Twice(Twice(plain)), mask=mask), label=label)),
    ):
        for same in (net, copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert same(x, u, before=before).equal(want) and same.table.equal(plain.table)
            assert same.recall and same.mask.equal(mask) and same.takes_at
        with pytest.raises(AttributeError, match="nothing"):
            net.nothing()
    assert copy.deepcopy(net).inner is not net.inner and copy.copy(net).inner is net.inner


def test_what_a_call_gives_counts_more_than_what_was_given():
    plain = randomise(EmbeddingNet(7, 4, 16, 2, 1, classes=3))
    x, u, label = torch.randn(B, L, 4), torch.rand(B), torch.tensor([0, 1, 2])
    net = Given(plain, label=label)
    assert net(x, u).equal(plain(x, u, label=label)) and not net(x, u).equal(plain(x, u))
    assert net(x, u, label=None).equal(plain(x, u)) and net.mask is None
    for found, want in zip(net.explain(x, u), plain.explain(x, u, label=label), strict=True):
        assert found.equal(want)
    assert Given(net, label=label.flip(0)).explain(x, u)[0].equal(plain(x, u, label=label.flip(0)))
    assert net.state_dict().keys() == {f"inner.{k}" for k in plain.state_dict()}
    assert Given(plain, mask=torch.ones(B, L).bool()).to("meta").mask.device.type == "meta"


class Copied:
    """A network that says how it is copied."""

    def __call__(self, x, u):
        return x

    def __deepcopy__(self, memo):
        return Copied()


def test_a_copy_of_a_wrapper_is_a_wrapper():
    """Whatever the network inside says of its own copies."""
    net = Given(Copied(), label=torch.tensor([1]))
    same = copy.deepcopy(net)
    assert isinstance(same, Given) and same.given["label"].equal(torch.tensor([1]))
    assert same.inner is not net.inner


def test_a_wrapper_needs_a_network(unchecked):
    with pytest.raises(TypeError, match="inner must be a network, not dict"):
        Wrapped({})
    assert Wrapped(lambda x, u: x)(torch.ones(1), None) == 1  # any callable is one
