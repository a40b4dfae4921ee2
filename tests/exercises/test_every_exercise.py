"""What holds for the exercises of every chapter: the reference passes, and each wrong answer gets its own hint."""

import pkgutil

import pytest
import torch

from course_lib import solutions
from course_lib.exercise import grade, of_chapter

# chapter: its exercises, in its order
CHAPTERS = {
    "ddpm": (
        "q_sample schedule posterior_mean gaussian_kl simple_loss ancestral repair bits_per_dim best_guess "
        "score_from_guess from_v gap vae_bound"
    ),
    "optimal_variance": "ddim_step pairs best_variance spread_from_eps learned_variance grid variance_after",
    "sde": "moments reverse_step heun hutchinson log_likelihood dpm_step grid ode_velocity",
    "diffusion_lm": "rounding known_word variance_cost collapsed_loss e2e_loss clamped_step free sharpen mbr",
    "diffuseq": (
        "partial_noise target_loss word_loss misaligned shifted_mean least_risk wrong_share importance interleave"
    ),
    "d3pm": (
        "uniform_marginal multinomial_posterior independence leave_one_out absorbing_loss absorbing_step gaussian_step"
        " fault count_weights two_steps hybrid ce_weight reveal"
    ),
    "sedd": (
        "concrete_score reverse_rates score_entropy least_loss masks_loss tweedie uniform_ratio"
        " euler_steps next_level"
    ),
    "side_by_side": "any_order bayes_rows renoised_variance two_at_once judgement per_letter draft_weights",
    "after_sedd": "keep_the_likelier how_many opens accept who_sees others_only mask_rates residual",
    "side_notes": "shorter positions estimated",
}
SPECS = {spec.name: spec for chapter in CHAPTERS for spec in of_chapter(chapter)}
WRONG = [(name, label) for name, spec in SPECS.items() for label in spec.wrong]


def test_no_chapter_is_forgotten():
    assert set(CHAPTERS) == {m.name for m in pkgutil.iter_modules(solutions.__path__)}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_chapter_has_its_exercises(chapter):
    specs = {spec.name: spec for spec in of_chapter(chapter)}
    assert list(specs) == [f"{chapter}.{name}" for name in CHAPTERS[chapter].split()]
    hints = [hint for spec in specs.values() for hint in spec.hints.values()]
    assert len(hints) == len(set(hints))


@pytest.mark.parametrize("name", SPECS)
def test_reference_passes_and_a_stub_is_still_to_do(name):
    assert grade(SPECS[name], SPECS[name].reference) == ("PASS", "")

    def stub(*args):
        raise NotImplementedError

    def empty(*args): ...

    assert grade(SPECS[name], stub)[0] == "TODO"
    assert grade(SPECS[name], empty)[0] == "TODO"


@pytest.mark.parametrize("name", SPECS)
def test_an_answer_that_writes_into_its_arguments_fails_and_is_told_so(name):
    def poisons(*args):
        result = SPECS[name].reference(*args)
        for x in args:
            if isinstance(x, torch.Tensor):
                with torch.no_grad():
                    x.zero_()
        return result

    tensors = []

    def takes(*args):
        tensors.extend(x for x in args if isinstance(x, torch.Tensor) and x.any())
        return SPECS[name].reference(*args)

    assert grade(SPECS[name], takes) == ("PASS", "")
    if tensors:
        state, text = grade(SPECS[name], poisons)
        assert state == "FAIL" and "in place" in text


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.cases])
def test_cases_are_of_several_sizes_and_their_answers_are_numbers(name):
    spec = SPECS[name]
    torch.manual_seed(0)
    cases = spec.all_cases()
    truths = [spec.truth(*case.args) if case.want is None else case.want for case in cases]
    flat = [v for truth in truths for v in (truth if isinstance(truth, tuple) else (truth,))]
    assert all(v.isfinite().all() for v in flat if isinstance(v, torch.Tensor))
    sizes = {
        tuple(getattr(v, "shape", None) or v for v in case.args if not callable(v)).__repr__()
        for case in cases
    }
    assert len(sizes) > 1


@pytest.mark.parametrize("name", SPECS)
def test_a_missing_return_is_named(name):
    def forgets(*args):
        SPECS[name].reference(*args)

    state, text = grade(SPECS[name], forgets)
    assert state == "FAIL" and "is a return missing?" in text


@pytest.mark.parametrize("name, label", WRONG)
def test_each_wrong_answer_gets_its_own_hint(name, label):
    assert grade(SPECS[name], SPECS[name].wrong[label]) == ("FAIL", SPECS[name].hints[label])
