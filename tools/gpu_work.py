"""What `make gpu` measures and trains, each a command of its own: python -m tools.gpu_work mfu|memory|recipes.

The plan of the recipes stands here. A GPU does many rows at once in the time of few, so batches are larger than on a
CPU; how large stands in the log of each run. Ship what came out with: python -m tools.gpu_work ship
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from course_lib.absorbing import Absorbing
from course_lib.files import read_json, write_atomically, write_json
from course_lib.mdlm import MDLM
from course_lib.nets import TokenNet
from course_lib.recipes.command import changed, check_changes
from course_lib.recipes.run import ASSETS, Recipe, find, full_name
from course_lib.recipes.several import Job, run_all
from course_lib.recipes.text8 import K, md4_process
from course_lib.schedules import log_linear
from course_lib.train import train
from tools.bench.measure import finish, operations, peak
from tools.bench.report import machine

# Recipes that made the weights of chapters 4 to 7, in order of priority: share of the time, and what is set. Then what
# is measured of them.
PLAN = (
    ("words.masked", 5, {"batch": 512}),
    ("words.uniform", 3, {"batch": 512}),
    ("diffusion_lm.full", 5, {"batch": 512}),
    ("diffuseq.verses", 3, {"batch": 256}),
    ("diffuseq.sounds", 2, {"batch": 512}),
    ("d3pm.letters_large", 2, {"batch": 256}),
    ("d3pm.absorbing", 1, {"batch": 128}),
    ("sedd.absorbing", 1, {"batch": 128}),
    ("sedd.uniform", 1, {"batch": 128}),
    ("d3pm.uniform", 1, {"batch": 128}),
    ("sedd.mdlm", 1, {"batch": 128}),
    ("words.ar", 1, {"batch": 512}),
    ("diffuseq.sounds_ar", 1, {"batch": 512}),
    ("diffuseq.verses_ar", 0.3, {"batch": 128}),
    ("d3pm.ar", 1, {"batch": 128}),
    ("d3pm.hybrid", 0.7, {"batch": 128}),
    ("sedd.learned_mass", 0.7, {"batch": 128}),
    ("sedd.again", 0.7, {"batch": 128}),
    ("sedd.masks", 0.3, {}),
    ("sedd.two_samplers", 0.5, {}),
    ("diffusion_lm.chosen", 0.6, {}),
    ("words.by_order", 0.6, {}),
)
# Dense bf16 products a second, by the makers' data sheets.
NOMINAL = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
AIM = 0.4  # of the nominal rate, on a Hopper GPU
BIG = 50_257


# Speed


def mfu(device: str, small: bool = False) -> dict:
    """Share of the machine's rate of bf16 products that training the 12 x 768 network on text8 reaches, compiled.

    The work of a step is counted in its matrix products, forward and back; the averaged weights are in the time.
    """
    width, depth, rows, steps = (64, 2, 2, 2) if small else (768, 12, 128, 20)
    process = md4_process().to(device)
    model = TokenNet(process.noise.K, K, width, width // 64, depth).to(device)
    x0 = torch.randint(0, K, (rows, process.length), device=device)
    work = rows * work_of_a_row(process, model, x0)
    compiled = model if small else torch.compile(model)
    records = train(process, compiled, iter(lambda: x0, None), 5 + steps, precision=torch.bfloat16)
    for _ in range(5):  # compile, and warm up
        next(records)
    finish(device)
    start = time.perf_counter()
    for _ in range(steps):
        next(records)
    finish(device)
    seconds = (time.perf_counter() - start) / steps
    rate, best = work / seconds, products(device, 256 if small else 8192)
    nominal = nominal_rate(torch.cuda.get_device_name() if device == "cuda" else "")
    return {
        "machine": machine(device),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_step": x0.numel(),
        "tokens_per_second": x0.numel() / seconds,
        "operations_per_step": work,
        "seconds_per_step": seconds,
        "measured_rate_of_products": best,
        "of_measured": rate / best,
        "nominal_rate": nominal,
        "mfu": rate / nominal if nominal else None,
        "aim": AIM,
    }


def work_of_a_row(process: MDLM, model: TokenNet, x0: torch.Tensor) -> float:
    """Operations in the matrix products of one row's loss and its gradient, attention's among them."""

    def step() -> None:
        process.loss(model, x0[:1], process.sample_t(1)).mean().backward()

    # Of products written out, since fused attention is counted on some devices only.
    with sdpa_kernel(SDPBackend.MATH):
        work = operations(step)
    model.zero_grad()
    return work


def products(device: str, n: int, repeats: int = 10) -> float:
    """bf16 operations a second in products of n x n matrices."""
    a, b = torch.randn(2, n, n, device=device).bfloat16()
    a @ b
    finish(device)
    start = time.perf_counter()
    for _ in range(repeats):
        a @ b
    finish(device)
    return repeats * 2 * n**3 / (time.perf_counter() - start)


def nominal_rate(name: str) -> float | None:
    """By the name of the GPU; None for one that is not on the list."""
    return next((rate for key, rate in NOMINAL.items() if key in name.replace("-", " ").split()), None)


# Memory


def memory(device: str, small: bool = False) -> dict:
    """What one step of MDLM with 50,257 words takes at most, beside what is stated: `stated_bytes`."""
    V, width, depth, rows, length = (1000, 64, 2, 2, 64) if small else (BIG, 768, 12, 8, 1024)
    process = MDLM(Absorbing(V, log_linear()), length).to(device)
    model = TokenNet(V + 1, V, width, width // 64, depth).to(device)
    x0 = torch.randint(0, V, (rows, length), device=device)
    records = train(process, model, iter(lambda: x0, None), 10, precision=torch.bfloat16)
    next(records)  # the optimiser has its state, the weights their average
    parameters = sum(p.numel() for p in model.parameters())
    step = peak(lambda: next(records), device)
    stated = stated_bytes(parameters, rows * length, V, width, depth)
    return {
        "machine": machine(device),
        "words": V,
        "parameters": parameters,
        "tokens_per_step": rows * length,
        "step_MiB": step,
        "stated_MiB": stated / 2**20,
        "kept": None if step is None else step <= stated / 2**20,
    }


def stated_bytes(parameters: int, tokens: int, words: int, width: int, depth: int) -> float:
    """What a step may take beside weights, averages and the optimiser's numbers.

    Gradients and bf16 copies of the weights (6 bytes each); of the masked half of the tokens logits, their softmax
    and gradients (at most 16 bytes a word, doubled for a batch with more masks); of all tokens what the backward pass
    wants of each layer (30 vectors in bf16).
    """
    return 6 * parameters + 16 * tokens * words + 60 * tokens * width * depth


# Recipes


def jobs(out: Path, plan=PLAN) -> list[Job]:
    """The plan as jobs. ValueError for a name or a number that does not exist, before anything runs."""
    made = []
    for name, share, changes in plan:
        recipe = find(name)
        if isinstance(recipe, Recipe):
            check_changes(changes, recipe)
            recipe = changed(recipe, changes)
        about = {"set": changes} if changes else {}
        made.append(Job(name, recipe, out / recipe.chapter, share, about))
    return made


def recipes(device: str, minutes: float, out: Path, plan=PLAN) -> dict[str, str]:
    """Make the plan's weights, logs and results in out/<chapter>/; what became of each."""
    command = f"make gpu STAGES=recipes DEVICE={device} MINUTES={minutes:g}"
    session = out / "session.progress.json"
    became = run_all(jobs(out, plan), command, session, minutes, device, fresh=out)
    write_json(out / "became.json", became)
    return became


