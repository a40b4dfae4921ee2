"""One thread; every test on every device present; and a way to call the library as users do, without shape checks."""

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads only get in the way

DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append("cuda")
if torch.backends.mps.is_available():
    DEVICES.append("mps")


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """Turn the tests' shape checks off: bad input must be named by the library's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
