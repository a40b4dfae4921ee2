"""What is measured of drawn targets: errors of sounds, BLEU of verses, by candidates, sampler and number of steps."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .. import schedules
from ..autoregressive import Autoregressive
from ..clamping import ClampingTrick
from ..ddim import DDIM
from ..diffuseq import DiffuSeq
from ..dpm_solver import DPMSolver
from ..evaluate import Estimate, jackknife
from ..files import needs
from ..infilling import keep
from ..pairs import targets
from ..process import Process, last, sample
from ..pronunciations import pronunciations
from ..sde import VP
from ..sentences import Pairs, line, written
from ..text_metrics import distinct, mbr, self_bleu
from .run import Recipe, spaced
from .sentence_measures import BEST, renoise, self_conditioned
from .tasks import REVERSAL, SOUNDS, VERSES, Pair, Task, spelled, translated

CANDIDATES = (1, 3, 5, 10)


STEPS = (10, 20, 50, 200, 1000)


# Steps where their number is not the question: of short targets, of verses.
FAST, MANY = 20, 50


class Misaligned(DDIM):
    """The released DDIM for fewer than T steps: it visits the right times, but each update is one to t - 1."""

    def step(self, model, x, t, s):
        return super().step(model, x, t, t - 1)


def way(name: str, process: DiffuSeq) -> Process:
    """A sampler for vectors of a process."""
    A, shape = process.alpha_bar, (process.length, process.width)
    makers = {
        "ancestral": lambda: process,
        "DDIM": lambda: DDIM(A, shape, eta=0.0, predicts="x0"),
        "DDIM, misaligned": lambda: Misaligned(A, shape, eta=0.0, predicts="x0"),
        "DPM-Solver++": lambda: DPMSolver(VP(schedules.sqrt(), shape, predicts="x0")),
        BEST: lambda: renoise(process),
    }
    return makers[name]().to(process.device)


def parts(data: Pairs, size: int = 500) -> Iterator[tuple[Tensor, Pairs]]:
    """The rows from long to short, so many at a time and cut to the longest of these, and where they were."""
    lengths = written(data.tokens).sum(1)
    # Like lengths together: a row cut to its own length costs no work on padding.
    for some in lengths.argsort(descending=True).split(size):
        yield some, data[some].cut(int(lengths[some].max()))


@torch.no_grad()
def draw_targets(
    task: Task,
    model: nn.Module,
    data: Pairs,
    steps: int,
    name: str = "ancestral",
    change=self_conditioned,
) -> list[list[str]]:
    """A target for the source of each row, by diffusion; change(model, mask, target) is the network that samples."""
    out, device = data.tokens.clone(), next(model.parameters()).device
    for where, some in parts(data.to(device)):
        # A process of the length of these rows, and the same tables.
        process = task.process(some.tokens.shape[1]).to(device)
        mask = written(some.tokens)
        network, clamp = change(model, mask, some.target), process.anchor(model, some)
        x = last(sample(way(name, process), network, len(some), steps, clamp))[1]
        out[where.cpu(), : mask.shape[1]] = process.decode(network, x).cpu()
    return targets(out, data.target, task.vocabulary)


def rounded_network(*given) -> ClampingTrick:
    """A network that recalls, each estimate rounded."""
    return ClampingTrick(self_conditioned(*given))


@torch.no_grad()
def write(
    task: Task, model: nn.Module, data: Pairs, temperature: float = 0.0
) -> list[list[str]]:
    """A target for the source of each row, one token after the other; rows are not interleaved."""
    out, device = data.tokens.clone(), next(model.parameters()).device
    for where, some in parts(data.to(device)):
        process = Autoregressive(
            len(task.vocabulary), some.tokens.shape[1], temperature
        ).to(device)
        source = (~some.target).cumprod(1).bool()  # what stands before the target
        # PAD is -1, no token. It stands behind the source, where nothing is kept.
        clamp = keep(source, some.tokens.clamp(min=0))
        x = last(sample(process, model, len(some), process.length, clamp))[1]
        out[where.cpu(), : some.tokens.shape[1]] = x.cpu()
    return targets(out, data.target, task.vocabulary)


@torch.no_grad()
def per_target(
    process: Process, model: nn.Module, data: Pairs, repeats: int = 1
) -> Estimate:
    """The bound on -log p(y | x) in nats per target."""
    total = torch.zeros(len(data), dtype=torch.float64)
    for _ in range(repeats):
        for where, some in parts(data, 200):
            total[where] += (
                process.bound(model, some, process.sample_t(len(some))).cpu() / repeats
            )
    return Estimate(total.mean().item(), (total.std() / len(total) ** 0.5).item())


def errors(
    said: Sequence[Sequence[str]], right: Sequence[Sequence[Sequence[str]]]
) -> dict:
    """Word error rate, and phones wrong, missing or too many per phone of the nearest pronunciation of each word."""
    distance = needs("rapidfuzz.distance.Levenshtein", "rapidfuzz").distance
    best = [
        # Of equally near ones the shortest, by the second number.
        min((distance(y, ref), len(ref)) for ref in refs)
        for y, refs in zip(said, right, strict=True)
    ]
    wrong, phones = sum(d > 0 for d, _ in best), sum(n for _, n in best)
    return {"wer": wrong / len(best), "per": sum(d for d, _ in best) / phones}


def spellings(
    n: int, split: str = "test"
) -> tuple[list[Pair], list[list[tuple[str, ...]]], int]:
    """n words evenly from the split, as pairs without targets, all ways to say each, and how many were too long."""
    every = pronunciations(split)
    kept = {word: ways for word, ways in every.items() if len(word) <= SOUNDS.longest}
    chosen = [list(kept)[i] for i in spaced(len(kept), n)]
    return (
        [(tuple(word), ()) for word in chosen],
        [kept[w] for w in chosen],
        len(every) - len(kept),
    )


def grids(far: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    """Numbers of steps by sampler; the last, which takes long, only for those named."""
    names = ("ancestral", "DDIM", "DDIM, misaligned", "DPM-Solver++", BEST)
    return {name: STEPS if name in far else STEPS[:-1] for name in names}


def chosen(sets: Sequence[Sequence[Sequence[str]]]) -> list[Sequence[str]]:
    """Of each set of candidates the one with the least risk."""
    return [candidates[mbr(candidates)[0]] for candidates in sets]


def by_candidates(
    draws: Sequence[Sequence[Sequence[str]]], score: Callable[[list], dict]
) -> dict:
    """The score of MBR with the first 1, 3, 5, 10 draws; draws are lists of all targets."""
    sets = list(zip(*draws, strict=True))
    return {
        n: score(chosen([s[:n] for s in sets])) for n in CANDIDATES if n <= len(draws)
    }


def measure_sounds(
    recipe: Recipe, model: nn.Module, n: int = 2000, few: int = 100
) -> dict:
    """Errors by number of candidates, by sampler and number of steps, and the bound in nats per word."""
    # The order of what follows is the order of random draws: new measures go last, or
    # the numbers in assets/ cannot be made again.
    torch.manual_seed(recipe.seed)
    pairs, right, too_long = spellings(n)
    # By number of steps on fewer words: up to 200 calls, five samplers.
    data, some = SOUNDS.rows(pairs), slice(0, n, n // few)
    start = time.perf_counter()
    draws = [
        draw_targets(SOUNDS, model, data, FAST, BEST) for _ in range(CANDIDATES[-1])
    ]
    seconds = (time.perf_counter() - start) / n / len(draws)
    # Three candidates of the sampler of the bound, so that MBR is not BEST's alone.
    others = [draw_targets(SOUNDS, model, data, FAST) for _ in range(CANDIDATES[1])]
    samplers = {
        name: {
            steps: errors(
                draw_targets(SOUNDS, model, data[some], steps, name), right[some]
            )
            for steps in grid
        }
        for name, grid in grids().items()
    }
    # The paper's clamping trick, under the ancestral sampler that it is meant for.
    rounded = draw_targets(SOUNDS, model, data, FAST, change=rounded_network)
    test = SOUNDS.data("test")[0]
    return {
        "words": n,
        "words_by_steps": len(right[some]),
        "too_long": {
            "train": len(spelled("train")) - len(SOUNDS.pairs()),
            "test": too_long,
        },
        "steps": FAST,
        "sampler": BEST,
        "candidates": by_candidates(draws, lambda said: errors(said, right)),
        "candidates_ancestral": by_candidates(others, lambda said: errors(said, right)),
        "samplers": samplers,
        "rounded": errors(rounded, right),
        "same_every_time": sum(
            len(set(map(tuple, s))) == 1 for s in zip(*draws, strict=True)
        )
        / n,
        "bound": per_target(SOUNDS.process(), model, test, 2)._asdict(),
        "seconds_per_word": seconds,
        "samples": {
            "".join(x): [" ".join(y[i]) for y in draws[:3]]
            for i, (x, _) in enumerate(pairs[:12])
        },
    }


def measure_writer(recipe: Recipe, model: nn.Module, n: int = 2000) -> dict:
    """The same of the autoregressive network: its likeliest phones, and MBR of its draws."""
    torch.manual_seed(recipe.seed)
    pairs, right, _ = spellings(n)
    data = SOUNDS.rows(pairs, interleaved=False)
    draws = [write(SOUNDS, model, data, 1.0) for _ in range(CANDIDATES[-1])]
    test = SOUNDS.data("test", interleaved=False)[0]
    return {
        "words": n,
        "greedy": errors(write(SOUNDS, model, data), right),
        "candidates": by_candidates(draws, lambda said: errors(said, right)),
        "nll": per_target(recipe.process(), model, test)._asdict(),
    }


def measure_verses(
    recipe: Recipe, model: nn.Module, n: int = 200, few: int = 40
) -> dict:
    """BLEU by number of candidates and by sampler and number of steps, beside that of copying the source."""
    torch.manual_seed(recipe.seed)
    every = translated("test")
    pairs = [every[i] for i in spaced(len(every), n)]
    # Longer than any row in training: in pieces, which are joined again.
    pieces = [cut(x, VERSES.longest) for x, _ in pairs]
    right, some = [y for _, y in pairs], slice(0, n, n // few)

    def translate(
        where: slice, steps: int, name: str = BEST, change=self_conditioned
    ) -> list[list[str]]:
        """Verses in one piece or in several."""
        data = VERSES.rows([(x, ()) for p in pieces[where] for x in p])
        made = draw_targets(VERSES, model, data, steps, name, change)
        return joined(pieces[where], made)

    start = time.perf_counter()
    draws = [translate(slice(n), MANY) for _ in range(CANDIDATES[-1])]
    seconds = (time.perf_counter() - start) / n / len(draws)
    others = [translate(slice(n), FAST, "ancestral") for _ in range(CANDIDATES[1])]
    samplers = {
        name: {
            steps: {"bleu": bleu(translate(some, steps, name), right[some])}
            for steps in grid
        }
        # To the end for these two only: 1,000 steps are 20 times as long as 50.
        for name, grid in grids(("DDIM", BEST)).items()
    }
    rounded = translate(slice(n), FAST, "ancestral", rounded_network)
    one, best = draws[0], chosen(list(zip(*draws, strict=True)))
    test, known = VERSES.data("test")
    return {
        "verses": n,
        "verses_by_steps": len(right[some]),
        "in_pieces": sum(len(p) > 1 for p in pieces),
        "too_long": {
            "train": len(translated("train")) - len(VERSES.pairs()),
            "test": len(every) - len(known),
        },
        "unknown": (test.tokens[test.target] == 0).double().mean().item(),
        "sampler": BEST,
        "steps": MANY,
        "copy": bleu([x for x, _ in pairs], right),
        "copy_se": bleu_error([x for x, _ in pairs], right),
        "candidates": by_candidates(draws, lambda said: translation(said, right)),
        "candidates_ancestral": by_candidates(
            others, lambda said: translation(said, right)
        ),
        # Without the BLEU of a text with itself, which is 100.
        "real": {k: v for k, v in translation(right, right).items() if k[:4] != "bleu"},
        "samplers": samplers,
        "rounded": bleu(rounded, right),
        "among_candidates": sum(self_bleu(s) for s in zip(*draws, strict=True)) / n,
        "bound": per_target(VERSES.process(), model, test)._asdict(),
        "words_per_target": (test.target.sum() / len(test)).item(),
        "seconds_per_verse": seconds,
        "samples": [
            {
                "source": line(x),
                "target": line(y),
                "drawn": line(one[i]),
                "chosen": line(best[i]),
            }
            for i, (x, y) in enumerate(pairs[:8])
        ],
    }


def measure_translator(recipe: Recipe, model: nn.Module, n: int = 200) -> dict:
    """The same of the autoregressive network: its likeliest words, and MBR of its draws."""
    torch.manual_seed(recipe.seed)
    every = translated("test")
    pairs = [every[i] for i in spaced(len(every), n)]
    pieces, right = [cut(x, VERSES.longest) for x, _ in pairs], [y for _, y in pairs]
    data = VERSES.rows([(x, ()) for p in pieces for x in p], interleaved=False)

    def translate(temperature: float) -> list[list[str]]:
        """Verses in one piece or in several."""
        return joined(pieces, write(VERSES, model, data, temperature))

    # Greedy is what translation systems report; MBR of draws is what chapter 5 does.
    greedy, draws = translate(0.0), [translate(1.0) for _ in range(CANDIDATES[-1])]
    test = VERSES.data("test", interleaved=False)[0]
    return {
        "verses": n,
        "copy": bleu([x for x, _ in pairs], right),
        "copy_se": bleu_error([x for x, _ in pairs], right),
        "greedy": translation(greedy, right),
        "candidates": by_candidates(draws, lambda said: translation(said, right)),
        "nll": per_target(recipe.process(), model, test)._asdict(),
        "samples": [
            {"source": line(x), "target": line(y), "likeliest": line(said)}
            for (x, y), said in zip(pairs[:8], greedy, strict=False)
        ],
    }


def joined(
    pieces: Sequence[Sequence[Sequence[str]]], made: Iterable[Sequence[str]]
) -> list[list[str]]:
    """One target for each source, put together from those of its pieces."""
    following = iter(made)
    return [[w for _ in parts for w in next(following)] for parts in pieces]


def translation(said: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict:
    """BLEU and its error; how varied: shares of distinct words and pairs of words, BLEU of verses to each other."""
    varied = {
        "distinct1": distinct(said, 1),
        "distinct2": distinct(said, 2),
        # Each with each of the others: its cost grows with the square.
        "self_bleu": self_bleu(said[:100]),
    }
    return {"bleu": bleu(said, right), "bleu_se": bleu_error(said, right)} | varied


def bleu(said: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
    """sacrebleu's corpus BLEU on lower-case words and marks, as they are."""
    score = (
        needs("sacrebleu.metrics", "sacrebleu")
        # Cut into words already; force, since sacrebleu warns of just that.
        .BLEU(tokenize="none", force=True)
        .corpus_score
    )
    return score([" ".join(y) for y in said], [[" ".join(y) for y in right]]).score


