"""Gaps filled and errors mended, by each kind of network, on texts of the test split: what chapter 8 compares."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..autoregressive import Autoregressive
from ..categorical import draw
from ..d3pm import D3PM
from ..data import decode
from ..evaluate import Estimate, estimate, ratio
from ..infilling import keep
from ..nets import Given
from ..ngram import NGram
from ..process import last, sample
from ..sentences import PAD, up_to, written
from ..shapes import Tokens
from ..tokens import TokenProcess
from ..transformer import KVCache
from . import d3pm, sedd
from . import words as on_words
from .d3pm import LENGTH, K
from .run import Recipe, found, shipped
from .sentence_measures import lines, middle
from .verse_rows import size

DRAFTS, BEAM = 16, 8
# In the middle of 128: 52 letters are known on either side.
GAP = slice(52, 76)
WRONG = 0.1  # share of the letters that are drawn again, to be mended


def there(recipe: Recipe) -> bool:
    """Whether its weights are."""
    return (found(recipe) / f"{recipe.name}.safetensors").is_file()


def said(value: Estimate) -> dict:
    """As JSON."""
    return {"mean": value.mean, "se": value.se}


# Gaps


def filled_letters(device: str, real: Tokens, judge: NGram) -> dict:
    """24 letters in the middle filled in: share right, and the judge's bits over gap and seam, of each way."""
    ways = {
        "masks": gap_by_masks(device, real),
        "autoregression, left side only": gap_by_writer(device, real, 1),
        f"autoregression, {DRAFTS} drafts": gap_by_writer(device, real, DRAFTS),
        "the text itself": real,
    }
    out = {}
    for name, x in ways.items():
        right = (x == real)[:, GAP].double().mean(1)
        # 4 letters beyond the gap, since a 5-gram model still reads into it from there.
        seam = -judge.log_prob(x)[:, GAP.start : GAP.stop + 4].mean(1) / math.log(2)
        out[name] = {
            "right": said(estimate(right)),
            "judged_bits": said(estimate(seam)),
            "filled": [decode(row[40:88]) for row in x[:3]],
        }
    return out


def gap_by_masks(device: str, real: Tokens, calls: int = 64) -> Tokens:
    """MDLM, given both sides."""
    torch.manual_seed(0)
    known = torch.ones_like(real, dtype=torch.bool)
    known[:, GAP] = False
    process, model = sedd.mdlm_process().to(device), shipped(sedd.mdlm, device)
    clamp = keep(known.to(device), real.to(device))
    return last(sample(process, model, len(real), calls, clamp))[1].cpu()


def gap_by_writer(device: str, real: Tokens, drafts: int) -> Tokens:
    """Drafts of the gap from the left side; one of them, in proportion to p(right side | left side, draft)."""
    torch.manual_seed(0)
    model, n = shipped(d3pm.ar, device), len(real)
    # To the end of the gap only: what stands after it can be weighed, not asked for.
    process = Autoregressive(K, GAP.stop).to(device)
    many = real.repeat_interleave(drafts, 0)
    known = torch.arange(GAP.stop).expand(len(many), -1) < GAP.start
    clamp = keep(known.to(device), many[:, : GAP.stop].to(device))
    x = last(sample(process, model, len(many), GAP.stop, clamp))[1].cpu()
    whole = torch.cat([x, many[:, GAP.stop :]], 1)
    if drafts == 1:
        return whole
    scorer = Autoregressive(K, LENGTH).to(device)
    with torch.no_grad():
        each = torch.cat(
            [scorer.each(model, x.to(device))[0].cpu() for x in whole.split(256)]
        )
    # Drafts come from p(draft | left), so p(right | left, draft) is their weight in
    # p(draft | left, right): importance resampling.
    weight = -each[:, GAP.stop :].double().sum(1).reshape(n, drafts)
    chosen = draw(weight.softmax(1))
    return whole.reshape(n, drafts, -1)[torch.arange(n), chosen]


# Errors


def mended(device: str, real: Tokens) -> dict:
    """A tenth of the letters drawn again, nobody says which: errors before, and after each system's best guess."""
    torch.manual_seed(0)
    again = torch.rand(real.shape) < WRONG
    # A letter drawn again may be the same one: WRONG (1 - 1/K) of all are errors, and
    # `channel` says the same.
    x = torch.where(again, torch.randint(K, real.shape), real)
    ways = {
        "left as it is": x,
        "D3PM, random letters, 1 call": mended_at_once(device, x),
        "masks, 8 calls": mended_by_masks(device, x),
        "autoregression, 128 calls": mended_by_writer(device, x, 1),
        f"autoregression, beam of {BEAM}": mended_by_writer(device, x, BEAM),
    }
    return {
        name: {
            "wrong": said(estimate((y != real).double().mean(1))),
            "text": decode(y[0, :64]),
        }
        for name, y in ways.items()
    }


def channel(x: Tokens) -> Float[Tensor, "B L K"]:
    """p(letter read | letter meant), as a function of what was meant."""
    return (1 - WRONG) * nn.functional.one_hot(x, K).double() + WRONG / K


