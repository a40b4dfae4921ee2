"""What tests of many processes share: small trainings, and two processes that run some of them.

python -m tests.processes FOLDER NAME...     in each of the processes, which the environment numbers
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from course_lib import parallel
from course_lib.absorbing import Absorbing
from course_lib.checkpoint_parts import folder_of
from course_lib.data import MarkovLanguage, batches
from course_lib.diffusion_lm import DiffusionLM
from course_lib.evaluate import bound
from course_lib.mask_count import MaskCount
from course_lib.mdlm import MDLM
from course_lib.nets import TokenNet
from course_lib.schedules import log_linear, sqrt, table
from course_lib.text_stream import packed, padded
from course_lib.train import train
from course_lib.validation import Validation
from course_lib.weights import Averaged, load_weights, save_weights, weights_of, whole
from course_lib.word_nets import EmbeddingNet

STEPS, SIZE, K, L = 9, 14, 6, 8  # 14 is no multiple of 4 parts
ROOT = Path(__file__).resolve().parents[1]
TEXTS = [chr(97 + i % 26) * (1 + i % 7) for i in range(23)]


def process(count=False):
    masked = MDLM(Absorbing(K, log_linear()), L)
    return MaskCount(masked) if count else masked


def network(dropout=0.0):
    torch.manual_seed(0)
    return TokenNet(K + 1, K, width=16, heads=2, depth=2, dropout=dropout)


class Plain(nn.Module):
    """Not the library's, whose shape checks torch.compile cannot see through."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Embedding(K + 1, 16), nn.Linear(16, K)

    def forward(self, x, u):
        return self.leave((self.enter(x) + u[:, None, None]).relu())


def fsdp(net):
    from torch.distributed.fsdp import fully_shard

    for block in next(part for part in net.modules() if isinstance(part, nn.ModuleList)):
        fully_shard(block)
    return fully_shard(net)


DRESSES = {
    "plain": lambda net: net,
    "ddp": DistributedDataParallel,
    "fsdp": fsdp,
    "compiled": lambda net: DistributedDataParallel(torch.compile(net, backend="eager")),
}


def data():
    torch.manual_seed(1)
    return MarkovLanguage(K, L).sample(60)


def end(model, record) -> dict:
    """Weights and averages, whole and by their plain names."""
    with record.average.applied(model):
        average = {k: whole(v).clone() for k, v in weights_of(model).items()}
    return {"weights": {k: whole(v).clone() for k, v in weights_of(model).items()}, "average": average}


def run(dress="plain", net=network, upto=STEPS, count=False, draws=lambda record: None, lr=3e-3, **options):
    """Losses and norms by step, weights and averages."""
    model, x = DRESSES[dress](net()), data()
    torch.manual_seed(5)
    losses, norms, record = [], [], None
    for record in train(process(count), model, batches(x, SIZE), STEPS, lr, **options):
        losses.append(record.loss), norms.append(record.norm)
        if record.step == upto < STEPS:
            break
        draws(record)
    return {
        "losses": torch.stack(losses),
        "norms": torch.stack(norms),
        "step": record.step,
        **end(model, record),
    }


# What is run in one process and in two; each gives a dictionary


def trained(folder):
    """Equal to one process, however dressed."""
    plain = run()
    return {
        "plain": plain,
        **{dress: run(dress) if parallel.world() > 1 else plain for dress in ("ddp", "fsdp")},
        "compiled": run("compiled" if parallel.world() > 1 else "plain", Plain),
        "seed": run(seed=3),
        "seed fsdp": run("fsdp" if parallel.world() > 1 else "plain", seed=3, micro=4),
        "micro": run("ddp" if parallel.world() > 1 else "plain", micro=4),
        "bfloat16": run(precision=torch.bfloat16),
    }


def parted(folder):
    """What draws part by part is equal for equally many parts."""
    torch.manual_seed(0)
    words = EmbeddingNet(K, 3, width=16, heads=2, depth=1)
    p, x = DiffusionLM(table(sqrt(), 40), L, 3), data()
    torch.manual_seed(5)
    records = list(train(p, words, batches(x, SIZE), STEPS, 3e-3, micro=2))
    record, losses = records[-1], torch.stack([r.loss for r in records])
    return {
        "dropout": run(net=lambda: network(0.3), micro=2),
        "count": run(count=True, micro=2, seed=4),
        "words": {"losses": losses, "norms": record.norm[None], "step": STEPS, **end(words, record)},
    }