def bleu_without(
    said: Sequence[Sequence[str]], right: Sequence[Sequence[str]], groups: int = 20
) -> list[float]:
    """BLEU without every groups-th verse, from each of the first ones on: what `jackknife` needs."""
    count, out = min(groups, len(said)), []
    for i in range(count):
        kept = [k for k in range(len(said)) if k % count != i]
        out.append(bleu([said[k] for k in kept], [right[k] for k in kept]))
    return out


def bleu_error(said: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
    """Standard error of BLEU over verses, by the jackknife."""
    return jackknife(bleu_without(said, right))


def cut(words: Sequence[str], longest: int) -> list[Sequence[str]]:
    """A source in pieces of at most so many words: cut after its last mark that leaves one, else anywhere."""
    if len(words) <= longest:
        return [words]
    marks = [i + 1 for i, w in enumerate(words[:longest]) if not w[-1].isalnum()]
    # The last mark: as few pieces as there can be.
    at = marks[-1] if marks else longest
    return [words[:at], *cut(words[at:], longest)]


def measure_reversal(recipe: Recipe, model: nn.Module, n: int = 1000) -> dict:
    """Share of the rows of the test split that are turned without a mistake."""
    torch.manual_seed(recipe.seed)
    data, pairs = REVERSAL.data("test")
    said = draw_targets(REVERSAL, model, data[:n], FAST)
    return {
        "exact": sum(y == right for y, (_, right) in zip(said, pairs, strict=False))
        / len(said),
        "steps": FAST,
    }