@torch.no_grad()
def mended_at_once(device: str, x: Tokens) -> Tokens:
    """The likeliest letter of p(x_0 | x_t), by the network of random letters at the time of this noise."""
    process: D3PM = d3pm.uniform.process().to(device)
    model = shipped(d3pm.uniform, device).eval()
    # The time at which the process itself keeps as many letters as this channel, so
    # that its posterior is the one that is asked for.
    level = (process.noise.log_alpha_bar.cpu() - math.log(1 - WRONG)).abs()
    t = level.argmin().expand(len(x)).to(device)
    x = x.to(device)
    log_p = process.convert(process.ask(model, x, t), x, t, "posterior")
    return log_p.argmax(-1).cpu()


@torch.no_grad()
def mended_by_masks(device: str, x: Tokens, stride: int = 8) -> Tokens:
    """Every 8th letter masked at once: p(letter | the others) times the channel."""
    process: TokenProcess = sedd.mdlm_process().to(device)
    model, out = shipped(sedd.mdlm, device).eval(), x.clone()
    # The log-linear clock has a share of masks of nearly t at t.
    t = torch.full((len(x),), 1 / stride, device=device)
    for first in range(stride):
        hidden = x.clone()
        hidden[:, first::stride] = process.noise.mask
        p = process.ask(model, hidden.to(device), t).softmax(-1).cpu().double()
        best = (p * channel(x)).argmax(-1)
        out[:, first::stride] = best[:, first::stride]
    return out


@torch.no_grad()
def mended_by_writer(device: str, x: Tokens, beam: int) -> Tokens:
    """From left to right: the likeliest of p(text) times the channel, as far as so many beginnings can tell."""
    process, model = d3pm.ar.process().to(device), shipped(d3pm.ar, device).eval()
    n, length = x.shape
    rows, cache = x.repeat_interleave(beam, 0).to(device), KVCache(length)
    t = torch.zeros(n * beam, dtype=torch.long, device=device)
    # All beginnings are equal at first: one of them counts.
    score = torch.full((n, beam), -math.inf, dtype=torch.float64)
    score[:, 0] = 0.0
    for i in range(length):
        logits = process.ask(model, rows[:, : i + 1], t, cache)[:, -1]
        log_p = logits.log_softmax(-1).cpu().double().reshape(n, beam, K)
        every = score[..., None] + log_p + channel(x)[:, i].log()[:, None]
        score, best = every.flatten(1).topk(beam, dim=1)
        parent = (best // K + beam * torch.arange(n)[:, None]).flatten().to(device)
        rows = rows[parent]
        rows[:, i] = (best % K).flatten().to(device)
        # A beginning that goes on takes its parent's keys and values with it.
        cache.kept = {b: kv.index_select(1, parent) for b, kv in cache.kept.items()}
    return rows[::beam].cpu()


# Gaps of words


def filled_words(device: str, real: Tokens) -> dict:
    """The middle third filled in by the networks that are there: share of words right."""
    mask = written(real)
    hole, out = middle(mask), {}
    if there(on_words.masked):
        torch.manual_seed(0)
        process = on_words.masked.process().to(device)
        model = Given(shipped(on_words.masked, device), mask=mask.to(device))
        clamp = keep(~hole.to(device), real.clamp(min=0).to(device))
        out["masks"] = last(sample(process, model, len(real), 64, clamp))[1].cpu()
    if there(on_words.ar):
        for drafts in (1, DRAFTS):
            name = "left side only" if drafts == 1 else f"{drafts} drafts"
            way = f"autoregression, {name}"
            out[way] = words_by_drafts(device, real, hole, drafts)
    return {
        name: {
            "right": said(ratio(((x == real) & hole).sum(1), hole.sum(1))),
            "filled": lines(torch.where(mask, x, PAD), 3),
        }
        for name, x in out.items()
    }


@torch.no_grad()
def words_by_drafts(device: str, real: Tokens, hole: Tensor, drafts: int) -> Tokens:
    """Each verse's gap written from its left side, `drafts` times; one kept by p(what follows | left side, draft)."""
    model = shipped(on_words.ar, device).eval()
    process = on_words.ar.process().to(device)
    torch.manual_seed(0)
    chosen = []
    for row, gap in zip(real, hole, strict=True):
        length = int(written(row[None]).sum())
        first, end = int(gap.int().argmax()), int(gap.nonzero().max()) + 1
        x = torch.full((drafts, process.length), PAD)
        x[:, :length], x[:, length] = row[:length], size()
        cache = KVCache(process.length)
        t = torch.zeros(drafts, dtype=torch.long, device=device)
        for i in range(first, end):
            asked = x[:, : i + 1].to(device)
            logits = process.ask(model, asked, t, cache)[:, -1].cpu().double()
            logits[:, size()] = -math.inf  # the gap has its length
            x[:, i] = draw(logits.softmax(-1))
        after = process.each(model, x.to(device))[0].cpu().double()[:, end:].sum(1)
        kept = x[int(draw((-after).softmax(0)))]
        chosen.append(
            torch.where(
                up_to(torch.tensor([length]), len(row))[0], kept[: len(row)], PAD
            )
        )
    return torch.stack(chosen)
