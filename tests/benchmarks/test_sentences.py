"""Rounding, selection and steps of the embedding systems, as ratios within one run."""

import random

import pytest
import torch

from course_lib.diffusion_lm import DiffusionLM
from course_lib.embeddings import nearest
from course_lib.nets import Given
from course_lib.process import last, sample
from course_lib.schedules import sqrt, table
from course_lib.text_metrics import mbr
from course_lib.word_nets import MixingNet

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
K, D = 30_522, 128


def finished(result):
    """The result, when the device has it."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return result


def peak(call):
    """MiB that a call takes beyond what is there: of the GPU, or on a CPU of its largest tensor."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        finished(call())
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        call()
    return max(event.cpu_memory_usage for event in seen.events()) / 2**20


def distances(x, e):
    """As Diffusion-LM's and DiffuSeq's code rounds: the whole matrix of squared distances, then the least of each."""
    norms = e.square().sum(1)[:, None]
    far = norms + x.reshape(-1, D).square().sum(1) - 2 * e @ x.reshape(-1, D).T
    return torch.topk(-far.clamp(min=0), 1, dim=0).indices[0].reshape(x.shape[:-1])


@pytest.mark.parametrize("who", ["course_lib", "matrix of distances"])
def test_rounding(benchmark, who):
    x, e = torch.randn(64, 64, D, device=DEVICE), torch.randn(K, D, device=DEVICE)
    call = {"course_lib": nearest, "matrix of distances": distances}[who]
    if who == "course_lib":
        assert call(x[:1], e).equal(distances(x[:1], e))
    benchmark.group = "rounding of 64 x 64 vectors of 128 numbers to 30,522 words"
    benchmark.extra_info["MiB"] = peak(lambda: call(x, e))
    benchmark.pedantic(lambda: finished(call(x, e)), rounds=3, warmup_rounds=1)


def bleu_loop(candidates):
    """Every candidate against every other one, each time from the words on."""
    bleu = pytest.importorskip("nltk.translate.bleu_score", reason="nltk is not installed")
    smooth = bleu.SmoothingFunction().method4
    scores = [
        sum(bleu.sentence_bleu([b], a, smoothing_function=smooth) for b in candidates) for a in candidates
    ]
    return max(range(len(scores)), key=scores.__getitem__)


@pytest.mark.parametrize("who", ["course_lib", "loop over NLTK"])
def test_mbr(benchmark, who):
    g = random.Random(0)
    sets = [
        [[g.choice("abcdefghij") * g.randint(1, 3) for _ in range(25)] for _ in range(10)] for _ in range(100)
    ]
    call = {"course_lib": lambda c: mbr(c)[0], "loop over NLTK": bleu_loop}[who]
    benchmark.group = "MBR of 10 candidates of 25 words for 100 sentences"
    benchmark.pedantic(lambda: [call(c) for c in sets], rounds=2, warmup_rounds=0)


@pytest.mark.parametrize("steps", [50, 2000])
def test_sampling(benchmark, steps):
    """`extra_info` has the sentences per second."""
    A = table(sqrt(), 2000)
    process, model = (
        DiffusionLM(A, 64, 32).to(DEVICE),
        MixingNet(5785, 32, A, 64, 4, 2, normalised=True).to(DEVICE),
    )
    mask = torch.ones(8, 64, dtype=torch.bool, device=DEVICE)
    network = Given(model, mask=mask)
    benchmark.group = "8 sentences of 64 words"
    benchmark.pedantic(lambda: finished(last(sample(process, network, 8, steps))), rounds=1, warmup_rounds=0)
    benchmark.extra_info["sentences per second"] = 8 / benchmark.stats.stats.mean
