"""Bounds against their exact means, distances against closed forms and scipy, the judge on real digits and noise."""

import itertools
import math
import random

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.data import MarkovLanguage, digits, two_bumps
from course_lib.ddpm import DDPM
from course_lib.distances import frechet, wasserstein
from course_lib.evaluate import (
    Estimate,
    bound,
    bound_by_time,
    bounds,
    estimate,
    jackknife,
    ratio,
    real_tokens,
)
from course_lib.image_judge import Judge
from course_lib.learned_variance import LossAware
from course_lib.mask_count import MaskCount
from course_lib.ngram import SentenceJudge
from course_lib.oracle import MarkovOracle, MixtureOracle
from course_lib.process import Process
from course_lib.schedules import cosine, log_linear, table
from course_lib.sentences import Pairs
from course_lib.text_metrics import bleu_table, copied, distinct, mbr, ngram_divergence, self_bleu
from course_lib.wrapper import Wrapper


class Toy(Process):
    """T = 4; its bound is told from outside, and it notes how it was called."""

    T = 4

    def __init__(self, value):
        super().__init__()
        self.value, self.calls = value, []

    def bound(self, model, data, t):
        self.calls.append((model, data, t, torch.is_grad_enabled()))
        return self.value(data, t)


def net(x, u):
    return x


def columns(n):
    return torch.linspace(0, 1, n)[:, None] ** 2


# Bounds


def test_estimate_in_words_and_bits():
    e = Estimate(2.0, 0.5)
    assert str(e) == "2.000 ± 0.500" and str(Estimate(-1.23456, 0.00987)) == "-1.235 ± 0.010"
    bits = e.bits_per_dim(4)
    assert bits == (pytest.approx(0.5 / math.log(2)), pytest.approx(0.125 / math.log(2)))
    assert isinstance(bits, Estimate)


def test_bound_is_mean_and_standard_error_over_examples():
    x = columns(10)
    e = bound(Toy(lambda x, t: x[:, 0].double()), net, x)
    assert e.mean == pytest.approx(x.double().mean().item(), rel=1e-12)
    assert e.se == pytest.approx(scipy.stats.sem(x.double()[:, 0]), rel=1e-12)


def test_bound_goes_through_the_data_in_batches_without_gradients():
    toy = Toy(lambda x, t: x[:, 0])
    bound(toy, net, columns(10), batch=4)
    assert [len(data) for _, data, _, _ in toy.calls] == [4, 4, 2]
    assert all(model is net and not grad and len(t) == len(data) for model, data, t, grad in toy.calls)
    assert torch.cat([data for _, data, _, _ in toy.calls]).equal(columns(10))
    assert torch.cat([t for _, _, t, _ in toy.calls]).unique().tolist() == [1, 2, 3, 4]
    big = Toy(lambda x, t: x[:, 0])
    bound(big, net, columns(300))
    assert [len(data) for _, data, _, _ in big.calls] == [256, 44]


def test_bound_averages_its_repeats_within_each_example():
    toy = Toy(lambda x, t: x[:, 0] + 3 * (len(toy.calls) - 2))  # x - 3, x, x + 3
    e = bound(toy, net, columns(10), repeats=3)
    assert len(toy.calls) == 3
    assert e.mean == pytest.approx(columns(10).mean().item())
    assert e.se == pytest.approx(scipy.stats.sem(columns(10)[:, 0]), rel=1e-6)


