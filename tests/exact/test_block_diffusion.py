"""Block diffusion: between autoregression and masked diffusion, by enumeration."""

import itertools
import math

import pytest
import torch
from torch import tensor

from course_lib import joint as J
from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.block_diffusion import AllBlocks, BlockDiffusion
from course_lib.block_nets import BlockNet, sees
from course_lib.decoding import (
    Unmask,
    by_blocks,
    largest_margin,
    left_to_right,
    lowest_entropy,
    random_order,
)
from course_lib.evaluate import exact_law
from course_lib.first_hitting import first_hitting
from course_lib.mask_count import MaskCount
from course_lib.mdlm import MDLM
from course_lib.nets import TokenNet
from course_lib.oracle import TableOracle
from course_lib.ordered import Ordered
from course_lib.process import last, sample
from course_lib.stationary import Uniform

V, L = 3, 4
LINE = S.log_linear(0.0)


def system(block):
    return BlockDiffusion(Absorbing(V, LINE), L, block)


def exact_bound(process, net, x0, V=V):
    """The bound of one sequence: over all masks of each block, E[cost | n masks] / n summed over n = 1..block."""
    total, L_b = 0.0, process.block
    for b in range(process.blocks):
        places = range(b * L_b, (b + 1) * L_b)
        for n in range(1, L_b + 1):
            sets = list(itertools.combinations(places, n))
            x_t = x0.repeat(len(sets), 1)
            x_t[:, (b + 1) * L_b :] = V
            for row, places_masked in zip(x_t, sets, strict=True):
                row[list(places_masked)] = V
            t = torch.full((len(sets),), (process.blocks - b - 1 + n / L_b) / process.blocks).double()
            cost = process.masks_of_block(net, x0.expand(len(sets), -1), x_t, t).sum(1)
            total += cost.mean().item() / n
    return total


@pytest.mark.parametrize("block", [1, 2, 4])
def test_with_exact_conditionals_the_bound_is_the_likelihood(block):
    p = J.random_joint(V, L, 0.4, 5)
    process = system(block)
    net = TableOracle(process, p)
    for x in list(itertools.product(range(V), repeat=L))[::7]:
        assert exact_bound(process, net, tensor([x])) == pytest.approx(-math.log(p[x]), abs=1e-9)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_mean_of_the_bound_over_time_is_that_sum(block):
    """By 4,000 stratified times and draws, within five standard errors; the network is not perfect."""
    torch.manual_seed(1)
    process, net = system(block), TokenNet(V + 1, V, 16, 2, 1)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.3 * torch.randn_like(weight)
    x0 = tensor([[2, 0, 1, 1]])

    def timeless(x, u, **given):  # so that the network does not see the time, and the sum is the same
        return net(x, torch.zeros_like(u), **given)

    t = process.sample_t(4000)
    with torch.no_grad():
        each = process.bound(timeless, x0.expand(4000, -1), t)
        want = exact_bound(process, timeless, x0)
    assert abs(each.mean().item() - want) < 5 * each.std().item() / 4000**0.5


