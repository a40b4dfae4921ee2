"""The number that separates a wrong answer from the right one: a factor or a difference, with its name."""

import torch
from torch import Tensor

from .compare import TOL, Pair
from .quantities import name_of, tensor


def ratio(got: Tensor, want: Tensor) -> Tensor | None:
    """got / want, if it is one number (a scalar), or one for each entry of the first axis; NaN where want is 0."""
    zero = want.abs() <= 1e-9 * want.abs().max().clamp(min=1e-30)
    if zero.all() or (got.abs() > TOL)[zero].any() or not got.isfinite().all():
        return None
    r = torch.where(zero, torch.nan, got / want)
    for whole in (
        r.flatten(),
        r.flatten(1) if r.ndim > 1 else r[:, None] if r.ndim else None,
    ):
        if whole is None:
            return None
        low = whole.nan_to_num(torch.inf).amin(-1)
        high = whole.nan_to_num(-torch.inf).amax(-1)
        seen = low <= high
        if ((high - low).abs()[seen] <= 2e-4 * high.abs()[seen]).all():
            return torch.where(seen, (low + high) / 2, torch.nan)
    return None


def enough(pairs: list[Pair], least: int = 2) -> bool:
    """True when the wanted values are at least so many different ones, not counting 0."""
    values = torch.cat([tensor(p.want).flatten() for p in pairs] or [torch.zeros(0)])
    return len(values[values != 0].round(decimals=9).unique()) >= least


def factor(pairs: list[Pair]) -> tuple[str, bool] | None:
    """The factor that separates got from want, and whether it has a name or one value: "K = 5 times", "-1"."""
    # 0 is 0 times anything.
    pairs = [p for p in pairs if tensor(p.want).any() or tensor(p.got).any()]
    if not pairs or not enough(pairs):
        return None
    ratios = [ratio(tensor(p.got), tensor(p.want)) for p in pairs]
    if any(r is None for r in ratios):
        return None
    flat = torch.cat([r.flatten() for r in ratios])
    flat = flat[~flat.isnan()]
    if ((flat - 1).abs() <= 2e-4).all():
        return None
    if ((flat + 1).abs() <= 2e-4).all():
        return "-1", True
    if (flat == 0).all():
        return "0", True
    minus = "minus " if (flat < 0).all() else ""
    name = name_of(
        [r.abs() for r in ratios] if minus else ratios, [p.factors for p in pairs]
    )
    one = bool((flat - flat[0]).abs().max() <= 2e-4 * flat[0].abs())
    number = f"{abs(flat[0].item()):.4g}"
    if name and one and name != number:
        return f"{minus}{name} = {number} times", True
    if name or one:
        return f"{minus}{name or number} times", True
    if all(r.ndim == 0 for r in ratios) and len(enough_entries(pairs)) == len(pairs):
        return ", ".join(f"{r.item():.4g}" for r in ratios[:3]), False
    return None


def times(pairs: list[Pair]) -> str | None:
    """The sentence of a factor that has a name, or is the same in all cases."""
    found = factor(pairs)
    if found is None or not found[1]:
        return None
    text = found[0]
    if text == "-1":
        return "your answer has the wrong sign: otherwise it is right"
    if text == "0":
        return "your answer is 0 everywhere"
    return f"your answer is {text} what is expected, everywhere: where does this factor come from?"


def multiple(pairs: list[Pair]) -> str | None:
    """The sentence of a factor that is one number in all cases."""
    text = times(pairs)
    # No quantities of the case to name it after.
    plain = [Pair(p.got, p.want) for p in pairs]
    return text if text and times(plain) else None


def common(pairs: list[Pair]) -> str | None:
    """The sentence of a factor that differs from case to case, and is one for all entries of each."""
    found = factor(pairs)
    if found is None or found[1]:
        return None
    return (
        f"within each case your answer is off by one factor ({found[0]} in the cases tried): "
        "which factor do all its entries share?"
    )


def amount(pairs: list[Pair]) -> str | None:
    """How large one argument's part is: "is K = 5 times too large", "has the wrong sign"."""
    found = factor(pairs)
    if found is None or not found[1]:
        return None
    if found[0] == "-1":
        return "has the wrong sign"
    return (
        "has no part in it" if found[0] == "0" else f"is {found[0]} what it should be"
    )


def enough_entries(pairs: list[Pair]) -> list[Pair]:
    """The cases that have two different values or more themselves."""
    return [p for p in pairs if enough([p])]


def difference(pairs: list[Pair]) -> str | None:
    """The constant that separates got from want, with its name."""
    if not enough(pairs):
        return None
    gaps = [tensor(p.got) - tensor(p.want) for p in pairs]
    if any(
        not g.isfinite().all() or (g - g.mean()).abs().max() > 2e-4 * g.mean().abs()
        for g in gaps
    ):
        return None
    means = torch.stack([g.mean() for g in gaps])
    one = (means - means[0]).abs().max() <= 2e-4 * means[0].abs()
    if one and abs(abs(means[0].item()) - 1) < 1e-4:
        return (
            f"your answer is 1 too {'large' if means[0] > 0 else 'small'}, everywhere"
        )
    name = (
        name_of([m.abs() for m in means], [p.factors for p in pairs])
        if (means > 0).all() or (means < 0).all()
        else None
    )
    more = "large" if means[0] > 0 else "small"
    if name:
        return (
            f"your answer is too {more} by {name}, everywhere: a term of this size is "
            f"{'too much' if means[0] > 0 else 'missing'}"
        )
    if one:
        return f"your answer is too {more} by {abs(means[0].item()):.4g}, everywhere: which constant is that?"
    return None