def test_bounds_are_what_bound_is_the_mean_of_and_differences_are_paired():
    """Same seed, same draws: an error that two systems share drops out of the difference."""
    process = DDPM(table(cosine(), 50), (2,))
    x = 3 * torch.randn(40, 2)
    first, again = (lambda x, u, k=k: k * x for k in (0.50, 0.51))
    values = {f: bounds(process, f, x, repeats=3, batch=15, seed=4) for f in (first, again)}
    assert values[first].shape == (40,) and values[first].dtype == torch.float64
    assert estimate(values[first]) == bound(process, first, x, repeats=3, batch=15, seed=4)
    difference = estimate(values[again] - values[first])
    assert difference.se < estimate(values[first]).se / 5
    assert difference.mean == pytest.approx((values[again].mean() - values[first].mean()).item())


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(30, dtype=torch.float64)
    without = [(values.sum() - v).item() / 29 for v in values]
    assert jackknife(without) == pytest.approx(estimate(values).se)
    pairs = values.view(10, 3).mean(1)  # groups of three: that of their means
    assert jackknife([(pairs.sum() - v).item() / 9 for v in pairs]) == pytest.approx(estimate(pairs).se)
    with pytest.raises(ValueError, match="without must hold two numbers or more"):
        jackknife([1.0])


def test_bound_by_time_is_the_mean_at_each_time():
    toy, x = Toy(lambda x, t: x[:, 0] * t**2), columns(10)
    by_time = bound_by_time(toy, net, x)
    torch.testing.assert_close(by_time, x.mean() * torch.tensor([1.0, 4.0, 9.0, 16.0]))
    assert all(model is net and not grad and len(data) == 10 for model, data, _, grad in toy.calls)


def test_bound_is_unbiased_for_the_mean_of_bound_by_time():
    # 2 examples, 4 times: each example meets each time equally often
    toy, x = Toy(lambda x, t: x[:, 0] * t**2), torch.tensor([[1.0], [3.0]])
    estimates = torch.tensor([bound(toy, net, x).mean for _ in range(2000)])
    spread = estimates.std() / math.sqrt(2000)
    assert abs(estimates.mean() - bound_by_time(toy, net, x).mean()) < 4 * spread < 1


def test_bound_of_a_ddpm_matches_its_sum_over_times(device):
    process, x = DDPM(table(cosine(), 20), (1,)).to(device), two_bumps().sample(2000).to(device)
    oracle = MixtureOracle(process, two_bumps())
    e = bound(process, oracle, x, repeats=5)
    exact = bound_by_time(process, oracle, x)
    assert exact.shape == (20,)
    assert abs(e.mean - exact.mean().item()) < 5 * e.se < 1
    assert e.mean > two_bumps().entropy() - 5 * e.se


@pytest.mark.parametrize(
    "options, says",
    [
        ({"repeats": 0}, "repeats must be at least 1, not 0"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"data": columns(1)}, "data must hold at least 2 examples, not 1"),
    ],
)
def test_bound_refuses(options, says, unchecked):
    with pytest.raises(ValueError, match=says):
        bound(Toy(None), net, **{"data": columns(4), **options})


def test_bound_is_content_with_2_examples():
    assert bound(Toy(lambda x, t: x[:, 0]), net, torch.tensor([[1.0], [3.0]])) == (2, 1)


# Wrappers that draw times of their own


