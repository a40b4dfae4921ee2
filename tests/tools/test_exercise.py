"""The checker in all its states, its silence towards the notebook, and the bets."""

import collections
import contextlib
import random
import sys
import types

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from course_lib import answers as A
from course_lib import checks as C
from course_lib import exercise as E

X = torch.tensor([1.0, 2.0, 4.0])
USED = " (the reference is used below until this passes)"


def reference(x):
    return 2 * x


def diagnose(got, want, known):
    """A check by hand."""
    if not isinstance(got, torch.Tensor):
        return f"it returned {type(got).__name__}, expected a tensor"
    if got.shape != want.shape:
        return f"the shape is {tuple(got.shape)}, expected {tuple(want.shape)}"
    found = [hint for hint, value in known.items() if torch.equal(got, value)]
    return None if torch.equal(got, want) else (found or ["it is something else"])[0]


def check(fn):
    return diagnose(fn(X), 2 * X, {"that is x squared": X**2, "that is x": X})


MISTAKES = {
    "square": (lambda x: x**2, "that is x squared"),
    "forgot the 2": (lambda x: x, "that is x"),
    "sums": (lambda x: x.sum(), "the shape is (), expected (3,)"),
}
WRONG = {label: wrong for label, (wrong, _) in MISTAKES.items()}


def define(name, fn=reference, check=check, mistakes=MISTAKES):
    """Register fn as if it stood under that name in its chapter's solutions."""
    chapter, short = name.split(".")
    copy = types.FunctionType(fn.__code__, fn.__globals__, short)
    copy.__module__ = f"course_lib.solutions.{chapter}"
    E.define(copy, also=check, mistakes=mistakes)
    E.REGISTRY[name].reference = fn


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """An empty session with the chapter `toy`, which has two exercises."""
    monkeypatch.setattr(E, "REGISTRY", {})
    monkeypatch.delenv("COURSE_SOLUTIONS", raising=False)
    define("toy.double")
    define("toy.again")


def said(capsys):
    return capsys.readouterr().out


# --- the three states ---


def test_a_stub_that_raises_is_to_do_and_the_reference_stands_in(capsys):
    def stub(x):
        raise NotImplementedError

    assert E.exercise("toy.double")(stub) is reference
    assert said(capsys) == f"[TODO] toy.double: not attempted yet{USED}\n"


def dots(x): ...


def documented(x):
    """To be done."""


def passes(x):
    pass


def gives_dots(x):
    return ...


def several(x):
    """To be done."""
    ...
    pass


def returns(x):
    return


@torch.no_grad()
def decorated(x):
    "one line"


@pytest.mark.parametrize("stub", [dots, documented, passes, gives_dots, several, returns, decorated])
def test_an_empty_body_is_to_do(stub, capsys):
    assert E.exercise("toy.double")(stub) is reference
    assert said(capsys).startswith("[TODO] ")


def constant(x):
    return 3


def counts(x):
    x = 2 * x
    pass


@pytest.mark.parametrize("answer", [constant, counts])
def test_a_body_that_does_something_is_an_attempt(answer):
    assert not A.is_stub(answer) and not A.is_stub(lambda x: ...)  # of a lambda there is no body to read


def test_a_stub_is_known_in_a_notebook_cell():
    shell = InteractiveShell.instance()
    try:
        for body, stub in (("...", True), ('"""To do."""', True), ("return 2 * x", False), ("x *= 2", False)):
            shell.run_cell(f"if True:\n    def mine(x):\n        {body}\n")
            assert A.is_stub(shell.user_ns["mine"]) is stub
    finally:
        InteractiveShell.clear_instance()
    space = {}
    exec("def mine(x): ...", space)  # without a source nothing can be said
    assert not A.is_stub(space["mine"])


# --- arguments are lent ---


def writes(x):
    y = 2 * x
    x += 1
    return y


