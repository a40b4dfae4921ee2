"""What tests/contract/test_devices.py starts: train, measure and sample every system on a device, and print for each
what the loops made the host wait for, or the error. `python -m tests.contract.waits pretend`, or cuda.
"""

import json
import sys
import traceback
import warnings
from contextlib import contextmanager

import torch

from course_lib.process import sample
from course_lib.train import train
from tests import pretend_device
from tests.contract.test_contract import SYSTEMS, B


@contextmanager
def waits(device):
    """The places inside that make the host wait for the device."""
    if device == pretend_device.NAME:
        with pretend_device.waits() as found:
            yield found
        return
    found = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield found
        torch.cuda.set_sync_debug_mode("default")
    found += [f"wait {w.filename}:{w.lineno}" for w in said if "synchronizing" in str(w.message)]


def run(make, device):
    """Losses here and there from equal draws, and the waits of one step of training and one of sampling."""
    torch.manual_seed(0)
    process, model, data = make()
    for p in model.parameters():
        p.data.normal_(std=0.2)
    torch.manual_seed(1)
    here = process.loss(model, data, process.sample_t(B)).mean().item()
    process, model, data = process.to(device), model.to(device), data.to(device)
    torch.manual_seed(1)
    there = process.loss(model, data, process.sample_t(B)).mean().item()
    bound = process.bound(model, data, process.sample_t(B))
    assert bound.device.type == device and bound.isfinite().all()
    records = train(process, model, iter(lambda: data, None), steps=3)
    next(records)
    with waits(device) as training:
        record = next(records)
    next(records)
    assert record.loss.device.type == device
    states = sample(process, model, 4, 5)
    next(states), next(states)
    with waits(device) as sampling:
        x = next(states)[1]
    assert x.device.type == device
    return {"losses": [here, there], "train": sorted(set(training)), "sample": sorted(set(sampling))}


def main(device):
    if device == pretend_device.NAME:
        pretend_device.install()
    torch.set_num_threads(1)
    found = {}
    for name, make in SYSTEMS.items():
        try:
            found[name] = run(make, device)
        except Exception:
            found[name] = {"error": traceback.format_exc(limit=-6)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