class Twice(Wrapper):
    """Times of its own, and nothing else: it knows no weight for them."""

    def sample_t(self, n):
        return self.process.sample_t(n).clamp(min=self.T // 2)


def warm(aware):
    """A history that draws late times far more often than early ones."""
    t = torch.arange(1, aware.T + 1).repeat(aware.losses.shape[1])
    aware.remember(t, 10.0 ** (t / aware.T))
    return aware


def language():
    """D3PM on masks, with a perfect network, data and their entropy in nats."""
    language = MarkovLanguage(3, 4)
    process = D3PM(Absorbing(3, table(log_linear(0.0), 20, max_beta=1.0)), 4)
    return process, MarkovOracle(process, language), language.sample(3000), language.entropy()


AROUND = {
    "counted": MaskCount,
    "aware": lambda p: warm(LossAware(p, history=1, uniform=0.2)),
    "counted, wrapped": lambda p: Wrapper(MaskCount(p)),
    "counted, aware": lambda p: warm(LossAware(MaskCount(p), history=1, uniform=0.2)),
    "aware, counted": lambda p: MaskCount(warm(LossAware(p, history=1, uniform=0.2))),
    "other times": Twice,
    "other times, wrapped": lambda p: Wrapper(Twice(p)),
    "plain": Wrapper,
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("term", ["whole", "published", "diffusion_term", "term", "bound"])
def test_a_mean_over_a_wrappers_own_times_is_right_or_refused(name, term):
    """Times of its own under a method of the process inside gave 0.18 nats where the entropy is 1.93."""
    process, oracle, data, entropy = language()
    around = AROUND[name](process)
    per_step = 1 / process.T if term == "term" else 1
    try:
        got = (
            bound(around, oracle, data, repeats=4)
            if term == "whole"
            else bound(around, oracle, data, term=term)
        )
    except ValueError as error:
        assert "draws times of its own" in str(error) and ".process" in str(error)
        assert name != "plain" and (term not in ("whole", "bound") or "other times" in name)
    else:
        assert abs(got.mean - entropy * per_step) < 5 * got.se < 0.5 and "other times" not in name


def test_terms_at_each_time_are_plain_whoever_draws_the_times():
    process, oracle, data, entropy = language()
    for around in (Wrapper(process), AROUND["aware"](process), Wrapper(AROUND["aware"](process))):
        torch.manual_seed(5)
        want = bound_by_time(process, oracle, data)
        torch.manual_seed(5)
        torch.testing.assert_close(bound_by_time(around, oracle, data), want, rtol=0, atol=0)
    counts = bound_by_time(MaskCount(process), oracle, data)
    assert len(counts) == 4 and abs(counts.mean() - entropy) < 0.1
    with pytest.raises(ValueError, match="draws times of its own"):
        bound_by_time(Twice(process), oracle, data)


def test_loss_aware_weighs_a_bound_whose_state_is_given():
    process, oracle, data, _ = language()
    aware, t = AROUND["aware"](process), torch.tensor([1, 20])
    x_t, law = process.corrupt(data[:2], t), aware.p()
    want = process.bound_at(oracle, data[:2], x_t, t) / (20 * law[t - 1])
    torch.testing.assert_close(aware.bound_at(oracle, data[:2], x_t, t), want)
    assert aware.evenly() is process and Wrapper(process).evenly().process is process


# The judge


@pytest.fixture(scope="module")
def judge():
    return Judge(*digits())


def test_judge_knows_digits_from_noise(judge, device):
    real, _ = digits("test")
    assert judge.accepted(real.to(device)) > 0.75
    assert judge.accepted(torch.randn(200, 1, 8, 8, device=device).clamp(-1, 1)) < 0.2
    assert judge.accepted(real, above=0.0) == 1 and judge.accepted(real, above=1.0) == 0


def test_judge_is_as_sure_as_ten_neighbours_agree(judge):
    x, y = digits()
    real = digits("test")[0][:20]
    nearest = torch.cdist(real.flatten(1), x.flatten(1)).topk(10, largest=False).indices
    want = torch.nn.functional.one_hot(y[nearest].long(), 10).double().mean(1).amax(1)
    torch.testing.assert_close(judge.confidence(real), want)
    assert judge.accepted(real) == (want > 0.95).double().mean().item()
    assert judge.classifier.n_neighbors == 10


def test_judge_labels_by_the_majority(judge):
    x, y = digits()
    real, labels = digits("test")
    nearest = torch.cdist(real[:20].flatten(1), x.flatten(1)).topk(10, largest=False).indices
    votes = torch.nn.functional.one_hot(y[nearest].long(), 10).sum(1)
    assert torch.equal(judge.label(real[:20]), votes.argmax(1))
    assert (judge.label(real) == labels).double().mean() > 0.95


def test_judges_features_are_principal_components(judge):
    x = digits()[0].flatten(1).double()
    variance = torch.linalg.eigvalsh(x.T.cov()).flip(0)[:30]
    features = judge.features(digits()[0])
    assert features.shape == (1438, 30) and features.dtype == torch.float64
    torch.testing.assert_close(features.var(0), variance, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(features.mean(0), torch.zeros(30).double(), rtol=0, atol=1e-4)


def test_judge_with_other_numbers():
    x, y = digits()
    small = Judge(x[:50], y[:50], neighbours=3, components=5)
    assert small.classifier.n_neighbors == 3 and small.features(x[:4]).shape == (4, 5)


# Distances


def test_frechet_by_scipys_matrix_root():
    a, b = torch.randn(50, 4) @ torch.randn(4, 4), torch.randn(70, 4) @ torch.randn(4, 4) + torch.arange(4)
    S_a, S_b = np.cov(a.double().T), np.cov(b.double().T)
    root = scipy.linalg.sqrtm(S_a @ S_b).real
    shift = (a.double().mean(0) - b.double().mean(0)).square().sum().item()
    want = shift + np.trace(S_a + S_b - 2 * root)
    assert frechet(a, b) == pytest.approx(want, rel=1e-8)
    assert frechet(b, a) == pytest.approx(want, rel=1e-8)


def test_frechet_in_one_dimension(device):
    a, b = 2 * torch.randn(30, 1), torch.randn(40, 1) + 3
    want = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert frechet(a.to(device), b.to(device)) == pytest.approx(want.item(), rel=1e-5)


def test_frechet_of_a_sample_with_itself_and_its_shift():
    a = torch.randn(5, 8)  # fewer samples than dimensions: singular covariances
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, a + 2) == pytest.approx(4 * 8, rel=1e-5)


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1)])
def test_frechet_refuses(sizes):
    with pytest.raises(
        ValueError, match=f"a and b must hold at least 2 samples each, not {sizes[0]} and {sizes[1]}"
    ):
        frechet(*(torch.randn(n, 2) for n in sizes))
    assert math.isfinite(frechet(torch.randn(2, 2), torch.randn(2, 2)))