def test_an_answer_that_writes_into_its_argument_fails_by_its_name(capsys):
    E.exercise("toy.double")(writes)
    assert said(capsys).startswith("[FAIL] toy.double: your function writes into x, which is not its own")
    assert X.tolist() == [1, 2, 4]


def test_a_hint_of_the_exercise_comes_before_the_one_about_writing():
    def square(x):
        return x.mul_(x)

    assert E.grade(E.find("toy.double"), square) == ("FAIL", "that is x squared")


@pytest.mark.parametrize(
    ("given", "write"),
    [
        ([X], lambda v: v[0].zero_()),
        ((X, 1), lambda v: v[0].mul_(2)),
        ({"a": X}, lambda v: v["a"].unsqueeze_(0)),
        ({"a": 1}, lambda v: v.pop("a")),
        ([1, 2], lambda v: v.reverse()),
        (np.ones(3), lambda v: v.fill(0)),
        (torch.tensor([1.0, torch.nan]), lambda v: v.fill_(1)),
        (X, lambda v: v.resize_(2)),
    ],
)
def test_whatever_holds_numbers_is_lent_as_a_copy(given, write):
    before = A.copied(given)
    answer = A.Answer(lambda v: (write(v), 1))
    answer(given)
    assert answer.overwrote == "v" and A.unchanged(given, before)
    quiet = A.Answer(lambda v: 1)
    quiet(given)
    assert quiet.overwrote is None


def test_a_copy_keeps_its_kind_and_its_gradient():
    point = collections.namedtuple("point", "x y")
    got = A.copied(point(X, [X]))
    assert type(got) is point and got.x is not X and got.y[0].equal(X)
    leaf = X.clone().requires_grad_()
    (2 * A.copied([leaf])[0]).sum().backward()
    assert leaf.grad.tolist() == [2, 2, 2]
    model = torch.nn.Linear(1, 1)
    assert A.copied((model,))[0] is model


def test_hear_is_as_strict_as_a_float32_network():
    x = torch.zeros(2, 3)
    C.hear(x, torch.zeros(2))
    with pytest.raises(ValueError, match=r"one time u per example, shape \(2,\), not \(3,\)"):
        C.hear(x, torch.zeros(3))
    with pytest.raises(ValueError, match="not float"):
        C.hear(x, 0.5)
    with pytest.raises(TypeError, match="given an x_t in torch.float64"):
        C.hear(x.double(), torch.zeros(2))


def test_code_that_gives_none_is_told_about_return(capsys):
    def forgot(x):
        x = 2 * x

    assert E.exercise("toy.double")(forgot) is reference
    assert said(capsys) == (
        f"[FAIL] toy.double: TypeError: your function returned None: is a return missing?{USED}\n"
    )


def test_a_right_answer_passes_and_is_kept(capsys):
    def right(x):
        return x + x

    assert E.exercise("toy.double")(right) is right
    assert said(capsys) == "[PASS] toy.double\n"
    assert E.REGISTRY["toy.double"].state == "PASS"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (WRONG["square"], "that is x squared"),
        (WRONG["forgot the 2"], "that is x"),
        (WRONG["sums"], "the shape is (), expected (3,)"),
        (constant, "it returned int, expected a tensor"),
        (lambda x: 2 * x + 1, "it is something else"),
    ],
)
def test_a_wrong_answer_gets_its_hint_and_the_reference(answer, hint, capsys):
    assert E.exercise("toy.double")(answer) is reference
    assert said(capsys) == f"[FAIL] toy.double: {hint}{USED}\n"
    assert E.REGISTRY["toy.double"].state == "FAIL"


