"""What was given wrongly is named, with what came and what must come, where it was called; nothing of torch shows."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib import schedules as S
from course_lib.absorbing import Absorbing
from course_lib.autoregressive import Autoregressive
from course_lib.d3pm import D3PM
from course_lib.ddpm import DDPM
from course_lib.diffusion_lm import DiffusionLM
from course_lib.evaluate import bound
from course_lib.first_hitting import first_hitting
from course_lib.guidance import NoisyClassifierTraining
from course_lib.learned_variance import LossAware
from course_lib.mask_count import MaskCount
from course_lib.mdlm import MDLM
from course_lib.nets import MLP, CausalNet, TokenNet
from course_lib.ordered import Ordered
from course_lib.process import Process, last, sample
from course_lib.sde import VP
from course_lib.sedd import SEDD
from course_lib.sentences import Labelled
from course_lib.stationary import Uniform
from course_lib.train import train
from course_lib.word_nets import EmbeddingNet, SentenceClassifier

LINE = S.table(S.log_linear(0.0), 6, max_beta=1.0)
CURVE = S.table(S.cosine(power=1), 6)
D = lambda: D3PM(Absorbing(3, LINE), 4)  # noqa: E731
M = lambda: MDLM(Absorbing(3, S.log_linear()), 4)  # noqa: E731
GAUSS = lambda: DDPM(S.ddpm_table(50), (2,))  # noqa: E731
NET, MLP2 = TokenNet(4, 3, 16, 2, 1), MLP((2,), 8, 1)
ROWS, X, T8 = torch.randint(0, 3, (8, 4)), torch.randn(8, 2), torch.ones(8).long()
PADDED = torch.tensor([[0, 1, -1, -1], [0, 1, 2, 2]])
ONE_DEVICE = "model and process must be on one device, not on meta and cpu: use .to"
NO_MASKS = "process must be MaskedD3PM, MDLM or SEDD on absorbing noise, not "
NO_CLOCK = "process must have absorbing noise in continuous time, as MDLM and SEDD on masks have, not be "


def meta(net):
    return net.to("meta")


def trained(lr):
    return last(train(GAUSS(), MLP((2,), 8, 1), [X] * 2, 2, lr=lr))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: first_hitting(D(), NET, 3), ValueError, NO_CLOCK + "MaskedD3PM of Absorbing"),
        (lambda: first_hitting(Ordered(3, 4), NET, 3), ValueError, NO_CLOCK + "Ordered of Absorbing"),
        (lambda: first_hitting(GAUSS(), NET, 3), ValueError, NO_CLOCK + "DDPM"),
        (lambda: first_hitting(M(), None, 3), TypeError, r"model must be callable as model\(x_t, u\), not NoneType"),
        (lambda: first_hitting(M(), M(), 3), TypeError, "model must be callable"),
        (lambda: sample(M(), M(), 3, 3), TypeError, "model must be callable"),
        (lambda: MaskCount(Ordered(3, 4)), ValueError, NO_MASKS + "Ordered of Absorbing"),
        (lambda: MaskCount(D3PM(Uniform(3, CURVE), 4)), ValueError, NO_MASKS + "D3PM of Uniform"),
        (lambda: MaskCount(GAUSS()), ValueError, NO_MASKS + "DDPM"),
        (lambda: bound(MaskCount(D()), NET, PADDED), ValueError, "one has 2: what a number of masks says of the time"),
        (lambda: sample(D(), meta(TokenNet(4, 3, 16, 2, 1)), 2, 3), ValueError, ONE_DEVICE),
        (lambda: sample(VP(S.linear(), (2,)), meta(MLP((2,), 8, 1)), 2, 3), ValueError, ONE_DEVICE),
        (lambda: first_hitting(M(), meta(TokenNet(4, 3, 16, 2, 1)), 2), ValueError, ONE_DEVICE),
        (lambda: bound(GAUSS(), meta(MLP((2,), 8, 1)), X), ValueError, ONE_DEVICE),
        (lambda: bound(D(), NET, ROWS.to("meta")), ValueError, "data must be on the process's device, cpu, not on"),
        (lambda: bound(D().to("meta"), NET, ROWS), ValueError, "process must be on a device that holds numbers"),
        (lambda: sample(D().to("meta"), NET, 2, 3), ValueError, "process must be on a device that holds numbers"),
        (lambda: sample(D(), NET, 3, np.array([6, 0])), TypeError, "steps must be an int or a tensor of falling times"),
        (lambda: sample(D(), NET, 3, [6, 0]), TypeError, "steps must be an int or a tensor of falling times, not list"),
        (lambda: GAUSS().corrupt(X.numpy(), T8), TypeError, "x0 must be a float tensor, not ndarray"),
        (lambda: GAUSS().corrupt(X.long(), T8), TypeError, "x0 must be a float tensor, not torch.int64"),
        (lambda: GAUSS().corrupt(X, T8.numpy()), ValueError, "one time per example, not ndarray"),
        (lambda: trained(lambda step: "0.1"), TypeError, r"lr\(1\) must be a number, not str"),
        (lambda: trained(lambda step: None), TypeError, r"lr\(1\) must be a number, not NoneType"),
        (lambda: Process().corrupt(X, T8), NotImplementedError, "Process has no corrupt"),
        (lambda: Process().step(NET, X, T8, T8), NotImplementedError, "Process has no step"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(call, error, says, unchecked):
    with pytest.raises(error, match=says):
        call()


def test_a_rate_may_be_a_tensor_of_one_number():
    assert trained(lambda step: torch.tensor(0.1)).step == 2


class Counts(Process):
    """Without tables, so on no device."""

    T = 3

    def bound(self, model, data, t):
        return model(data, t).sum(1)


def test_what_has_no_tables_is_on_no_device():
    """A network anywhere may be scored with it; autoregression has a place, and is asked for it."""
    net, rows = MLP((2,), 8, 1).to("meta"), X.to("meta")
    with pytest.raises((NotImplementedError, RuntimeError)) as error:  # reading a number, and not before
        bound(Counts(), net, rows)
    assert "one device" not in str(error.value) and "data must" not in str(error.value)
    with pytest.raises(ValueError, match=ONE_DEVICE):
        bound(Autoregressive(7, 5), CausalNet(7, 16, 2, 1).to("meta"), ROWS)


def test_autoregressions_published_bound_is_its_bound():
    process = Ordered(3, 4)
    whole, published = bound(process, NET, ROWS, seed=3), bound(process, NET, ROWS, seed=3, term="published")
    assert whole == published
    x_t = process.corrupt(ROWS, 2 * T8)
    torch.testing.assert_close(
        process.bound_at(NET, ROWS, x_t, 2 * T8), 4 * process.loss_at(NET, ROWS, x_t, 2 * T8)
    )


# The average of another network


@pytest.mark.parametrize(
    ("other", "error", "says"),
    [
        (MLP((2,), 16, 1), ValueError, r"its .* is \(16.*, but that of the average is \(8"),
        (MLP((2,), 8, 2), ValueError, r"its film.weight is \(32, 8\), but that of the average is \(16, 8\)"),
        (NET, ValueError, "is missing, but that of the average is"),
        (None, TypeError, "model must be the network that was trained, not NoneType"),
    ],
)
def test_an_average_is_swapped_into_its_own_network_only(other, error, says, unchecked):
    average = trained(1e-3).average
    before = None if other is None else [p.clone() for p in other.parameters()]
    with pytest.raises(error, match=says), average.applied(other):
        pass
    assert other is None or all(map(torch.equal, before, other.parameters()))


# The noisy classifier


LABELLED = Labelled(torch.randint(0, 7, (5, 6)), torch.tensor([0, 1, 2, 0, 1]))
T5 = torch.tensor([1, 2, 3, 4, 5])


def training():
    return NoisyClassifierTraining(DiffusionLM(S.table(S.sqrt(), 10), 6, 4), EmbeddingNet(7, 4, 16, 2, 1))


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (torch.zeros(5, 6, 3), ValueError, r"model must return shape \(5, 'classes'\), not \(5, 6, 3\)"),
        (torch.zeros(3), ValueError, r"not \(3,\)"),
        (torch.zeros(4, 3), ValueError, r"model must return shape \(5, 3\), not \(4, 3\)"),
        (torch.zeros(5, 2), ValueError, r"labels must lie in 0..1, as the model has 2 classes, not 0..2"),
        ((torch.zeros(5, 3),), TypeError, "model must return a tensor, not tuple"),
        (torch.zeros(5, 3).long(), TypeError, "model must return floats, not torch.int64"),
        (torch.zeros(5, 3, device="meta"), ValueError, "on the device of its input, cpu, not on meta"),
        (torch.full((5, 3), torch.nan), FloatingPointError, "the classifier's output must be finite"),
    ],
)
def test_a_classifiers_answer_is_looked_at(answer, error, says, unchecked):
    with pytest.raises(error, match=says):
        training().loss(lambda x, u, mask: answer, LABELLED, T5)


def test_a_classifier_is_trained_on_labelled_sentences_of_a_diffusion_lm(unchecked):
    classifier = SentenceClassifier(4, 3, 16, 2, 1)
    small = Labelled(LABELLED.tokens, LABELLED.labels.to(torch.uint8))
    assert training().loss(classifier, small, T5).shape == (5,)
    with pytest.raises(TypeError, match="data must be Labelled, not torch.int64"):
        training().loss(classifier, LABELLED.tokens, T5)
    with pytest.raises(TypeError, match="process must be a DiffusionLM, not DDPM"):
        NoisyClassifierTraining(GAUSS(), EmbeddingNet(7, 4, 16, 2, 1))
    with pytest.raises(TypeError, match="model must be a network of words"):
        NoisyClassifierTraining(DiffusionLM(S.table(S.sqrt(), 10), 6, 4), None)


# Made under inference mode


MADE = {
    "uniform": lambda: D3PM(Uniform(3, CURVE), 4, predicts="posterior", ce_weight=0.1),
    "masks": D,
    "counted": lambda: MaskCount(D()),
    "counted, continuous": lambda: MaskCount(M()),
    "sedd": lambda: SEDD(Uniform(3, S.log_linear()), 4),
    "mdlm": M,
    "ordered": lambda: Ordered(3, 4),
    "ddpm": GAUSS,
    "loss-aware": lambda: LossAware(GAUSS(), history=1),
    "vp": lambda: VP(S.linear(), (2,)),
}


@pytest.mark.parametrize("name", MADE)
def test_a_process_made_under_inference_mode_trains_like_another(name):
    with torch.inference_mode():
        made = MADE[name]()
    assert not any(table.is_inference() for table in made.buffers())
    net = TokenNet(made.noise.K, 3, 16, 2, 1) if hasattr(made, "length") else MLP((2,), 8, 1)
    record = last(train(made, net, [ROWS if hasattr(made, "length") else X] * 2, 2))
    assert record.loss.isfinite().all()
    torch.manual_seed(1)
    a = last(sample(made, net, 2, 2))[1]
    torch.manual_seed(1)
    assert torch.equal(a, last(sample(MADE[name](), net, 2, 2))[1])


# No waiting


class Waits(TorchDispatchMode):
    """Notes what would make a GPU wait: numbers that are read, and places picked by a mask."""

    def __init__(self):
        super().__init__()
        self.met = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"):
            self.met.append(name)
        return func(*args, **(kwargs or {}))


def test_loss_aware_remembers_without_reading_a_number():
    aware = LossAware(GAUSS(), history=2)
    t = torch.tensor([3, 3, 3, 50, 1, 50])
    loss = torch.tensor([1.0, 2.0, 3.0, torch.nan, 5.0, 6.0])
    with Waits() as waits:
        aware.remember(t, loss)
        aware.sample_t(4)
    assert waits.met == []
    # Of three losses at t = 3 the last two are kept, and NaN nowhere.
    assert aware.losses[2].sort().values.tolist() == [2, 3] and aware.losses[49].tolist() == [6, 0]
    assert aware.losses[0].tolist() == [5, 0] and aware.losses.count_nonzero() == 4
    assert aware.seen[[0, 2, 49]].tolist() == [1, 3, 1] and aware.seen.sum() == 5
    aware.remember(torch.tensor([3]), torch.tensor([7.0]))
    assert aware.losses[2].sort().values.tolist() == [3, 7]
