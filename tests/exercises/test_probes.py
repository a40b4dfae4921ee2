"""With what the checks try an answer: all sizes differ, more than one shape, uneven times, T among them and not.

An answer that holds only for B = L, for one shape, for even steps or where some t is T would otherwise pass.
"""

import functools
import itertools
import pkgutil
import re

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from course_lib import solutions
from course_lib.exercise import find, grade, of_chapter

# argument: its axes; =K is a number that is one of the sizes, "..." any axes, a figure an axis of that size. What has
# no axes and is no size is left out.
ARGUMENTS = {
    "ddpm.q_sample": "x0: B ..., t: B, alpha_bar: T+1, eps: B ...",
    "ddpm.schedule": "",
    "ddpm.posterior_mean": "x0: ..., x_t: ..., abar_s: one, abar_t: one",
    "ddpm.gaussian_kl": "mean1: B D, var1: B one, mean2: B D, var2: B one",
    "ddpm.simple_loss": "x0: B ..., t: B, alpha_bar: T+1",
    "ddpm.ancestral": "x_T: B D, alpha_bar: T+1",
    "ddpm.repair": "x0_hat: ..., x_t: ..., z: ...",
    "ddpm.bits_per_dim": "terms: T, dims: =D",
    "ddpm.best_guess": "x_t: B, points: N, weights: N",
    "ddpm.score_from_guess": "x0_hat: ..., x_t: ...",
    "ddpm.from_v": "v: ..., x_t: ...",
    "ddpm.gap": "log_q: N, log_p: N",
    "ddpm.vae_bound": "x0: B D, mean: B d, var: B d, x0_hat: B D",
    "optimal_variance.ddim_step": "x0_hat: ..., x_t: ..., z: ...",
    "optimal_variance.pairs": "T: =T, gap: =gap",
    "optimal_variance.best_variance": "lambda2: ..., spread: ..., abar_s: ..., abar_t: ...",
    "optimal_variance.spread_from_eps": "eps2: N, abar: N, data_var: 1",
    "optimal_variance.learned_variance": "v: ..., beta: ..., beta_tilde: ...",
    "optimal_variance.grid": "T: =T, steps: =n",
    "optimal_variance.variance_after": "alpha_bar: T+1",
    "sde.moments": "times: n",
    "sde.reverse_step": "x: ..., score: ..., z: ...",
    "sde.heun": "x: ...",
    "sde.hutchinson": "x: B ..., probe: B ...",
    "sde.log_likelihood": "log_prior: B, divergence: n B, times: n",
    "sde.dpm_step": "x: ..., x0: ..., x0_last: ...",
    "sde.grid": "n: =n",
    "sde.ode_velocity": "x: ..., eps_hat: ...",
    "diffusion_lm.rounding": "x: N D, table: K D",
    "diffusion_lm.known_word": "e: N, x_t: N, abar: N",
    "diffusion_lm.variance_cost": "true: N, used: N",
    "diffusion_lm.collapsed_loss": "alpha_bar: T+1",
    "diffusion_lm.e2e_loss": "tokens: B L, x0: B L D, x_t: B L D, t: B, T: =T",
    "diffusion_lm.clamped_step": "x0_hat: N D, x_t: N D, table: K D",
    "diffusion_lm.free": "told: ..., untold: ...",
    "diffusion_lm.sharpen": "both: N K, alone: N K",
    "diffusion_lm.mbr": "",
    "diffuseq.partial_noise": "x0: B L D, target: B L, alpha_bar: B, noise: B L D",
    "diffuseq.target_loss": "loss: B L, target: B L",
    "diffuseq.word_loss": "L: =L",
    "diffuseq.misaligned": "alpha_bar: T+1",
    "diffuseq.shifted_mean": "x0: B D, x_t: B D, m: D",
    "diffuseq.least_risk": "risk: N N, weights: N",
    "diffuseq.wrong_share": "p: B N",
    "diffuseq.importance": "p: T, T: =T",
    "diffuseq.interleave": "",
    "d3pm.uniform_marginal": "x0: B L, K: =K",
    "d3pm.multinomial_posterior": "x_t: B L, x0: B L, K: =K",
    "d3pm.independence": "p: K1 K2",
    "d3pm.leave_one_out": "post: B L K, x_t: B L",
    "d3pm.absorbing_loss": "log_p0: B L K, x0: B L, x_t: B L, t: B, T: =T",
    "d3pm.absorbing_step": "K: =K",
    "d3pm.gaussian_step": "K: =K",
    "d3pm.fault": "Q: K K",
    "d3pm.count_weights": "alpha_bar: T+1, L: =L",
    "d3pm.two_steps": "post: B L K, x_t: B L",
    "d3pm.hybrid": "kl: B, ce: B, T: =T",
    "d3pm.ce_weight": "T: =T",
    "d3pm.reveal": "p0: B L K, x_t: B L, mask: =K",
    "sedd.concrete_score": "p: K K",
    "sedd.reverse_rates": "R: K K, s: K, x: =x",
    "sedd.score_entropy": "log_s: ..., rho: ...",
    "sedd.least_loss": "p0: K, Q: K K, R: K K",
    "sedd.masks_loss": "f: B L V, x0: B L, x_t: B L, weight: B",
    "sedd.tweedie": "s: B K, x_t: B",
    "sedd.uniform_ratio": "sigma: n, K: =K",
    "sedd.euler_steps": "K: =K",
    "sedd.next_level": "masks: =M, u: n",
    "side_by_side.any_order": "cost: N L",
    "side_by_side.bayes_rows": "p: N, F: N M",
    "side_by_side.renoised_variance": "v: ..., abar_t: ..., abar_s: ...",
    "side_by_side.two_at_once": "p: V W X",
    "side_by_side.judgement": "q: N, p: N",
    "side_by_side.per_letter": "tokens: n, letters: n",
    "side_by_side.draft_weights": "log_left: B, log_gap: B n, log_right: B n",
    "after_sedd.keep_the_likelier": "p: V, q: W",
    "after_sedd.how_many": "H: n",
    "after_sedd.opens": "alpha_t: ..., alpha_s: ..., sigma: ...",
    "after_sedd.accept": "w_x: B L, w_y: B L, i: B",
    "after_sedd.who_sees": "length: =L, block: =b",
    "after_sedd.others_only": "posterior: B K, x: B",
    "after_sedd.mask_rates": "p: B V",
    "after_sedd.residual": "p: B V, q: B V",
    "side_notes.shorter": "D: n K, W: K K",
    "side_notes.positions": "scores: M, L: =L",
    "side_notes.estimated": "C: N c, R: r N, rows: r",
}
SPECS = {s.name: s for m in pkgutil.iter_modules(solutions.__path__) for s in of_chapter(m.name)}
SIZED = {name: spec for name, spec in SPECS.items() if ARGUMENTS.get(name)}


