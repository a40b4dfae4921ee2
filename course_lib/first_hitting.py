"""First hitting: positions unmasked one at a time, at exact times (Zheng et al. 2024, arXiv:2409.02908, section 4).

Absorbing noise run backwards in continuous time. With M masks left the next is unmasked when the noise level
1 - alpha_bar has fallen by the factor u^(1/M), u uniform: the largest of M uniform numbers. Each mask is as likely as
another.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .absorbing import Absorbing
from .finite import Watch
from .mask_count import moment, of_noise
from .mdlm import MDLM
from .process import check_together, clamped, evaluating
from .shapes import Mask, Network, PerExample, State, check_count, widest


def first_hitting(
    process: MDLM,
    model: Network,
    n: int,
    clamp: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[PerExample, State]]:
    """Yield (t of each example, x_t), from the prior until no mask is left: at most `length` calls of the network.

    process  MDLM, or SEDD on masks. Raises at the call for another one or n < 1; FloatingPointError for a model that
             says NaN. clamp puts known parts back, as in `sample`.
    """
    check_count("n", n)
    noise = getattr(process, "noise", None)
    if not isinstance(noise, Absorbing) or noise.schedule is None:
        raise ValueError(
            "process must have absorbing noise in continuous time, as MDLM and SEDD on masks have, "
            f"not be {of_noise(process)}"
        )
    if getattr(process, "block", process.length) < process.length:
        raise ValueError(
            "process must have masks that are unmasked in any order, not block by block as in BlockDiffusion: "
            "for that, decoding.Unmask(process, by_blocks(block, random_order))"
        )
    check_together(process, model)
    if clamp is not None:
        process.check_clamp(clamp)
    return _first_hitting(process, model, n, clamp)


def _first_hitting(process, model, n, clamp):
    watch, schedule, mask = Watch(), process.noise.schedule, process.noise.mask
    x = clamped(clamp, process.prior(n))
    t = torch.ones(n, device=x.device)
    log_level = schedule.noise(widest(t)).log()
    yield t, x
    # The one time that a GPU is waited for before the end.
    calls = int((x == mask).sum(1).max())
    for i in range(1, calls + 1):
        watch.step = i
        masks = x == mask
        left = masks.sum(1)
        # log of u^(1/M): the largest of M uniform numbers,
        # which is when the last of M masks was made.
        fallen = torch.rand_like(log_level).log() / left.clamp(min=1)
        # In logs, since after hundreds of tokens the level itself is tiny.
        log_level = log_level + torch.where(left > 0, fallen, 0)
        t = moment(schedule, log_level.exp())
        with torch.no_grad(), evaluating(model), watch:
            x = process.unmask(model, x, t, one_of(masks))
        if i == calls:
            watch.read()
        yield t, x


def one_of(masks: Mask) -> Mask:
    """One mask of each row that has some, all equally likely."""
    # 0 where there is no mask, so the largest is at a mask wherever there is one.
    order = torch.rand(masks.shape, device=masks.device) * masks
    return masks & (order == order.amax(1, keepdim=True))
