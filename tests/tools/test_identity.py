"""Whose weights these are: equal for processes made alike, different where an answer would mean another thing."""

import copy
import itertools
import json

import pytest
import torch
from torch import nn

from course_lib.absorbing import Absorbing
from course_lib.d3pm import D3PM
from course_lib.ddpm import DDPM
from course_lib.identity import differences, fingerprint, identity
from course_lib.learned_variance import LossAware
from course_lib.mdlm import MDLM
from course_lib.schedules import cosine, geometric, linear, log_linear, table
from course_lib.sde import VP
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform

MADE = {
    "DDPM": lambda: DDPM(table(cosine(), 20), (2,)),
    "DDPM of v": lambda: DDPM(table(cosine(), 20), (2,), predicts="v"),
    "DDPM of another table": lambda: DDPM(table(cosine(0.01), 20), (2,)),
    "DDPM of other data": lambda: DDPM(table(cosine(), 20), (3,)),
    "DDPM of more steps": lambda: DDPM(table(cosine(), 21), (2,)),
    "D3PM": lambda: D3PM(Absorbing(5, table(cosine(), 20)), 4),
    "D3PM, longer": lambda: D3PM(Absorbing(5, table(cosine(), 20)), 6),
    "D3PM, uniform": lambda: D3PM(Uniform(5, table(cosine(), 20)), 4),
    "D3PM, K = 6": lambda: D3PM(Absorbing(6, table(cosine(), 20)), 4),
    "SEDD": lambda: SEDD(Absorbing(5, log_linear()), 4),
    "SEDD, other eps": lambda: SEDD(Absorbing(5, log_linear(1e-2)), 4),
    "SEDD, other clock": lambda: SEDD(Absorbing(5, geometric()), 4),
    "SEDD, uniform": lambda: SEDD(Uniform(5, log_linear()), 4),
    "MDLM": lambda: MDLM(Absorbing(5, log_linear()), 4),
    "VP": lambda: VP(linear(), (2,)),
    "VP, other beta": lambda: VP(linear(0.1, 19.0), (2,)),
    "VP from later on": lambda: VP(linear(), (2,), t_min=0.01),
    "loss-aware": lambda: LossAware(DDPM(table(cosine(), 20), (2,))),
}


@pytest.mark.parametrize("name", MADE)
def test_processes_made_alike_are_the_same(name):
    a, b = identity(MADE[name]()), identity(MADE[name]())
    assert differences(a, b) == [] and a == b
    assert differences(json.loads(json.dumps(a)), b) == []
    assert differences(identity(copy.deepcopy(MADE[name]())), b) == []


@pytest.mark.parametrize("one, other", list(itertools.combinations(MADE, 2)))
def test_what_means_another_thing_differs(one, other):
    assert differences(identity(MADE[one]()), identity(MADE[other]()))


@pytest.mark.parametrize(
    "one, other, says",
    [
        ("SEDD", "MDLM", ["p.class is MaskedSEDD there, MDLM here"]),
        ("SEDD", "SEDD, uniform", ["p.class is MaskedSEDD there, StationarySEDD here"]),
        ("DDPM", "DDPM of v", ["p.predicts is eps there, v here"]),
        ("D3PM", "D3PM, longer", ["p.length is 4 there, 6 here"]),
    ],
)
def test_differences_are_named(one, other, says):
    found = differences({"p": identity(MADE[one]())}, {"p": identity(MADE[other]())})
    assert set(says) <= set(found), found


def test_what_training_changes_is_no_part_of_it():
    process = MADE["loss-aware"]()
    before = identity(process)
    process.remember(torch.tensor([1, 3]), torch.tensor([0.5, 2.0]))
    assert differences(before, identity(process)) == []
    process.uniform = 0.5
    assert differences(before, identity(process)) == ["uniform is 0.001 there, 0.5 here"]


def test_a_network_that_a_process_asks_counts_by_its_class():
    def asking(net):
        process = MADE["DDPM"]()
        process.helper = net
        return identity(process)

    assert asking(nn.Linear(2, 2)) == asking(nn.Linear(2, 2)) != asking(nn.Conv1d(2, 2, 1))


def test_a_fingerprint_notices_order_shape_and_values_but_not_the_last_digits():
    v = torch.linspace(0, 1, 11, dtype=torch.float64)
    same = [v, v.float(), v + 1e-9]
    swapped = v[[1, 0, *range(2, 11)]]  # the mean, the middle and the last entry stay
    other = [swapped, v.flip(0), v[:10], v + 1e-3, v.reshape(1, 11), v + 1e-2 * (torch.arange(11) == 3)]
    mine = fingerprint(v)
    assert all(differences(mine, fingerprint(x)) == [] for x in same)
    assert all(differences(mine, fingerprint(x)) for x in other)
    ends = fingerprint(torch.tensor([0.0, -torch.inf, torch.nan]))
    assert json.loads(json.dumps(ends)) == ends and fingerprint(torch.empty(0, 3)) == {"shape": [0, 3]}
    assert differences(ends, fingerprint(torch.tensor([0.0, -5.0, torch.nan])))


def test_a_process_that_points_back_to_itself():
    process = MADE["DDPM"]()
    process.settings = {"of": process, "pair": (1, True, None)}
    assert identity(process)["settings"] == {"of": "DDPM", "pair": [1, True, None]}


def test_truth_is_no_number():
    assert differences({"a": True}, {"a": 1}) == ["a is True there, 1 here"]
    assert differences({"a": float("nan")}, {"a": float("nan")}) == []
    assert differences({"a": None}, {"a": "x" * 100}) == ["a is None there, " + "x" * 57 + "... here"]


def test_a_setting_that_another_version_does_not_know_is_no_difference():
    assert differences({"a": 1, "c": 2}, {"b": 2, "c": 2}) == []
    assert differences({"class": "A", "a": 1}, {"class": "B", "a": 2}) == ["class is A there, B here"]