def test_a_live_notebook_shows_the_state_in_colour_and_keeps_the_text(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(E, "live", lambda: True)
    monkeypatch.setattr(E, "display", lambda data, raw: shown.append(data))
    E.exercise("toy.double")(dots)
    E.exercise("toy.double")(lambda x: x**2)
    E.exercise("toy.double")(lambda x: 2 * x)
    assert said(capsys) == ""
    for data, state in zip(shown, ("TODO", "FAIL", "PASS"), strict=True):
        assert data["text/plain"].startswith(f"[{state}] toy.double")
        assert (
            f"[{state}]</b> <code>toy.double</code>" in data["text/html"]
            and E.COLOURS[state] in data["text/html"]
        )
    E.tell("FAIL", "toy.double", ": a < b\nand more")
    assert shown[-1]["text/html"].count("<br>") == 1 and "a &lt; b" in shown[-1]["text/html"]
    assert shown[-1]["text/plain"] == "[FAIL] toy.double: a < b\n  and more"
    assert len(set(E.COLOURS.values())) == 3


def test_solutions_mode_puts_the_reference_in(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_SOLUTIONS", "1")
    assert E.exercise("toy.double")(dots) is reference
    assert said(capsys) == "[PASS] toy.double (by the reference: COURSE_SOLUTIONS=1)\n"
    assert not E.REGISTRY["toy.double"].attempted


def test_other_values_of_the_switch_leave_the_exercise_to_the_reader(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_SOLUTIONS", "0")
    E.exercise("toy.double")(dots)
    assert said(capsys).startswith("[TODO]")


def test_solutions_mode_still_checks_the_reference(monkeypatch, capsys):
    define("toy.broken", WRONG["square"])
    monkeypatch.setenv("COURSE_SOLUTIONS", "1")
    E.exercise("toy.broken")(dots)
    assert said(capsys).startswith("[FAIL] toy.broken: that is x squared")


# --- crashes are feedback ---


def test_a_crash_names_the_readers_line(tmp_path, capsys):
    file = tmp_path / "cell.py"
    file.write_text("import torch\ndef mine(x):\n    y = 2 * x\n    return torch.stack(y, 3.5)  # here\n")
    space = {}
    exec(compile(file.read_text(), str(file), "exec"), space)
    assert E.exercise("toy.double")(space["mine"]) is reference
    line = said(capsys)
    assert line.startswith("[FAIL] toy.double: TypeError: ")
    assert line.endswith(f", in line 4: return torch.stack(y, 3.5)  # here{USED}\n") and line.count("\n") == 1


def test_a_crash_in_the_readers_helper_names_the_line_of_the_helper(tmp_path, capsys):
    file = tmp_path / "cell.py"
    file.write_text("def helper(x):\n    return x.nothing\ndef mine(x):\n    return helper(x)\n")
    space = {}
    exec(compile(file.read_text(), str(file), "exec"), space)
    E.exercise("toy.double")(space["mine"])
    assert "in line 2: return x.nothing" in said(capsys)


def test_a_function_under_another_decorator_is_still_the_readers(capsys):
    @torch.no_grad()
    def mine(x):
        return x.nothing

    E.exercise("toy.double")(mine)
    assert "return x.nothing" in said(capsys)


def test_wrong_parameters_are_told_as_they_are(capsys):
    E.exercise("toy.double")(lambda: 1)
    assert " takes 0 positional arguments but 1 was given" + USED in said(capsys)


def test_a_check_may_call_by_keyword(capsys):
    define("toy.named", check=lambda fn: diagnose(fn(x=X), 2 * X, {}))
    E.exercise("toy.named")(reference)
    assert said(capsys) == "[PASS] toy.named\n"


def test_a_result_of_the_wrong_kind_is_told_as_such(capsys):
    define("toy.strict", check=lambda fn: fn(X).shape and None)
    E.exercise("toy.strict")(lambda x: [x])
    expected = "the check cannot use the list that you returned (AttributeError: 'list' object has no"
    assert expected in said(capsys)


def test_torchs_own_not_implemented_is_a_crash_not_a_stub(capsys):
    def mine(x):
        return x.to("meta").cpu()

    E.exercise("toy.double")(mine)
    assert said(capsys).startswith("[FAIL] toy.double: NotImplementedError: Cannot copy out of meta tensor")


def test_a_crash_of_the_check_itself_is_an_error_of_the_course():
    define("toy.bad", check=lambda fn: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        E.exercise("toy.bad")(WRONG["square"])


def test_only_functions_can_be_exercises():
    with pytest.raises(TypeError, match=r"@exercise\('toy.double'\) goes over a function, not over Identity"):
        E.exercise("toy.double")(torch.nn.Identity())


# --- random state ---


def draws():
    return torch.rand(1).item(), np.random.rand(), random.random()


@pytest.mark.parametrize("crashes", [False, True])
def test_a_check_leaves_the_random_state_alone_and_is_the_same_each_time(crashes):
    seen = []

    def noisy(fn):
        seen.append(draws())
        if crashes:
            fn(X)
            raise ValueError
        return "no"

    define("toy.noisy", check=noisy)
    judge = E.exercise("toy.noisy")  # made before the seed: type checks of lists draw from random, too
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    judge(WRONG["square"])
    first = draws()
    judge(WRONG["square"])
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert draws() == first
    assert seen[0] == seen[1]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    assert draws() == seen[0]


@pytest.mark.parametrize(("initialised", "devices"), [(True, [0, 1]), (False, [])])
def test_cuda_is_seeded_and_restored_where_the_notebook_uses_it(monkeypatch, initialised, devices):
    forked, seeds = [], []
    generator = types.SimpleNamespace(manual_seed=seeds.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialised)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "default_generators", [generator, generator])
    monkeypatch.setattr(
        torch.random, "fork_rng", lambda which: forked.append(which) or contextlib.nullcontext()
    )
    state = torch.get_rng_state()
    with A.seeded():
        assert torch.initial_seed() == 0
    torch.set_rng_state(state)
    assert forked == [devices] and seeds == [0] * len(devices)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device to have a CUDA random state")
def test_a_check_leaves_the_random_state_of_cuda_alone():
    torch.manual_seed(5)
    want = torch.rand(2, device="cuda").tolist()
    torch.manual_seed(5)
    define("toy.noisy", check=lambda fn: str(torch.rand(3, device="cuda").tolist()))
    assert E.grade(E.find("toy.noisy"), reference) == E.grade(E.find("toy.noisy"), reference)
    assert torch.rand(2, device="cuda").tolist() == want


# --- the registry ---


def test_solutions_are_imported_when_asked_for(monkeypatch):
    loaded = []

    def load(module):
        loaded.append(module)
        define("algebra.one")

    monkeypatch.setitem(sys.modules, "course_lib.solutions.algebra", types.ModuleType("algebra"))
    sys.modules["course_lib.solutions.algebra"].__spec__ = types.SimpleNamespace()
    monkeypatch.setattr(E.importlib, "import_module", load)
    assert E.find("algebra.one").reference is reference
    assert [spec.name for spec in E.of_chapter("algebra")] == ["algebra.one"]
    assert loaded == ["course_lib.solutions.algebra"]


def test_an_unknown_exercise_is_told_the_names_of_its_chapter():
    with pytest.raises(
        ValueError, match=r"no exercise is called 'toy.x'; this chapter has: toy.double, toy.again"
    ):
        E.exercise("toy.x")


@pytest.mark.parametrize("chapter", ["nowhere", "no/where"])
def test_an_unknown_chapter_is_an_error(chapter):
    with pytest.raises(ValueError, match=f"a module of course_lib.solutions, not '{chapter}'"):
        E.find(f"{chapter}.x")


def test_an_exercise_is_called_after_its_reference_and_its_module():
    E.define(reference, MISTAKES, also=check)
    assert E.REGISTRY[f"{__name__.rpartition('.')[2]}.reference"].reference is reference
    with pytest.raises(ValueError, match="reference must be a function with a name, not <lambda>"):
        E.define(lambda x: x, MISTAKES, also=check)


def test_three_wrong_answers_are_required():
    two = dict(list(MISTAKES.items())[:2])
    with pytest.raises(ValueError, match=r"at least 3 wrong answers to toy\.two, not 2"):
        define("toy.two", mistakes=two)


def test_a_chapter_does_not_see_another_with_a_longer_name():
    define("toys.x")
    assert [spec.name for spec in E.of_chapter("toy")] == ["toy.double", "toy.again"]


def test_progress_counts_what_passed(capsys):
    define("toy.third")
    E.exercise("toy.again")(reference)
    E.exercise("toy.third")(WRONG["square"])
    said(capsys)
    E.progress("toy")
    assert said(capsys) == (
        "1/3 exercises solved in chapter toy\n[TODO] toy.double\n[PASS] toy.again\n[FAIL] toy.third\n"
    )


def test_a_solved_run_must_solve_all(capsys, monkeypatch):
    monkeypatch.setenv("COURSE_SOLUTIONS", "1")
    E.exercise("toy.again")(dots)
    with pytest.raises(RuntimeError, match=r"must solve every exercise, but not toy\.double$"):
        E.progress("toy")
    E.exercise("toy.double")(dots)
    said(capsys)
    E.progress("toy")
    assert said(capsys).startswith("2/2 exercises solved")


def test_a_solution_is_shown_only_after_an_attempt(capsys):
    E.exercise("toy.double")(dots)
    E.exercise("toy.double")(dots)
    said(capsys)
    E.show_solution("toy.double")
    assert said(capsys) == (
        'toy.double: try it first. To see it all the same: show_solution("toy.double", anyway=True)\n'
    )
    E.exercise("toy.double")(passes)  # edited, but still to do
    said(capsys)
    E.show_solution("toy.double")
    assert said(capsys) == "def reference(x):\n    return 2 * x\n"


@pytest.mark.parametrize("answer", [reference, WRONG["square"]])
def test_a_pass_or_a_fail_is_an_attempt_and_stays_one(answer, capsys):
    E.exercise("toy.double")(answer)
    E.exercise("toy.double")(answer)
    said(capsys)
    E.show_solution("toy.double")
    assert said(capsys).startswith("def reference")


def test_a_solution_can_be_insisted_on(capsys):
    E.show_solution("toy.double", anyway=True)
    assert said(capsys).startswith("def reference")


def test_mistakes_list_the_wrong_answers_with_their_hints(monkeypatch):
    shown = []
    monkeypatch.setattr(E, "display", lambda bundle, raw: shown.append((bundle, raw)))
    few = {"x*x": MISTAKES["square"], "just x": MISTAKES["forgot the 2"], "sum": (dots, "")}
    define("few.one", mistakes=few)
    define("few.two")
    E.mistakes("few")
    ((bundle, raw),) = shown
    assert raw is True
    assert bundle["text/plain"].splitlines()[:5] == [
        "few.one",
        "- x*x: that is x squared",
        "- just x: that is x",
        "- sum: not attempted yet",
        "few.two",
    ]
    assert bundle["text/markdown"].startswith(
        "**few.one**\n\n- x\\*x: that is x squared\n- just x: that is x\n"
    )
    assert "\n- sum: not attempted yet\n\n**few.two**\n\n- square: " in bundle["text/markdown"]


# --- helpers for checks ---


def test_close_wants_a_tensor_of_the_same_shape_and_nearly_the_same_values():
    want = torch.tensor([1.0, 2.0])
    assert C.close(want + 0.9e-4, want) is True
    assert C.close(want + 1.2e-4, want) is False
    assert C.close(want - 1.2e-4, want) is False
    assert C.close(want + 1, want, tol=1.0) is True
    assert not C.close(torch.tensor([1.0, 2.5]), want)
    assert not C.close(torch.tensor([1.0, torch.nan]), want)
    assert not C.close([1.0, 2.0], want)
    assert not C.close(torch.tensor([[1.0, 2.0]]), want)
