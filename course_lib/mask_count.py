"""The number of masks as the time: the same bound and loss of a masked process, with far less variance.

At time t each token is a mask with probability 1 - alpha(t), so their number M is binomial, and what a mask costs is
weighed by w(t): p(a token at t - 1 | MASK at t) in D3PM, -alpha' / (1 - alpha) in MDLM and SEDD. First n, then t
given n:

    sum over t of w(t) E[cost | M] P(M at t)  =  sum over n = 1..length of w(n) E[cost | n masks],

w(n) = sum_t w(t) P(M = n at t), which tends to 1 / n; given n the time has the law w(t) P(M = n at t) / w(n).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .absorbing import Absorbing
from .categorical import draw
from .finite import settled
from .process import Process
from .schedules import Schedule, Tables, bisect
from .sentences import PAD
from .shapes import Network, PerExample, Times, Tokens, check_count, describe, widest
from .tokens import FIRST, tokens_in
from .wrapper import Wrapper


class MaskCount(Wrapper):
    """A masked process (MaskedD3PM, MDLM, SEDD on masks) whose training times are the numbers of masks 1..length.

    n is stratified like any time, exactly n tokens are masked, and the network is told a time from its law given n.
    For `evaluate.bound(MaskCount(process), model, data)`, or for training. Sampling is that of the process inside.
    Rows must have all `length` tokens: ValueError for data with PAD, whose rows have fewer.
    """

    def __init__(self, process: Process):
        super().__init__(process)
        noise = getattr(process, "noise", None)
        if not isinstance(noise, Absorbing) or not hasattr(process, "mask_cost"):
            raise ValueError(
                f"process must be MaskedD3PM, MDLM or SEDD on absorbing noise, not {of_noise(process)}"
            )
        self.T = process.length
        by_step = isinstance(noise.T, int)
        self.law = (
            StepsGivenCount(noise, self.T)
            if by_step
            else TimesGivenCount(noise, self.T)
        )

    @property
    def weight(self) -> Float[Tensor, " L_plus_1"]:
        """w(n), n = 0..length."""
        return self.law.weight

    def sample_t(self, n: int) -> Times:
        """n numbers of masks, stratified over 1..length."""
        return Process.sample_t(self, n)

    def check_times(self, times: Tensor) -> Times:
        """Times to sample at are those of the process inside."""
        return self.process.check_times(times)

    def corrupt(self, x0: Tokens, t: Times) -> Tokens:
        """x_0 with t of its tokens masked, all choices equally likely."""
        x0 = self.check_whole(x0)
        self.check_t("t", t, len(x0))
        # The rank of each place in a random order; the t lowest are masked.
        turn = torch.rand(x0.shape, device=x0.device).argsort(1).argsort(1)
        return torch.where(turn < t[:, None], self.process.noise.mask, x0)

    def loss(self, model: Network, data: Tokens, t: Times) -> PerExample:
        """w(n) x cost of the masks at one draw of them: nats per token, prior and reconstruction left out."""
        return self.loss_at(model, data, self.corrupt(data, t), t)

    def loss_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """The same at this x_t, which has t masks. ValueError for ce_weight > 0, whose times have another law."""
        if getattr(self.process, "ce_weight", 0):
            raise ValueError(
                f"process must have ce_weight = 0 to train by numbers of masks, not {self.process.ce_weight}"
            )
        return (self.diffusion_term_at(model, x0, x_t, t) / self.T).float()

    def bound(self, model: Network, data: Tokens, t: Times) -> PerExample:
        """Nats per sequence, float64: its mean over n = 1..length is the mean of process.bound over its times."""
        return self.bound_at(model, data, self.corrupt(data, t), t)

    def bound_at(self, model: Network, x0: Tokens, x_t: Tokens, t: Times) -> PerExample:
        """The same at this x_t, which has t masks."""
        diffusion = self.diffusion_term_at(model, x0, x_t, t)
        return (
            diffusion
            + self.process.prior_term(x0)
            + self.process.reconstruction_term(model, x0)
        )

    def diffusion_term(self, model: Network, x0: Tokens, t: Times) -> PerExample:
        """The bound without prior and reconstruction, at one draw of the masks."""
        return self.diffusion_term_at(model, x0, self.corrupt(x0, t), t)

    def diffusion_term_at(
        self, model: Network, x0: Tokens, x_t: Tokens, t: Times
    ) -> PerExample:
        """length x w(n) x cost of the masks: nats per sequence, float64."""
        x0 = self.check_whole(x0)
        x_t = self.process.check_state("x_t", x_t, self.process.noise.K)
        self.check_t("t", t, len(x0), first=1)
        # The time does not matter to the cost but through
        # the network, which is told one that fits.
        cost = self.process.mask_cost(model, x0, x_t, self.law.told(t))
        # n is even on 1..length, and the sum is over n: hence the factor length.
        return self.T * self.weight[t] * cost.sum(1)

    def around(self, process: Process) -> "MaskCount":
        """A copy around another process; the law of times given counts is worked out anew."""
        return MaskCount(process)

    def check_whole(self, x0: Tensor) -> Tokens:
        """x_0 in int64, or an error: tokens at all places."""
        x0 = self.process.check_state("x0", x0, self.process.noise.V, padded=True)
        if not settled("x0", (x0 != PAD).all(1), "without PAD under MaskCount"):
            short = int(tokens_in(x0).min())
            raise ValueError(
                f"x0 must have {self.T} tokens in each row, but one has {short}: what a number of masks says of the "
                "time depends on how many tokens there are. Take the process itself, without MaskCount"
            )
        return x0


class StepsGivenCount(Tables):
    """n masks and the step t = 1..T: joint[n, t - 1] = unmasking_probability(t - 1, t) P(M = n at t)."""

    def __init__(self, noise: Absorbing, length: int):
        super().__init__()
        check_count("length", length)
        t = torch.arange(1, noise.T + 1, device=noise.device)
        chance = binomial(noise.log_alpha(t), length).exp()  # (T, L + 1)
        joint = noise.unmasking_probability(t - 1, t)[:, None] * chance
        self.register_buffer("weight", joint.sum(0))
        self.register_buffer("joint", joint.T.contiguous())

    def told(self, n: Times) -> Times:
        """A time, from its law given n masks."""
        return draw(self.joint[n]) + 1


class TimesGivenCount(Tables):
    """n masks and the time in (0, 1], whose noise level 1 - alpha(t) has the law Beta(n, L - n + 1) given n.

    The levels run from `lost[0]`, just after time 0, to `lost[1]`, at 1; w(n) = P(the level lies among them) / n.
    """

    def __init__(self, noise: Absorbing, length: int):
        super().__init__()
        check_count("length", length)
        self.schedule: Schedule = noise.schedule
        ends = torch.tensor([FIRST, 1.0], device=noise.device)
        if self.schedule.is_learned(ends):
            raise ValueError(
                "process must have a clock that is not learned: MaskCount works out its tables once"
            )
        log_alpha = noise.log_alpha(ends)
        # P(Beta(n, L - n + 1) < level) = P(at least n of L uniform numbers are below it) = P(M >= n)
        # Summed from the far end, where the numbers are smallest.
        at_least = binomial(log_alpha, length).exp().flip(1).cumsum(1).flip(1)
        n = widest(torch.arange(length + 1, device=noise.device))
        self.register_buffer(
            "weight", (at_least[1] - at_least[0]) / n.clamp(min=1) * (n > 0)
        )
        self.register_buffer("lost", -torch.expm1(log_alpha))

    def told(self, n: Times) -> Times:
        """A time that has n masks, from its law given n: by the quantile of a Beta law cut off at both ends."""
        length = len(self.weight) - 1
        log_p = lambda level: log_at_least(n, length, level)  # noqa: E731
        low, high = (end.expand(len(n)) for end in self.lost)
        u = torch.rand_like(low)
        # u even between the two ends of the distribution function, in logs: for few
        # masks both may be tiny.
        goal = torch.logaddexp(torch.log1p(-u) + log_p(low), u.log() + log_p(high))
        level = bisect(lambda level: log_p(level) < goal, low, high, halvings=50)
        return moment(self.schedule, level)


def binomial(log_alpha: PerExample, length: int) -> Float[Tensor, "T L_plus_1"]:
    """log P(M = n), n = 0..length, where each of `length` tokens is a mask with probability 1 - alpha."""
    n = torch.arange(length + 1, device=log_alpha.device).to(log_alpha.dtype)
    left = n.flip(0)
    ways = torch.lgamma(n[-1:] + 1) - torch.lgamma(n + 1) - torch.lgamma(left + 1)
    log_alpha = log_alpha[:, None]
    # 0 x log 0 is 0: no token is left where all are masks
    kept = torch.where(left > 0, left * log_alpha, 0)
    return ways + torch.xlogy(n, -torch.expm1(log_alpha)) + kept


def log_at_least(n: Times, length: int, level: PerExample) -> PerExample:
    """log P(M >= n), where each of `length` tokens is a mask with probability `level`."""
    log_p = binomial(torch.log1p(-level), length)
    count = torch.arange(length + 1, device=n.device)
    return log_p.where(count >= n[:, None], -torch.inf).logsumexp(1)


def moment(schedule: Schedule, level: PerExample) -> Times:
    """The time at which a token is lost with probability `level`, float32, in (0, 1]."""
    return schedule.inverse(torch.log1p(-level)).float().clamp(min=FIRST)


def of_noise(process: Process) -> str:
    """What came in place of a masked process: `D3PM of Uniform`."""
    noise = getattr(process, "noise", None)
    return describe(process) + ("" if noise is None else f" of {describe(noise)}")
