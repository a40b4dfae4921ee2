"""One thing, one name and one order: which of two times comes first, and old names that still work."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch

import course_lib
from course_lib.absorbing import Absorbing
from course_lib.categorical import Noise
from course_lib.decoding import Unmask
from course_lib.mdlm import MDLM
from course_lib.schedules import log_linear
from course_lib.tweedie import Euler, Tweedie
from tests.helpers import f64

LIBRARY = Path(course_lib.__file__).parent
FORWARD = {"token_checks.check_order"}  # the check of a noise's own order


def two_times() -> dict[str, tuple[list[str], bool]]:
    """Every function of the library that takes an s and a t: its arguments, and whether it is a noise's."""
    found = {}
    for path in sorted(LIBRARY.glob("*.py")):
        module = importlib.import_module(f"course_lib.{path.stem}")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            inside = node.body if isinstance(node, ast.ClassDef) else [node]
            for f in inside:
                names = [a.arg for a in f.args.args] if isinstance(f, ast.FunctionDef) else []
                if {"s", "t"} <= set(names):
                    owner = getattr(module, node.name)
                    of_noise = inspect.isclass(owner) and issubclass(owner, Noise)
                    name = f"{node.name}.{f.name}" if f is not node else f.name
                    found[f"{path.stem}.{name}"] = (names, of_noise)
    return found


def test_a_noise_takes_an_interval_and_a_process_the_order_of_sampling():
    """(s, t) in every noise, (t, s) in everything else: no third order, and both are there."""
    every = two_times()
    wrong = {
        name: names
        for name, (names, of_noise) in every.items()
        if (names.index("s") < names.index("t")) != (of_noise or name in FORWARD)
    }
    assert not wrong
    assert sum(of_noise for _, of_noise in every.values()) > 20
    assert sum(not of_noise for _, of_noise in every.values()) > 30


# Old names


NOISE = Absorbing(5, log_linear())
S, T = f64(0.25, 0.5), f64(0.5, 1.0)


def test_old_names_of_the_probability_are_the_new_ones():
    assert torch.equal(NOISE.reveals(S, T), NOISE.unmasking_probability(S, T))
    for sampler in (Tweedie(), Euler()):
        assert torch.equal(sampler.opening(NOISE, T, S), sampler.unmasking_probability(NOISE, T, S))


@pytest.mark.parametrize("opens", ["all", "some", "none"])
def test_old_names_of_unmasking_are_the_new_ones(opens):
    process, x = MDLM(NOISE, 4), torch.tensor([[5, 5, 2, 5], [5, 1, 5, 5]])
    where = {"all": x == 5, "some": (x == 5) & (torch.arange(4) < 2), "none": x < 0}[opens]

    def model(x_t, u):
        return torch.arange(5.0).expand(*x_t.shape, 5)

    def same(old, new):
        made = []
        for call in (old, new):
            torch.manual_seed(3)
            made.append(call())
        assert torch.equal(*made)

    same(lambda: NOISE.opened(x, S, T), lambda: NOISE.unmasks(x, S, T))
    same(lambda: process.fill(model, x, T, opens=where), lambda: process.unmask(model, x, T, where))
    sampler, p = Unmask(process), torch.full((2, 4, 5), 0.2)

    def draw(law):
        return torch.distributions.Categorical(law).sample()

    same(lambda: sampler.fill(x, p, opens=where, draw=draw), lambda: sampler.unmask(x, p, where, draw))
