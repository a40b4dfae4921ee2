"""Write docs/REFERENCE.md: every public name of the library by task, with its signature and what its docstring says.

python -m tools.reference           write it
python -m tools.reference --check   exit 1 where it is out of date
"""

import argparse
import ast
import sys
from pathlib import Path
from typing import NamedTuple

from course_lib.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "REFERENCE.md"
TASKS = {  # what one wants to do -> the files where that is done
    "Understand what a process is": "process wrapper unified shapes finite process_checks token_checks",
    "Choose a clock": "schedules information",
    "Choose a noise on tokens": "categorical stationary absorbing mask_uniform structured geodesics",
    "Choose a system for real numbers": "ddpm linear_sde sde grey_levels",
    "Choose a system for tokens": "tokens d3pm mdlm sedd mask_count first_hitting ordered autoregressive",
    "Write with a masked model in another way": "samplers decoding remasking speculative",
    "Correct, guide and move by rates": "correctors token_guidance discrete_flow",
    "Go beyond one length and one noise": "block_diffusion insertion duo",
    "Look into SEDD": "score_entropy tweedie",
    "Choose a system for words": "word_chain diffusion_lm diffuseq self_conditioning clamping",
    "Build a network": "nets transformer layers embeddings word_vectors word_nets block_nets length_extrapolation",
    "Load data": "data sentences text_stream batching verses pronunciations pairs downloads",
    "Train": "train validation learning_rate budget training_input checkpoint weights identity files",
    "Train as many processes": "parallel shares random_state checkpoint_parts",
    "Sample with another solver": "ddim solvers dpm_solver",
    "Choose the variance of the way back": "optimal_variance learned_variance sn_npr diagonal_variance",
    "Fill in what is missing": "infilling",
    "Compare with published code": "released",
    "Guide": "guidance",
    "Choose among samples and mend them": "proofread",
    "Measure": "evaluate enumerated joint likelihood image_judge distances ngram text_metrics cur",
    "Check against a perfect network": "oracle word_oracle",
    "Draw and move": "plots colours style widgets diagrams",
    "Teach: notebooks and exercises": "notebook errata predictions exercise checks listed cases drawn diagnosis trial "
    "linear by_argument gradients relations factors compare quantities slips slip_kinds edits turns answers",
    "Make the shipped weights": "recipes",
}
MORE = "More"
CONTRACT = {  # what every process has: said once
    "corrupt", "prior", "loss", "loss_at", "bound", "bound_at", "step", "fresh", "encode", "decode", "ask", "u",
    "sample_t", "times", "check_times", "check_t", "check_positive", "check_state", "check_step", "check_clamp",
    "clamps_exactly",
}  # fmt: skip


class Entry(NamedTuple):
    """A public name: how it is called, what it says of itself, and the public names inside."""

    name: str
    call: str
    words: str
    inside: list


def first_words(node) -> str:
    """The first paragraph of a docstring on one line, '' without one."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def arguments(function, skip: int = 0) -> str:
    """'x, t=1.0, *, clamp=None': names and defaults, without the first `skip`; annotations are in the source."""
    a = function.args
    places = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(places) - len(a.defaults)) + a.defaults
    said = [_argument(arg, default) for arg, default in zip(places, defaults, strict=True)][skip:]
    if a.vararg:
        said.append(f"*{a.vararg.arg}")
    elif a.kwonlyargs:
        said.append("*")
    said += [_argument(arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    return ", ".join(said + ([f"**{a.kwarg.arg}"] if a.kwarg else []))


def _argument(arg, default):
    return arg.arg if default is None else f"{arg.arg}={ast.unparse(default)}"


def _is(function, *names):
    return {ast.unparse(d).split("(")[0].split(".")[-1] for d in function.decorator_list} & {*names}


def of_class(node) -> Entry:
    """A class: called as its __init__ is, or with the fields of a dataclass or named tuple; its documented methods."""
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    start = next((m for m in methods if m.name == "__init__"), None)
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    if start:
        call = f"{node.name}({arguments(start, 1)})"
    else:
        said = [f.target.id if f.value is None else f"{f.target.id}={ast.unparse(f.value)}" for f in fields]
        call = f"{node.name}({', '.join(said)})" if said and _is_record(node) else node.name
    bases = [ast.unparse(base) for base in node.bases]
    words = first_words(node)
    known = CONTRACT if node.name != "Process" else ()
    inside = [
        _method(m) for m in methods if not m.name.startswith("_") and m.name not in known and first_words(m)
    ]
    return Entry(node.name, call + (f" : {', '.join(bases)}" if bases else ""), words, inside)


def _is_record(node):
    return _is(node, "dataclass") or "NamedTuple" in map(ast.unparse, node.bases)


def _method(function):
    if _is(function, "property", "cached_property"):
        return Entry(function.name, function.name, first_words(function), [])
    skip = 0 if _is(function, "staticmethod") else 1
    return Entry(function.name, f"{function.name}({arguments(function, skip)})", first_words(function), [])


def of_file(path: Path) -> list[Entry]:
    """The public functions and classes of a file, and its constants in capitals, in order."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.append(of_class(node))
        elif isinstance(node, ast.FunctionDef):
            found.append(Entry(node.name, f"{node.name}({arguments(node)})", first_words(node), []))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.isupper():
                found.append(Entry(name, name, "", []))
    return [entry for entry in found if not entry.name.startswith("_")]