def test_blocks_of_one_are_autoregression_and_one_block_is_mdlm():
    net = TokenNet(V + 1, V, 16, 2, 1)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.3 * torch.randn_like(weight)

    def timeless(x, u, **given):
        return net(x, torch.zeros_like(u), **given)

    x0 = torch.randint(V, (1, L))
    ordered = Ordered(V, L)
    t = torch.arange(1, L + 1)
    rows = x0.expand(L, -1)
    nll = ordered.bound(timeless, rows, t).mean().item()
    assert exact_bound(system(1), timeless, x0) == pytest.approx(nll, rel=1e-5)
    mdlm, one = MDLM(Absorbing(V, LINE), L), system(L)
    t = torch.rand(50) * 0.98 + 0.01
    x_t = one.corrupt(x0.expand(50, -1), t)
    ours = one.bound_at(timeless, x0.expand(50, -1), x_t, t)
    torch.testing.assert_close(ours, mdlm.bound_at(timeless, x0.expand(50, -1), x_t, t))
    torch.testing.assert_close(mdlm.weight(t), 1 / t.double())


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_forward_process_masks_the_last_block_first(block):
    process = system(block)
    x0 = torch.randint(V, (20000, L))
    for t in (0.15, 0.5, 0.9):
        x_t = process.corrupt(x0, torch.full((20000,), t).double())
        masked = (x_t == V).double().mean(0)
        for i in range(L):
            own = (t * process.blocks - (process.blocks - 1 - i // block)) if block < L else t
            want = min(max(own, 0.0), 1.0)
            assert masked[i].item() == pytest.approx(want, abs=5 * 0.5 / 20000**0.5 + 1e-9)
        assert ((x_t == x0) | (x_t == V)).all()


@pytest.mark.parametrize("block", [1, 2, 4])
def test_sampling_in_small_steps_draws_from_the_data(block):
    p = J.random_joint(V, 2 * 2, 0.3, 5)
    process = system(block)
    n = 3000
    x = last(sample(process, TableOracle(process, p), n, 16))[1]
    seen = torch.zeros_like(p).index_put(tuple(x.T), tensor(1.0).double() / n, accumulate=True)
    floor = (p * (1 - p) / n).sqrt()
    slack = 0 if block == 1 else 0.04  # tokens that open in one step do not see each other
    assert ((seen - p).abs() < 5 * floor + slack).all()
    assert J.total_variation(seen, p) < 0.15


def test_blocks_opened_in_one_step_are_opened_one_after_the_other():
    """Blocks of one: even a single step from T to 0 is exact."""
    p = J.random_joint(V, L, 0.3, 5)
    process, n = system(1), 3000
    x = last(sample(process, TableOracle(process, p), n, 1))[1]
    seen = torch.zeros_like(p).index_put(tuple(x.T), tensor(1.0).double() / n, accumulate=True)
    assert ((seen - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-9).all()


def two_streams(process, p):
    """A network that takes clean=: exact, from the noisy block and the clean blocks before it."""
    oracle = TableOracle(process, p)

    def net(x, u, clean):
        out = torch.zeros(*x.shape, V).double()
        for b in range(process.blocks):
            here = process.of == b
            state = torch.where(process.of < b, clean, torch.where(here, x, V))
            out[:, here] = oracle(state, torch.ones_like(u) * 0.5)[:, here]
        return out

    return net


@pytest.mark.parametrize("block", [1, 2, 4])
def test_all_blocks_at_once_have_the_same_bound(block):
    """All numbers and all sets of masks of each block, all equally likely: with a perfect network -log p."""
    p = J.random_joint(V, L, 0.4, 5)
    process = system(block)
    both, net = AllBlocks(process), two_streams(process, p)
    x0, total = tensor([[2, 0, 1, 1]]), 0.0
    for n in range(1, block + 1):
        sets = list(itertools.combinations(range(block), n))
        rows = x0.repeat(len(sets) ** process.blocks, 1)
        for row, chosen in zip(rows, itertools.product(sets, repeat=process.blocks), strict=True):
            for b, places in enumerate(chosen):
                row[[b * block + i for i in places]] = V
        t = torch.full((len(rows),), n / block).double()
        total += both.bound_at(net, x0.expand(len(rows), -1), rows, t).mean().item() / block
    assert total == pytest.approx(-math.log(p[tuple(x0[0])]), abs=1e-6)


def test_so_many_tokens_of_each_block_are_masked():
    both = AllBlocks(system(2))
    x0 = torch.randint(V, (4000, L))
    for t, n in ((0.3, 1), (0.5, 1), (0.51, 2), (1.0, 2)):
        masks = both.corrupt(x0, torch.full((4000,), t)) == V
        assert (masks.reshape(-1, 2, 2).sum(-1) == n).all()
    one = (both.corrupt(x0, torch.full((4000,), 0.5)) == V).double().mean(0)
    assert ((one - 0.5).abs() < 5 * 0.5 / 4000**0.5).all()


def trained_a_little(block, K=7, length=6):
    net = BlockNet(K + 1, K, length, block, 16, 2, 2)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return net


@pytest.mark.parametrize("block", [1, 2, 3, 6])
def test_the_network_of_blocks_sees_what_it_may(block):
    """A noisy token changes the answers of its own block only, a clean one those of later blocks only."""
    net, u = trained_a_little(block), torch.ones(1)
    noisy, clean = torch.randint(8, (1, 6)), torch.randint(7, (1, 6))
    before = net(noisy, u, clean=clean)
    for i in range(6):
        for which, x in (("noisy", noisy.clone()), ("clean", clean.clone())):
            x[0, i] = (x[0, i] + 1) % 7
            after = net(x, u, clean=clean) if which == "noisy" else net(noisy, u, clean=x)
            moved = (after - before).abs().amax(-1)[0] > 1e-7
            of = torch.arange(6) // block
            wanted = of == i // block if which == "noisy" else of > i // block
            assert torch.equal(moved, wanted)


@pytest.mark.parametrize("block", [1, 2, 3, 6])
def test_who_sees_whom_is_the_papers_mask(block):
    """BD3-LM's three pieces, noisy rows first there: block diagonal, offset block causal, block causal."""
    noisy = torch.arange(12) < 6
    of = torch.arange(12) % 6 // block
    same, later = of[:, None] == of, of[:, None] > of
    diagonal = same & (noisy[:, None] == noisy)
    offset = later & noisy[:, None] & ~noisy
    causal = (later | same) & ~noisy[:, None] & ~noisy
    theirs = (diagonal | offset | causal).roll((6, 6), (0, 1))
    assert torch.equal(sees(6, block)[0, 0], theirs)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_cache_of_finished_blocks_is_exact(block):
    net, u = trained_a_little(block), torch.ones(3)
    x = torch.randint(7, (3, 6))
    noisy = torch.where(torch.rand(3, 6) < 0.5, 7, x)
    with torch.no_grad():
        whole, cache = net(noisy, u, clean=x), net.cache()
        for b in range(6 // block):
            here = slice(b * block, (b + 1) * block)
            for _ in range(2):  # asked twice: nothing noisy stays in the cache
                torch.testing.assert_close(
                    net.logits(noisy[:, here], cache), whole[:, here], rtol=1e-4, atol=1e-5
                )
            net.append(x[:, here], cache)
    with pytest.raises(ValueError, match="x must be a block of"):
        net.append(torch.zeros(3, block + 1, dtype=torch.long), net.cache())


def test_without_clean_the_tokens_of_earlier_blocks_are():
    net, u = trained_a_little(2), torch.ones(1)
    state = tensor([[3, 1, 2, 7, 7, 7]])
    torch.testing.assert_close(
        net(state, u)[:, 2:4], net(state, u, clean=tensor([[3, 1, 2, 2, 0, 0]]))[:, 2:4]
    )


@pytest.mark.parametrize("block", [1, 2])
def test_block_decoding_draws_from_the_model_of_blocks(block):
    """A network of blocks has a distribution for each block given those before; one position at a time keeps it."""
    process = BlockDiffusion(Absorbing(V, LINE), L, block)
    p = J.random_joint(V, L, 0.3, 5)
    sampler = Unmask(process, by_blocks(block, lowest_entropy))
    assert J.total_variation(p, exact_law(sampler, TableOracle(process, p))) < 1e-12
    opened = []

    def watched(p, masks, k, draw):
        opens = by_blocks(block, largest_margin)(p, masks, k, draw)
        opened.append(opens.nonzero()[:, 1] // block)
        return opens

    Unmask(process, watched).sample(TableOracle(process, p), 1)
    assert torch.cat(opened).tolist() == sorted(torch.cat(opened).tolist())


def test_rows_that_end_early_are_scored_to_their_end():
    process = system(2)
    short, full = tensor([[1, 2, -1, -1]]), tensor([[1, 2, 0, 0]])
    t = tensor([0.9]).double()
    x_t = tensor([[3, 2, -1, -1]])

    def net(x, u, mask=None):
        return torch.linspace(0, 1, V).expand(*x.shape, V)

    one = process.bound_at(net, short, x_t, t)
    other = process.bound_at(net, full, tensor([[3, 2, 3, 3]]), t)
    torch.testing.assert_close(one, other)
    assert (process.corrupt(short.expand(50, -1), torch.rand(50)) == tensor([9, 9, -1, -1]))[:, 2:].all()


def test_bounds_of_two_block_lengths_are_not_equally_tight():
    """Of a network that is not perfect, the bound is exact at blocks of 1 and loose at 4: the order of the bounds need
    not be that of the models. bound - (-log of what the sampler writes) is 0 at 1 and above 0 at 4."""
    p, other = J.random_joint(V, L, 0.4, 5), J.random_joint(V, L, 0.4, 6)
    process = {b: system(b) for b in (1, 4)}

    def blunt(b):
        exact, wrong = TableOracle(process[b], p), TableOracle(process[b], other)
        return lambda x, u: (0.5 * exact(x, u).exp() + 0.5 * wrong(x, u).exp()).log()

    gaps = {}
    for b, order in ((1, left_to_right), (4, random_order)):
        written = exact_law(Unmask(MDLM(Absorbing(V, LINE), L), order), blunt(4))
        x = (2, 0, 1, 1)
        gaps[b] = exact_bound(process[b], blunt(b), tensor([x])) + math.log(written[x])
    assert abs(gaps[1]) < 1e-6 and gaps[4] > 1e-3


def test_the_order_of_the_bounds_may_be_the_reverse_of_that_of_the_samplers():
    """A network of arbitrary answers: its bound rises with the block, and yet what it writes is ever nearer to p.

    Averaged over p. Blocks mix the orders inside them, and -log of a mean is below the mean of -log.
    """
    p, answers = J.random_joint(2, L, 0.5, 0), torch.Generator().manual_seed(9)
    table = 2 * torch.randn([3] * L + [L, 2], generator=answers, dtype=torch.float64)

    def net(x, u):
        return table[tuple(x.T)]

    bounds, written = [], []
    for block in (1, 2, 4):
        process = BlockDiffusion(Absorbing(2, LINE), L, block)
        q = exact_law(Unmask(process, by_blocks(block, random_order)), net)
        every = list(itertools.product(range(2), repeat=L))
        bounds.append(sum(p[x].item() * exact_bound(process, net, tensor([x]), 2) for x in every))
        written.append(-(p * q.log()).sum().item())
    assert bounds[0] == pytest.approx(written[0], abs=1e-9)
    assert bounds[0] + 0.1 < bounds[1] < bounds[2] - 0.1
    assert written[0] - 0.1 > written[1] > written[2] + 0.1


@pytest.mark.parametrize(
    "call, error, words",
    [
        (
            lambda: BlockDiffusion(Absorbing(V, LINE), 4, 3),
            ValueError,
            "block must divide length = 4, but is 3",
        ),
        (lambda: BlockDiffusion(Uniform(V, LINE), 4, 2), ValueError, "noise must be absorbing, not Uniform"),
        (
            lambda: BlockDiffusion(Absorbing(V, S.log_linear()), 4, 2),
            ValueError,
            "noise must have alpha = 1 at time 0 and 0 at time 1, as log_linear(0.0)",
        ),
        (
            lambda: first_hitting(system(2), TokenNet(V + 1, V, 16, 2, 1), 3),
            ValueError,
            "process must have masks that are unmasked in any order, not block by block",
        ),
        (
            lambda: MaskCount(system(2)),
            ValueError,
            "process must be MaskedD3PM, MDLM or SEDD on absorbing noise",
        ),
        (
            lambda: AllBlocks(MDLM(Absorbing(V, LINE), 4)),
            TypeError,
            "process must be a BlockDiffusion, not MDLM",
        ),
    ],
)
def test_bad_input_is_named(unchecked, call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
