"""What would broadcast or be read as something else into a number that looks right is refused by name."""

import math

import pytest
import torch

from course_lib.absorbing import Absorbing
from course_lib.ddpm import DDPM
from course_lib.infilling import approximately
from course_lib.likelihood import ProbabilityFlow
from course_lib.mdlm import MDLM
from course_lib.process import last, sample
from course_lib.schedules import cosine, linear, log_linear, table
from course_lib.sde import VE, VP, SubVP
from course_lib.train import train

N = 4
X = torch.linspace(-1, 1, 2 * N).reshape(N, 2)
T_WHOLE = torch.tensor([1, 2, 3, 1])
T_REAL = torch.full((N,), 0.5)
DISCRETE = DDPM(table(cosine(), N - 1), (2,))  # as many entries as examples
SDES = {"VP": VP(linear(), (2,)), "SubVP": SubVP(linear(), (2,)), "VE": VE((2,))}
NARROW = [X[:1], X[:, :1], X[0]]


def zero(x, u):
    return torch.zeros_like(x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_narrow_integer_times_are_refused_since_torch_reads_some_as_a_mask(dtype, unchecked):
    t = T_WHOLE.to(dtype)
    with pytest.raises(TypeError, match="t must be int32 or int64, not"):
        DISCRETE.corrupt(X, t)
    with pytest.raises(TypeError, match="t must be int32 or int64, not"):
        DISCRETE.loss(zero, X, t)
    with pytest.raises(TypeError, match="must be int32 or int64, not"):
        DISCRETE.step(zero, X, T_WHOLE, (T_WHOLE - 1).to(dtype))


def test_times_of_32_bits_are_those_of_64(unchecked):
    whole = DISCRETE.bound_at(zero, X, X / 2, T_WHOLE)
    torch.testing.assert_close(DISCRETE.bound_at(zero, X, X / 2, T_WHOLE.int()), whole, rtol=0, atol=0)


@pytest.mark.parametrize("narrow", NARROW[:2])
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_a_state_of_another_shape_does_not_broadcast_in_an_sde(sde, narrow, unchecked):
    with pytest.raises(ValueError, match="eps must have the shape of the state"):
        sde.corrupt(X, T_REAL, narrow)
    with pytest.raises(ValueError, match="eps must have the shape of the state"):
        sde.velocity_from_noise(narrow, X, T_REAL)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_noise_of_one_state_is_not_that_of_a_batch(sde, unchecked):
    with pytest.raises(ValueError, match="x_t must have the shape of the state"):
        sde.noise(X, X[:1], T_REAL)


@pytest.mark.parametrize("narrow", NARROW[:2])
def test_a_state_of_another_shape_does_not_broadcast_in_ddpm(narrow, unchecked):
    with pytest.raises(ValueError, match="x0 must have the shape of the state"):
        DISCRETE.posterior(narrow, X, T_WHOLE, T_WHOLE - 1)
    with pytest.raises(ValueError, match="out must have the shape of the state"):
        DISCRETE.convert(narrow, X, T_WHOLE, "x0")
    with pytest.raises(ValueError, match="x0 must have the shape of the state"):
        DISCRETE.target(narrow, X, T_WHOLE)


@pytest.mark.parametrize("keepdim", [True, False])
def test_a_prior_says_one_number_per_example(keepdim, unchecked):
    def log_prior(z):
        return z.sum(1, keepdim=True) if keepdim else z.sum()

    flow = ProbabilityFlow(SDES["VP"])
    with pytest.raises(ValueError, match=r"log_prior must return shape \(4,\)"):
        flow.log_prob(zero, X, log_prior=log_prior)


def test_a_clamp_that_ends_in_nan_or_elsewhere_is_named(unchecked):
    times = iter(range(N))

    def nan_at_the_end(x):
        return x * math.nan if next(times) == N - 1 else x

    with pytest.raises(FloatingPointError, match="what clamp returns must be finite"):
        last(sample(DISCRETE, zero, 2, N - 1, approximately(nan_at_the_end)))
    with pytest.raises(ValueError, match="clamp must return a state on x's device"):
        last(sample(DISCRETE, zero, 2, 2, approximately(lambda x: x.to("meta"))))


@pytest.mark.parametrize("name", ["ema", "clip"])
@pytest.mark.parametrize("value", ["0.9", None, True])
def test_settings_of_training_are_numbers(name, value, unchecked):
    with pytest.raises(TypeError, match=f"{name} must be a number, not"):
        list(train(DISCRETE, torch.nn.Linear(2, 2), [X], 1, **{name: value}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_too_coarse_to_average_are_not_trained(dtype, unchecked):
    model = torch.nn.Linear(2, 2).to(dtype)
    with pytest.raises(ValueError, match="model must have float32 or float64 weights"):
        next(train(DISCRETE, model, [X], 1))


def test_pieces_are_a_dict_of_places(unchecked):
    with pytest.raises(TypeError, match="pieces must be {position: tokens}, not list"):
        MDLM(Absorbing(3, log_linear()), 4).given([1, 2], 3)


def test_an_average_that_was_read_from_a_file_takes_no_gradient(tmp_path):
    """It would hang on the model's graph, and grow with every step."""
    model = torch.nn.Linear(2, 2)
    net = Asked(model)
    list(train(DISCRETE, net, [X] * 2, 2, checkpoint=tmp_path / "c"))
    record = last(train(DISCRETE, net, [X] * 3, 3, checkpoint=tmp_path / "c"))
    tensors = record.average.tensors().values()
    assert record.step == 3 and all(not v.requires_grad and v.grad_fn is None for v in tensors)


class Asked(torch.nn.Module):
    """A network of x alone."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, u):
        return self.inner(x)