def stopped(folder):
    """Checkpoints left at half the way, for another number of processes; FSDP2 stopped and continued by itself."""
    W = parallel.world()
    for dress in ("plain", "fsdp") if W > 1 else ("plain",):
        path = folder / f"half.{dress}.{W}"
        run(dress, upto=7, checkpoint=path, every=6)
    if W == 1:
        return {}
    path = folder / "again"
    whole_run = run("fsdp", precision=torch.bfloat16)
    run("fsdp", upto=7, checkpoint=path, every=6, precision=torch.bfloat16)
    rest = run("fsdp", checkpoint=path, every=6, precision=torch.bfloat16)
    return {"whole": whole_run, "rest": rest}


def continued(folder):
    """On from what the other number of processes left."""
    W = parallel.world()
    made = {}
    for name in ("plain", "fsdp"):
        left = folder / ("half.plain.1" if W > 1 else f"half.{name}.2")
        mine = folder / f"on.{name}.{W}"
        parallel.together(lambda left=left, mine=mine: copied(left, mine))
        made[name] = run(name if W > 1 else "plain", checkpoint=mine, every=100)
        assert len(made[name]["losses"]) == STEPS - 6
    return made


def copied(left, mine):
    """A copy of a checkpoint, and of the parts beside it."""
    shutil.copy(left, mine)
    if (parts := folder_of(left)).is_dir():
        shutil.copytree(parts, folder_of(mine))


def streams(folder):
    """Text: each process encodes its rows only, and all have the whole batch."""
    seen = []

    def encode(text):
        seen.append(text)
        return [ord(c) - 97 for c in text]

    made = {}
    for name, stream in (
        ("packed", packed(TEXTS, encode, 5, 3, end=26)),
        ("padded", padded(TEXTS, encode, 7, 3)),
    ):
        seen.clear()
        made[name] = torch.stack([next(stream) for _ in range(9)])
        made[f"{name} encoded"] = len(seen)
        made[f"{name} place"] = stream.state_dict()
    return made


def asides(folder):
    """What only one process does, and what all agree on."""
    W, r = parallel.world(), parallel.rank()
    made = {
        "draws": run(draws=lambda record: torch.rand(1 + r) if W > 1 else None),
        "clock": [],
    }
    model = network()
    for record in train(process(), model, batches(data(), SIZE), 5, lambda step: 1e-3, minutes=1.0):
        made["clock"].append((record.elapsed, record.progress))
    (folder / "file").write_text("")
    try:
        run(checkpoint=folder / "file" / "c" if r == 0 else folder / "fine")
    except OSError as error:
        made["error"] = str(error)
    try:
        run(net=lambda: network().requires_grad_(False))
    except ValueError as error:
        made["frozen"] = str(error)
    return made


def measured(folder):
    """Validation and files with a model whose weights are spread."""
    W = parallel.world()
    measure = lambda model: bound(process(), model, data()[:20]).mean  # noqa: E731
    v = Validation(measure, 4)
    model = fsdp(network()) if W > 1 else network()
    torch.manual_seed(5)
    *_, record = train(process(), model, batches(data(), SIZE), STEPS, 3e-3, validation=v)
    with v.applied(model):
        save_weights(folder / f"best.{W}", model, {"step": v.best[0]})
    other = fsdp(network()) if W > 1 else network()
    about = load_weights(folder / f"best.{W}", other)
    same = {k: whole(p).clone() for k, p in weights_of(other).items()}
    is_network = isinstance(record.average, Averaged)
    return {"curve": v.curve, "about": about, "best": same, "network": is_network, **end(model, record)}


WHAT = {f.__name__: f for f in (trained, parted, stopped, continued, streams, asides, measured)}


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(folder, names, count=2, **more) -> list[subprocess.Popen]:
    """Start so many processes that run these."""
    port = free_port()
    base = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    base |= {"MASTER_PORT": str(port), "WORLD_SIZE": str(count), **more}
    command = [sys.executable, "-m", "tests.processes", str(folder), *names]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    return [
        subprocess.Popen(command, env=base | {"RANK": str(i), "LOCAL_RANK": str(i)}, **pipes)
        for i in range(count)
    ]


def both(folder, names) -> list[dict]:
    """What two processes give, one after the other."""
    children = start(folder, names)
    said = [child.communicate(timeout=240)[0] for child in children]
    assert all(child.returncode == 0 for child in children), "\n".join(said)
    return [torch.load(folder / f"{i}.pt", weights_only=False) for i in range(2)]


def main(folder, *names):
    torch.set_num_threads(1)
    parallel.join()
    made = {name: WHAT[name](Path(folder)) for name in names}
    torch.save(made, Path(folder) / f"{parallel.rank()}.pt")
    parallel.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
