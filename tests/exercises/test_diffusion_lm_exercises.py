"""Chapter 4's exercises: other right answers pass, and what the library says is what the references say."""

import pytest
import torch

from course_lib import schedules as S
from course_lib import text_metrics
from course_lib.clamping import ClampingTrick
from course_lib.ddim import DDIM
from course_lib.diffusion_lm import DiffusionLM
from course_lib.embeddings import nearest
from course_lib.exercise import find, grade, of_chapter
from course_lib.guidance import ClassifierFree
from course_lib.nets import Given
from course_lib.solutions import diffusion_lm as D

SPECS = {spec.name: spec for spec in of_chapter("diffusion_lm")}
SQRT = S.table(S.sqrt(), 2000)


def passes(name, fn):
    return grade(find(f"diffusion_lm.{name}"), fn) == ("PASS", "")


def test_other_right_answers_pass():
    assert passes("rounding", nearest)
    assert passes("rounding", lambda x, e: torch.cdist(x, e).argmin(-1))
    assert passes("known_word", D.on_a_grid)

    def gain(e, x, a, v):
        k = a.sqrt() * v / (a * v + 1 - a)
        return e + k * (x - a.sqrt() * e), v * (1 - k * a.sqrt())

    assert passes("known_word", gain)
    assert passes("variance_cost", lambda q, p: (p.log() - q.log() + q / p - 1) / 2)
    assert passes("collapsed_loss", D.by_regression) and passes(
        "collapsed_loss", lambda a: D.collapsed_loss(a).item()
    )
    assert passes("e2e_loss", D.word_by_word) and passes("clamped_step", D.on_the_line)
    assert passes("free", lambda told, untold, w: torch.lerp(untold, told, 1 + w))

    def table(candidates, similarity):
        rows = torch.tensor([[similarity(a, b) for b in candidates] for a in candidates])
        return int((rows.sum(1) - rows.diagonal()).argmax())

    assert passes("mbr", table)


def e2e(change):
    """The loss with something done to it afterwards."""
    return lambda model, tokens, x0, x_t, t, T: change(D.e2e_loss(model, tokens, x0, x_t, t, T), x0)


def by_half(e, x_t, abar, spread):
    mean, var = D.known_word(e, x_t, abar, spread)
    return mean, var / 2


def own_level(x0_hat, x_t, s, t, table):
    x0 = table[D.rounding(x0_hat, table)]
    return s * x0 + (1 - s).sqrt() * (x_t - t.sqrt() * x0) / (1 - t).sqrt()


@pytest.mark.parametrize("name, answer, hint", [
    ("rounding", lambda x, e: D.rounding(x, e).double(), "expected integers"),
    ("rounding", lambda x, e: torch.cdist(x, e.abs()).argmin(-1), "|table| in the place of table"),
    ("known_word", by_half, "variance is wrong: it is 1 / 2 = 0.5 times"),
    ("known_word", lambda e, x, a, v: D.known_word(x, e, a, v), "e and x_t have changed places"),
    ("known_word", lambda e, x, a, v: D.known_word(e, x, a, v)[0], "expected a pair: (mean, variance)"),
    ("variance_cost", lambda q, p: D.variance_cost(q, p).sum(), "summed over all its numbers"),
    ("variance_cost", lambda q, p: D.variance_cost(q**2, p**2), "true"),
    ("collapsed_loss", lambda a: D.collapsed_loss(a) / (1 - a[1]), "1 / sigma_0^2 times what is expected"),
    ("e2e_loss", e2e(lambda loss, x0: loss.detach()), "no gradient"),
    ("e2e_loss", e2e(lambda loss, x0: loss * x0.shape[1]), "your answer is L"),
    ("clamped_step", own_level, "x_t is right; what remains"),
    ("free", lambda told, untold, w: 0 * told + 7, "told has no part in your answer"),
    ("free", lambda told, untold, w: D.free(told, untold, w**2), "weight^2 in the place of weight"),
    ("mbr", lambda c, f: len(c) - 1, "it gives 2 where 0 is expected"),
])  # fmt: skip
def test_mistakes_that_no_list_holds_are_described(name, answer, hint):
    state, text = grade(SPECS[f"diffusion_lm.{name}"], answer)
    assert state == "FAIL" and hint in text, text