@functools.cache
def heard(name: str) -> list[dict]:
    """The arguments of all calls that the check makes of a right answer."""
    spec, calls = SPECS[name], []

    def listens(*args):
        calls.append(dict(zip(spec.parameters, args, strict=True)))
        return spec.reference(*args)

    assert grade(spec, listens) == ("PASS", "")
    return calls


def declared(name: str) -> dict[str, list[str]]:
    """Argument -> its axes, or ["=K"]."""
    parts = [part.split(":") for part in ARGUMENTS[name].split(",") if part]
    return {argument.strip(): axes.split() for argument, axes in parts}


def sizes(name: str, call: dict) -> dict:
    """Name of each size -> its value in a call; ... stands for the axes that it takes. A broken promise fails."""
    found = {}

    def bind(size, value):
        if size == "one":  # or as the others
            return
        if size.isdecimal():
            assert value == int(size)
        elif size == "T+1":
            size, value = "T", value - 1
        if not size.isdecimal():
            assert found.setdefault(size, value) == value, f"{name}: {size} is {found[size]} and {value}"

    for argument, axes in declared(name).items():
        value = call[argument]
        if axes[0].startswith("="):
            bind(axes[0][1:], value)
            continue
        shape = tuple(value.shape)
        if "..." in axes:
            shape = (*shape[: len(axes) - 1], shape[len(axes) - 1 :])
        if axes == ["one"]:
            continue
        assert len(shape) == len(axes), f"{name}: {argument} has the shape {tuple(value.shape)}, not {axes}"
        for size, n in zip(axes, shape, strict=True):
            bind(size, n)
    return found


def test_every_exercise_says_what_its_sizes_are():
    assert set(ARGUMENTS) == set(SPECS)
    for name, spec in SPECS.items():
        for call in heard(name):
            with_sizes = {
                a
                for a, value in call.items()
                if (isinstance(value, Tensor) and value.ndim) or (type(value) is int and a not in ("t", "s"))
            }
            left = with_sizes - set(declared(name)) - {"T", "weight", "steps"}
            assert name == "ddpm.schedule" or not left, f"{name}: {left}"
        assert set(declared(name)) <= set(spec.parameters)