def normal(x):
    return torch.special.ndtr(x)


def uniform(x):
    return x.clamp(0, 1)


def test_wasserstein_by_scipy(device):
    x = 1.5 * torch.randn(300) + 0.3
    quantiles = scipy.stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    want = scipy.stats.wasserstein_distance(x, quantiles)
    assert wasserstein(x.to(device), normal) == pytest.approx(want, abs=2e-3)


def test_wasserstein_of_a_shifted_law_is_the_shift():
    x = torch.from_numpy(scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)).float()
    assert wasserstein(x, normal) < 0.003
    for shift in (-0.5, 0.5, 20.0):
        assert wasserstein(x + shift, normal) == pytest.approx(abs(shift), abs=0.02)


@pytest.mark.parametrize("points", [[0.5], [0.5, 0.5], [0.5, 0.5 + 1e-6]])
def test_wasserstein_sees_a_collapsed_sample(points):
    assert wasserstein(torch.tensor(points), uniform) == pytest.approx(0.25, abs=1e-3)


def test_wasserstein_reaches_a_law_on_either_side():
    assert wasserstein(torch.tensor([10.0, 11.0]), uniform, points=40001) == pytest.approx(10, abs=1e-3)
    assert wasserstein(torch.tensor([-11.0, -10.0]), uniform, points=40001) == pytest.approx(11, abs=1e-3)
    mixed = torch.tensor([2.0, 0.0, 1.0])  # unsorted; F_3 - F on three pieces
    assert wasserstein(mixed, uniform) == pytest.approx(0.5 * (1 / 9 + 4 / 9) + 1 / 3, abs=2e-3)


def test_wasserstein_in_double_precision_far_from_zero():
    x = torch.linspace(-2, 2, 400, dtype=torch.float64)
    near = wasserstein(x, normal)
    assert wasserstein(x + 1e6, lambda v: normal(v - 1e6)) == pytest.approx(near, abs=1e-6)
    assert wasserstein(x, normal, points=4001) == near != wasserstein(x, normal, points=4000)


# Sentences