def test_a_constant_choice_fails():
    for k in range(4):
        assert grade(SPECS["diffusion_lm.mbr"], lambda c, f, k=k: k)[0] == "FAIL"


def test_two_mistakes_are_told_as_two():
    def step(x0_hat, x_t, s, t, table):  # the dot product, and noise that is drawn anew
        x0 = table[(x0_hat @ table.T).argmax(-1)]
        return s.sqrt() * x0 + (1 - s).sqrt() * torch.randn_like(x_t)

    state, text = grade(SPECS["diffusion_lm.clamped_step"], step)
    hints = SPECS["diffusion_lm.clamped_step"].hints
    assert state == "FAIL" and hints["fresh noise"] in text and hints["rounded by the dot product"] in text


def test_the_library_agrees():
    torch.manual_seed(0)
    process = DiffusionLM(SQRT, 5, 3, temperature=1.0)
    e, x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    t = torch.tensor([1, 3, 700, 2000])
    mean, var = process.known_word(e, x, t)
    want = D.known_word(e, x, SQRT[t][:, None, None], process.sigma_0_squared)
    torch.testing.assert_close(mean, want[0])
    torch.testing.assert_close(var, want[1][:, 0, 0])
    model = D.Words()
    model.recall, model.classes = False, 0
    model.explain = lambda x, u, **_: (model(x, u), model.logits(x))
    tokens = torch.randint(7, (4, 5))
    torch.manual_seed(3)
    found = process.loss(model, tokens, t)
    torch.manual_seed(3)
    _, _, x0, x_t = process.diffuse(model, tokens, t)
    want = D.e2e_loss(model, tokens, x0, x_t, t, 2000)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5)  # but for the tT term
    assert D.collapsed_loss(SQRT).item() == pytest.approx(0.014434, abs=1e-6)
    assert process.sigma_0_squared == pytest.approx(0.01464, abs=5e-6)
    small = DiffusionLM(SQRT, 5, 3, variance="small").transition(torch.tensor([2]), torch.tensor([1])).p_var
    cost = D.variance_cost(torch.tensor([process.sigma_0_squared]).double(), small).item()
    assert cost == pytest.approx(0.332, abs=2e-3)


def test_clamping_guidance_and_choice_are_the_library_s():
    torch.manual_seed(1)
    table = torch.randn(9, 2, dtype=torch.float64)

    class Net:
        def __init__(self):
            self.table = table

        def __call__(self, x, u, mask=None, before=None, label=None):
            return 0.7 * x if label is None else 0.7 * x + 0.1

    ddim = DDIM(SQRT, (6, 2), eta=0.0, predicts="x0")
    x, t, s = torch.randn(3, 6, 2, dtype=torch.float64), torch.full((3,), 900), torch.full((3,), 500)
    found = ddim.step(ClampingTrick(Net()), x, t, s)
    want = D.clamped_step(0.7 * x.reshape(-1, 2), x.reshape(-1, 2), SQRT[500], SQRT[900], table)
    torch.testing.assert_close(found.reshape(-1, 2), want)
    label = torch.zeros(3, dtype=torch.long)
    mask = torch.ones(3, 6, dtype=torch.bool)
    found = ClassifierFree(Given(Net(), mask=mask), label, 2.0)(x, torch.rand(3))
    torch.testing.assert_close(found, D.free(0.7 * x + 0.1, 0.7 * x, 2.0))
    pool = [s.split() for s in ("a b c d e", "a b c d f", "x y z u v", "a b c g h")]
    bleu = {
        (id(a), id(b)): text_metrics.bleu_table(pool)[i, j].item()
        for i, a in enumerate(pool)
        for j, b in enumerate(pool)
    }
    assert D.mbr(pool, lambda a, b: bleu[id(a), id(b)]) == text_metrics.mbr(pool)[0]