def modules(library: Path) -> dict[str, list[Path]]:
    """Top name -> its files; a folder's files stand under the folder's name. Answers to exercises are left out."""
    found: dict[str, list[Path]] = {}
    for path in sorted(library.rglob("*.py")):
        top = path.relative_to(library).with_suffix("").parts[0]
        if top not in ("__init__", "solutions"):
            found.setdefault(top, []).append(path)
    return found


def by_task(names) -> dict[str, list[str]]:
    """Task -> the modules that are there; what no task names comes last."""
    tasks = {task: [name for name in words.split() if name in names] for task, words in TASKS.items()}
    named = {name for words in tasks.values() for name in words}
    return {task: words for task, words in (tasks | {MORE: sorted({*names} - named)}).items() if words}


def page(library: Path = ROOT / "course_lib") -> str:
    """The text of docs/REFERENCE.md."""
    found = modules(library)
    said = [
        "# Reference",
        "",
        "Every public name of the library, by what one wants to do. `python -m tools.reference` writes this page from",
        "the docstrings; shapes, units, errors and sources stand there, beside the code. What every process has is",
        "listed once, at `Process`.",
    ]
    tasks = by_task(found)
    for task in tasks:
        said += [
            "",
            f"- [{task}](#{''.join(c for c in task.lower().replace(' ', '-') if c.isalnum() or c == '-')})",
        ]
    said = [line for n, line in enumerate(said) if line or n < 5 or not said[n - 1].startswith("- ")]
    for task, names in tasks.items():
        said += ["", f"## {task}"]
        for path in (path for name in names for path in found[name]):
            said += ["", *of_module(path, library)]
    return "\n".join(said) + "\n"


def of_module(path: Path, library: Path) -> list[str]:
    """The lines of one file."""
    dotted = ".".join(path.relative_to(library.parent).with_suffix("").parts).removesuffix(".__init__")
    words = first_words(ast.parse(path.read_text(encoding="utf-8")))
    said = [f"### `{dotted}`", "", words, ""]
    for entry in of_file(path):
        said.append(f"- `{entry.call}` {entry.words}".rstrip())
        said += [f"    - `{inner.call}` {inner.words}" for inner in entry.inside]
    return said if said[-1] else said[:-1]


def main(argv=None, target: Path = PAGE) -> int:
    """Exit status: 1 if --check found the page out of date."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description=__doc__)
    parser.add_argument("--check", action="store_true")
    check, text = parser.parse_args(argv).check, page()
    lost = by_task(modules(ROOT / "course_lib")).get(MORE, [])
    same = target.exists() and target.read_text(encoding="utf-8") == text
    if check:
        said = [f"{name}: name it in TASKS of tools/reference.py" for name in lost]
        said += [] if same else [f"{target.name}: out of date; run python -m tools.reference"]
        print(*said, sep="\n", end="\n" if said else "", file=sys.stderr)
        return int(bool(said))
    if same:
        return 0
    write_atomically(target, lambda file: file.write(text.encode()))
    print(f"{target.name}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
