"""Trainings killed at random moments, again and again, lose nothing: also one process of two.

python -m tests.tools.test_kills 100      so many kills; the test-suite does a few
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from course_lib import parallel
from course_lib.checkpoint_parts import folder_of
from course_lib.files import load_tensors
from course_lib.train import train
from tests import processes as P


def train_on(path, steps, dress="plain"):
    """Train, with a checkpoint at every third step; what comes of it, also left beside the checkpoint."""
    model = P.DRESSES[dress](P.network())
    torch.manual_seed(5)
    stream = P.batches(P.data(), P.SIZE)
    for record in train(P.process(), model, stream, int(steps), 3e-3, checkpoint=path, every=3, seed=1):
        if parallel.first() and record.step % 3 == 0:
            print(record.step, flush=True)
    made = P.end(model, record)
    if parallel.first():
        torch.save(made, f"{path}.end")
    return made


def start(path, steps, dress, count):
    """One process or more, a line on the first one's stdout at each third step."""
    command = [sys.executable, "-m", "tests.tools.test_kills", "train", str(path), str(steps), dress]
    base = os.environ | {"PYTHONPATH": str(P.ROOT), "OMP_NUM_THREADS": "1"}
    if count > 1:
        base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(P.free_port()), "WORLD_SIZE": str(count)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "cwd": P.ROOT}
    ranks = [{"RANK": str(i), "LOCAL_RANK": str(i)} if count > 1 else {} for i in range(count)]
    return [subprocess.Popen(command, env=base | more, **pipes) for more in ranks]


def kill_often(
    folder: Path, kills: int, steps: int, dress="plain", count=1, seed=0
) -> tuple[dict, list[int]]:
    """Kill a training at random moments, then let it end: what comes of it, and the checkpoints' steps at each kill."""
    draw, path, left = random.Random(seed), folder / "c", []
    while True:
        children = start(path, steps, dress, count)
        if len(left) < kills:
            children[0].stdout.readline()  # some steps have been made
            time.sleep(draw.uniform(0, 0.3))
            draw.choice(children).kill()
        codes = [child.wait(timeout=600) for child in children]  # the others end by themselves
        for child in children:
            child.stdout.close()
        if codes == [0] * count:
            return torch.load(f"{path}.end", weights_only=False), left
        left.append(load_tensors(path)[1]["step"] if path.exists() else 0)
        assert len(left) <= kills, "it fails without being killed"
        beside = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
        assert beside <= {path.name, folder_of(path).name, f"{path.name}.end"}, beside


def same(a, b):
    for part in ("weights", "average"):
        assert all(v.equal(b[part][k]) for k, v in a[part].items())


def test_a_training_killed_at_random_moments_loses_nothing(tmp_path):
    killed, left = kill_often(tmp_path, 3, 120)
    same(killed, train_on(tmp_path / "whole", 120))
    assert left and left == sorted(left), "what was written once is never lost"


def test_one_process_of_two_is_killed(tmp_path):
    """kill -9 of one of them: the other ends by itself, and both go on from their parts of the weights."""
    killed, left = kill_often(tmp_path, 1, 30, "fsdp", count=2)
    whole = train_on(tmp_path / "whole", 30)
    assert len(left) == 1
    for part in ("weights", "average"):
        torch.testing.assert_close(killed[part], whole[part], atol=1e-5, rtol=1e-4)


def main(kills, dress="plain", count=1):
    with tempfile.TemporaryDirectory() as folder:
        parts, steps = [Path(folder) / "whole", Path(folder) / "killed"], 20 * kills
        [part.mkdir() for part in parts]
        whole, _ = kill_often(parts[0], 0, steps, dress, count)
        killed, left = kill_often(parts[1], kills, steps, dress, count)
    same(killed, whole)
    assert left == sorted(left)
    print(
        f"{len(left)} kills; checkpoints were at step {left}; the end of {steps} is the same to the last bit"
    )


if __name__ == "__main__":
    if sys.argv[1] == "train":
        torch.set_num_threads(1)
        parallel.join()
        train_on(*sys.argv[2:])
        parallel.leave()
    else:
        main(int(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:4]))