def sentence_rows():
    return torch.tensor([[0, 1, 2, -1], [0, 1, -1, -1], [2, 2, 1, 0], [1, -1, -1, -1]])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_sentence_judge_is_a_law_of_sentences(order):
    """The probabilities of all sentences of up to 4 words add up to 1 less that of longer ones, by enumeration."""
    judge, K = SentenceJudge(sentence_rows(), 3, order), 3
    total, alive = 0.0, 1.0
    for n in range(5):
        x = torch.tensor(list(itertools.product(range(K), repeat=n)) or [[]], dtype=torch.long).reshape(
            K**n, n
        )
        padded = torch.cat([x, torch.full((len(x), 5 - n), -1)], 1)
        p = (-judge.nats(padded)).exp()
        total += p.sum().item()
        if n == 4:  # p(at least 4 words): without the factor of the end
            framed = judge.model.log_prob(judge.framed(padded))[:, order - 1 : order + 3]
            alive = framed.sum(1).exp().sum().item()
            assert total - p.sum().item() + alive == pytest.approx(1, abs=1e-9)
    assert 0.3 < total < 1


def test_sentence_judge_counts_the_end_and_no_padding():
    judge = SentenceJudge(sentence_rows(), 3, 2)
    x = torch.tensor([[0, 1, 2], [1, -1, -1]])
    wider = torch.cat([x, torch.full((2, 3), -1)], 1)
    torch.testing.assert_close(judge.nats(x), judge.nats(wider))
    log = judge.model.log_prob(torch.tensor([[3, 0, 1, 2, 3]]))[0, 1:]
    torch.testing.assert_close(judge.nats(x)[:1], -log.sum()[None])
    assert judge.perplexity(x) == pytest.approx(math.exp(judge.nats(x).sum() / 6))
    assert SentenceJudge(sentence_rows(), 3).order == 4


SAID = [s.split() for s in ("a b c d", "a b c e", "x y", "a b c d", "q")]


def test_distinct():
    assert distinct(SAID, 1) == pytest.approx(8 / 15) and distinct(SAID, 2) == pytest.approx(5 / 10)
    assert distinct([["a"]], 1) == 1 and math.isnan(distinct([["a"]], 2))


def test_bleu_table_is_sacrebleu_s():
    bleu = pytest.importorskip("sacrebleu.metrics", reason="sacrebleu is not installed").BLEU(
        effective_order=True, tokenize="none"
    )
    generator = random.Random(0)
    many = SAID + [[generator.choice("abcd") for _ in range(generator.randint(1, 12))] for _ in range(12)]
    table = bleu_table(many)
    for i, a in enumerate(many):
        for j, b in enumerate(many):
            assert table[i, j] == pytest.approx(bleu.sentence_score(" ".join(a), [" ".join(b)]).score)
    assert table[0, 3] == pytest.approx(100) and table[0, 2] == 0 and not table.equal(table.T)
    n = len(many)
    others = [table[i, j] for i in range(n) for j in range(n) if i != j]
    assert self_bleu(many) == pytest.approx(sum(others).item() / len(others))
    with pytest.raises(ValueError, match="sentences must be at least 2, not 1"):
        self_bleu(many[:1])


def test_copied_is_the_longest_run_that_was_seen():
    seen = [["a", "b", "c", "d"], ["c", "e", "f"]]
    given = [
        ["a", "b", "c", "e", "f"],
        ["x", "b", "c", "d", "y", "z"],
        ["x", "y"],
        ["c", "d", "c", "e", "f"],
        ["ab"],
    ]
    shares = [3 / 5, 3 / 6, 0.0, 3 / 5, 0.0]
    for s, share in zip(given, shares, strict=True):
        assert copied([s], seen) == share
    assert copied(given, seen) == pytest.approx(sum(shares) / 5) and copied(seen, seen) == 1
    assert copied([["d", "c"]], seen) == 0.5  # no run goes from one sentence into the next
    for bad in ([], [["a"], []]):
        with pytest.raises(ValueError, match="sentences must be at least one, each with a word"):
            copied(bad, seen)


