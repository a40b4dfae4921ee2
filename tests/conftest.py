"""One thread; every test on every device present; calls without shape checks; and no skip without a good reason.

COURSE_DEVICE=cuda makes that the only device, and what the tests of mathematics make lies there (`make gpu` does so).
"""

import os
import sys
import tempfile
from importlib.metadata import version

import jaxtyping
import pytest
import torch

if not os.access(os.path.expanduser("~"), os.W_OK):  # what others keep there goes elsewhere: they would warn
    for name in (
        "IPYTHONDIR",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "MPLCONFIGDIR",
        "XDG_CACHE_HOME",
        "COURSE_CACHE",
    ):
        os.environ.setdefault(name, tempfile.mkdtemp(prefix="course-"))
torch.set_num_threads(1)  # tiny tensors: threads only get in the way

DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append("cuda")
if torch.backends.mps.is_available():
    DEVICES.append("mps")
CHOSEN = os.environ.get("COURSE_DEVICE")
if CHOSEN:
    if CHOSEN == "pretend":
        from tests import pretend_device

        pretend_device.install()
    torch.zeros(1, device=CHOSEN)  # now, if it is not there
    DEVICES = [CHOSEN]
ROOMS = {"exact", "contract", "layers"}  # tests that may lie on any device


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def chosen_device() -> str:
    """COURSE_DEVICE, else the CPU."""
    return CHOSEN or "cpu"


@pytest.fixture(autouse=True)
def on_the_chosen_device(request):
    """Whatever a test of mathematics makes lies on the device that was chosen."""
    if CHOSEN in (None, "cpu") or request.path.parent.name not in ROOMS:
        yield
        return
    torch.set_default_device(CHOSEN)
    yield
    torch.set_default_device(None)


@pytest.fixture
def unchecked():
    """Turn the tests' shape checks off: bad input must be named by the library's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# `make test` and CI: what was skipped was not tested


def may_be_skipped(reason: str) -> bool:
    """A device that is not there; a browser on a laptop, not in CI; what only another system or version has."""
    if "needs a CUDA device" in reason or "needs an MPS device" in reason:
        return True
    if "needs Chromium" in reason:
        return not os.environ.get("CI") or sys.platform != "linux"
    if "needs diffusers 0.39" in reason:  # of which the oldest versions allowed are no part
        return tuple(map(int, version("diffusers").split(".")[:2])) < (0, 39)
    return ("needs POSIX" in reason and sys.platform == "win32") or (
        "needs glibc" in reason and sys.platform != "linux"
    )


def fail_a_skip(report):
    """Turn a skip into a failure under COURSE_STRICT; an expected failure is none."""
    if os.environ.get("COURSE_STRICT") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not may_be_skipped(reason):
            report.outcome, report.longrepr = "failed", f"skipped, and not for want of a device: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return fail_a_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return fail_a_skip((yield))