def ship(source: Path, target: Path = ASSETS) -> list[str]:
    """Copy runs that are whole into assets/: log, results and, of a recipe, weights. Their names; others stay."""
    shipped = []
    for name, _, _ in PLAN:
        recipe = find(name)
        kinds = ["log.json", "results.json", *["safetensors"] * isinstance(recipe, Recipe)]
        files = [source / f"{full_name(recipe)}.{kind}" for kind in kinds]
        if all(path.is_file() for path in files):
            assert read_json(files[0])["recipe"] == full_name(recipe)
            for path in files:
                goal = target / path.relative_to(source)
                write_atomically(goal, lambda f, path=path: f.write(path.read_bytes()))
            shipped.append(name)
    return shipped


def main(arguments: list[str] | None = None) -> int:
    """One piece of work; what it found goes to --out."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_work")
    parser.add_argument("work", choices=("mfu", "memory", "recipes", "ship"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    asked = parser.parse_args(arguments)
    if asked.work == "ship":
        print("\n".join(ship(asked.out / "recipes")) or "nothing whole to ship")
    elif asked.work == "recipes":
        became = recipes(asked.device, asked.minutes, asked.out / "recipes")
        print("\n".join(f"{name}: {how}" for name, how in became.items()))
    else:
        found = {"mfu": mfu, "memory": memory}[asked.work](asked.device, asked.small)
        write_json(asked.out / f"{asked.work}.json", found)
        print("\n".join(f"{key}: {value}" for key, value in found.items() if key != "machine"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