def test_mbr():
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    best, scores = mbr(SAID)
    table = bleu_table(SAID)
    assert best == 0 and scores[0] == pytest.approx(table[0, [1, 2, 3, 4]].mean().item()) == scores[3]
    assert scores[4] == 0 and mbr([["a", "b"]])[0] == 0  # one candidate is the best of them
    order = [2, 4, 1, 3, 0]
    again, moved = mbr([SAID[i] for i in order])
    assert order[again] == 3 and moved.allclose(scores[order])
    with pytest.raises(ValueError, match="candidates must be at least 1, not 0"):
        mbr([])


# What a bound says, and what it refuses


def test_bound_is_measured_in_eval_mode_and_gives_the_mode_back():
    seen, model = [], torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(1).eval())
    toy = Toy(lambda x, t: seen.append([part.training for part in model.modules()]) or x[:, 0])
    bound(toy, model, columns(4))
    bound_by_time(toy, model, columns(4))
    assert seen == [[False] * 3] * 5
    assert [part.training for part in model.modules()] == [True, True, False]


def test_bound_with_a_seed_does_not_disturb_the_draws_around_it():
    toy = Toy(lambda x, t: torch.rand(len(x)) + t)
    torch.manual_seed(5)
    first = bound(toy, net, columns(6), seed=1)
    after = torch.rand(3)
    assert bound(toy, net, columns(6), seed=1) == first != bound(toy, net, columns(6), seed=2)
    torch.manual_seed(5)
    assert torch.rand(3).equal(after)
    torch.manual_seed(1)  # without a seed it draws as it always did
    assert bound(toy, net, columns(6)) == first and not torch.rand(3).equal(after)


class Published(Toy):
    def diffusion_term(self, model, x, t):
        return 7 * x[:, 0]


def test_bound_of_another_term():
    process = Published(lambda x, t: x[:, 0])
    x, mean = columns(10), columns(10).mean().item()
    assert bound(process, net, x).mean == pytest.approx(mean)
    for term in ("published", "diffusion_term"):
        assert bound(process, net, x, term=term).mean == pytest.approx(7 * mean)
    for term, name in (("published", "diffusion_term"), ("what?", r"what\?"), ("T", "T")):
        with pytest.raises(
            ValueError, match=f"term must be one of 'whole', 'published' or .*, but Toy has no '{name}'"
        ):
            bound(Toy(None), net, x, term=term)


def test_perplexity_by_the_delta_method():
    e = Estimate(6.0, 0.03).perplexity(3)
    assert e == (pytest.approx(math.exp(2)), pytest.approx(math.exp(2) * 0.01)) and isinstance(e, Estimate)
    assert Estimate(0.0, 1.0).perplexity() == (1, 1)
    draws = ((6 + 0.03 * torch.randn(100_000).double()) / 3).exp()
    assert draws.std().item() == pytest.approx(e.se, rel=0.02)
    assert Estimate(math.log(2), 0.0).bits_per_dim() == (1, 0) and Estimate(6.0, 3.0).per(3) == (2, 1)
    for count in (0, -1, math.nan):
        with pytest.raises(ValueError, match="count must be above 0"):
            Estimate(1.0, 1.0).per(count)


def test_bound_per_real_token_is_a_ratio_of_sums_with_its_error():
    rows = torch.tensor([[1, 2, 3, -1], [4, -1, -1, -1], [0, 0, 0, 0]])
    counts = real_tokens(rows)
    assert counts.tolist() == [3, 1, 4]
    e = bound(Toy(lambda x, t: counts.float() * torch.tensor([1.0, 2.0, 3.0])), net, rows, per=counts)
    assert e.mean == pytest.approx((3 + 2 + 12) / 8)
    exact = Toy(lambda x, t: 5 * counts.float())
    assert bound(exact, net, rows, per=counts) == (pytest.approx(5), pytest.approx(0, abs=1e-12))
    target = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]]).bool()
    assert real_tokens(Pairs(rows, target)).tolist() == [2, 1, 1]
    for per in (counts[:2], -counts, 0 * counts):
        with pytest.raises(ValueError, match="per must hold one count for each of the 3 examples"):
            bound(exact, net, rows, per=per)
    for data in (columns(3), rows[0]):
        with pytest.raises(ValueError, match="data must hold rows of tokens"):
            real_tokens(data)