@pytest.mark.parametrize("name", SIZED)
def test_all_sizes_differ_in_a_call_and_from_call_to_call(name):
    seen = [sizes(name, call) for call in heard(name)]
    names = sorted({size for call in seen for size in call})
    for size in names:
        values = {call[size] for call in seen}
        assert len(values) > 1, f"{size} is always {values}: an answer for this size alone passes"
    pairs = list(itertools.combinations([n for n in names if n != "..."], 2))
    assert not pairs or any(all(call[a] != call[b] for a, b in pairs) for call in seen), (
        f"in no call all of {names} differ: an answer that takes one for another passes"
    )


# --- times ---


def uneven(times) -> bool:
    """True for steps that are not all alike."""
    steps = torch.as_tensor(times, dtype=torch.float64).diff()
    return len(steps) > 1 and not torch.allclose(steps, steps[0].expand_as(steps))


TIMES = [name for name, spec in SPECS.items() if "times" in spec.parameters]
FROM_T = {"ddpm.ancestral": "the task begins at T", "sde.moments": "no T", "sde.log_likelihood": "no T"}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_uneven_and_need_not_begin_at_the_last(name):
    calls = heard(name)
    assert any(uneven(call["times"]) for call in calls)
    if name not in FROM_T:
        assert any(call["times"][0] < len(call["alpha_bar"]) - 1 for call in calls)


AT = [name for name in SIZED if {"t"} <= set(declared(name))]


def test_four_losses_and_processes_are_given_times():
    assert set(AT) == {"ddpm.q_sample", "ddpm.simple_loss", "diffusion_lm.e2e_loss", "d3pm.absorbing_loss"}


@pytest.mark.parametrize("name", AT)
def test_times_are_odd_and_even_with_the_last_and_without(name):
    calls = heard(name)
    given = [(call["t"], call["T"] if "T" in call else len(call["alpha_bar"]) - 1) for call in calls]
    odd = {bool(now % 2) for t, _ in given for now in t.tolist()}
    assert odd == {True, False}
    assert {bool((t == T).any()) for t, T in given} == {True, False}
    assert len({T for _, T in given}) > 1


def test_steps_that_do_not_divide_the_time_are_asked_for():
    assert any(call["T"] % call["gap"] for call in heard("optimal_variance.pairs"))
    assert any(call["T"] % call["steps"] for call in heard("optimal_variance.grid"))


# --- what is drawn ---


class Shared(TorchFunctionMode):
    """Inside, each draw of noise has the right distribution and is the same along an axis, or in every call."""

    def __init__(self, axis: int | None):
        super().__init__()
        self.axis, self.first = axis, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        drawn = func(*args, **(kwargs or {}))
        if func not in (torch.randn_like, torch.randn, torch.rand, torch.rand_like):
            return drawn
        if self.axis is None:
            return self.first.setdefault(drawn.shape, drawn).clone()
        return drawn.narrow(self.axis, 0, 1).expand_as(drawn).clone()


BY_NOISE = [("ddpm.simple_loss", 0), ("ddpm.simple_loss", -1)]
BY_NOISE += [("ddpm.ancestral", 0), ("ddpm.ancestral", -1), ("ddpm.ancestral", None)]
DRAWN = [name for name, spec in SPECS.items() if spec.draws]


def test_three_answers_draw():
    assert set(DRAWN) == {"d3pm.reveal", "ddpm.simple_loss", "ddpm.ancestral"}


@pytest.mark.parametrize(
    "name, axis", [(n, a) for n in DRAWN[1:] for a in (0, -1)] + [("ddpm.ancestral", None)]
)
def test_noise_with_the_right_marginals_and_shared_fails(name, axis):
    def shares(*args):
        with Shared(axis):
            return SPECS[name].reference(*args)

    state, hint = grade(SPECS[name], shares)
    assert state == "FAIL"
    assert re.search("likeness|spread|one draw|each (example|number|step|pixel)|same", hint)


@pytest.mark.parametrize("shape", [lambda x: (len(x), 1), lambda x: (1, x.shape[1])])
def test_tokens_with_the_right_marginals_and_shared_fail(shape):
    def shares(p0, x_t, chance, mask):
        opens = (x_t == mask) & (torch.rand(x_t.shape) < chance)
        tokens = (torch.rand(shape(x_t))[..., None] > p0.cumsum(-1)).sum(-1).clamp(max=mask - 1)
        return torch.where(opens, tokens, x_t)

    assert grade(find("d3pm.reveal"), shares)[0] == "FAIL"