def test_the_error_of_a_ratio_is_that_of_many_repetitions():
    counts = torch.randint(1, 9, (4000, 50)).double()
    values = 2 * counts + torch.randn(4000, 50) * counts.sqrt()
    estimates = [ratio(v, n) for v, n in zip(values, counts, strict=True)]
    spread = torch.tensor([e.mean for e in estimates]).double().std().item()
    assert sum(e.se for e in estimates) / 4000 == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bound_that_is_not_finite_is_no_number(bad, unchecked):
    toy = Toy(lambda x, t: torch.where(x[:, 0] == 1, bad, 0.0))
    with pytest.raises(
        FloatingPointError, match="the bound must be finite, but at t = . it is not in 1 of 4"
    ):
        bound(toy, net, columns(4))
    with pytest.raises(
        FloatingPointError, match="the bound must be finite, but at t = 1 it is not in 1 of 4"
    ):
        bound_by_time(toy, net, columns(4))


@pytest.mark.parametrize(
    ("process", "model", "data", "error", "says"),
    [
        (net, Toy(None), columns(4), TypeError, "process must be a Process"),
        (Toy(None), Toy(None), columns(4), TypeError, "model must be callable .* not Toy"),
        (Toy(None), None, columns(4), TypeError, "model must be callable .* not NoneType"),
        (
            Toy(None),
            net,
            iter([columns(4)]),
            TypeError,
            "data must be a tensor or a data set that can be sliced",
        ),
        (Toy(None), net, torch.tensor([[1.0], [math.nan]]), ValueError, "data must be finite, but 1 of 2"),
        (
            Toy(None),
            net,
            torch.tensor([1.0, math.inf, math.nan]),
            ValueError,
            "data must be finite, but 2 of 3",
        ),
        (
            Toy(lambda x, t: x),
            net,
            columns(4),
            ValueError,
            r"one number per example, \(4,\), not .* \(4, 1\)",
        ),
        (Toy(lambda x, t: 1.0), net, columns(4), ValueError, r"one number per example, \(4,\), not float"),
    ],
)
def test_bound_names_what_was_wrong(process, model, data, error, says, unchecked):
    with pytest.raises(error, match=says):
        bound(process, model, data)


def test_bound_by_time_names_what_was_wrong(unchecked):
    class Continuous(Toy):
        T = 1.0

    with pytest.raises(ValueError, match=r"process must have discrete time 1..T, not T = 1.0"):
        bound_by_time(Continuous(None), net, columns(4))
    with pytest.raises(TypeError, match="process must be a Process"):
        bound_by_time(net, Toy(None), columns(4))
    with pytest.raises(ValueError, match="at least 1 example"):
        bound_by_time(Toy(None), net, columns(4)[:0])
    assert bound_by_time(Toy(lambda x, t: t.float()), net, columns(1)).tolist() == [1, 2, 3, 4]


# Judges refuse what they do not know


def test_judge_refuses_other_pictures(judge, unchecked):
    x, y = digits()
    for bad in (x[:2, :, :4], x[:2] * math.nan, x[:2].flatten(1)):
        for ask in (judge.features, judge.label, judge.confidence, judge.accepted):
            with pytest.raises(ValueError, match=r"x must hold finite images \(N >= 1, 1, 8, 8\)"):
                ask(bad)
    with pytest.raises(ValueError, match="y must hold one whole label for each of the 50 images"):
        Judge(x[:50], y[:49])
    with pytest.raises(ValueError, match="y must hold one whole label"):
        Judge(x[:50], y[:50].float())
    for name in ("components", "neighbours"):
        with pytest.raises(ValueError, match=r"components must lie in 1..50 and neighbours in 1..50"):
            Judge(x[:50], y[:50], **{name: 51})
        with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
            Judge(x[:50], y[:50], **{name: 0})
    assert Judge(x[:50], y[:50], 50, 50).features(x[:1]).shape == (1, 50)


def test_distances_refuse_what_is_no_sample(unchecked):
    a = torch.randn(5, 2)
    for bad in (torch.randn(5, 3), torch.randn(5)):
        with pytest.raises(ValueError, match="rows of as many features"):
            frechet(a, bad)
    with pytest.raises(ValueError, match="a and b must be finite"):
        frechet(a, a * math.inf)
    for bad in (torch.empty(0), a, a[:, 0] * math.nan):
        with pytest.raises(ValueError, match="x must be a sample of at least one finite number"):
            wasserstein(bad, normal)
    with pytest.raises(ValueError, match="cdf must rise from 0 to 1"):
        wasserstein(a[:, 0], lambda x: 0.5 * normal(x))


def test_sentence_judge_refuses_unknown_words_and_inner_padding(unchecked):
    judge, good = SentenceJudge(sentence_rows(), 3, 2), sentence_rows()
    assert judge.nats(good.int()).equal(judge.nats(good))
    for word in (3, 4, 40):  # 3 is the model's own sign for an end
        bad = good.clone()
        bad[0, 1] = word
        for ask in (judge.nats, judge.perplexity, lambda x: SentenceJudge(x, 3)):
            with pytest.raises(ValueError, match=rf"sentences must hold tokens in 0..2, but has {word}"):
                ask(bad)
    inner = torch.tensor([[0, -1, 1]])
    with pytest.raises(ValueError, match="there is PAD before a word"):
        judge.nats(inner)
    with pytest.raises(ValueError, match="but has -2"):
        judge.nats(inner - 1)
    with pytest.raises(TypeError, match="sentences must hold integer tokens, not torch.float32"):
        judge.nats(good.float())
    with pytest.raises(ValueError, match="sentences must be at least 1, not 0"):
        judge.perplexity(good[:0])


def test_divergence_of_ngrams_by_hand():
    """JS(P, Q) in bits: (a, b) at 1/2 each against a alone; equal 0, disjoint 1, symmetric, PAD not counted."""
    a, b = torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0, 0, -1]])
    P, Q = {0: 0.5, 1: 0.5}, {0: 1.0, 1: 0.0}
    M = {k: (P[k] + Q[k]) / 2 for k in P}
    kl = lambda p: sum(v * math.log2(v / M[k]) for k, v in p.items() if v > 0)  # noqa: E731
    assert ngram_divergence(a, b, 1) == pytest.approx((kl(P) + kl(Q)) / 2, abs=1e-12)
    assert ngram_divergence(a, b, 1) == pytest.approx(ngram_divergence(b, a, 1))
    assert ngram_divergence(a, a, 2) == pytest.approx(0, abs=1e-15)
    assert ngram_divergence(a, b, 2) == pytest.approx(1)
    with pytest.raises(ValueError, match="b must hold rows of at least n = 3 tokens"):
        ngram_divergence(torch.tensor([[0, 1, 2]]), b, 3)


def test_text_metrics_take_no_letters_for_words(unchecked):
    strings = ["the cat", "a dog"]
    for measure in (
        lambda s: distinct(s, 1),
        lambda s: copied(s, SAID),
        lambda s: copied(SAID, s),
        bleu_table,
        self_bleu,
        mbr,
    ):
        with pytest.raises(TypeError, match="must be lists of words, not strings: pass"):
            measure(strings)
    with pytest.raises(TypeError, match="lists of words"):
        distinct("the cat", 1)
    for n in (0, -1):
        with pytest.raises(ValueError, match="n must be at least 1"):
            distinct(SAID, n)
