"""Files and packages: all or nothing when writing, plain words when something is missing or damaged."""

import importlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def needs(module: str, package: str):
    """The imported module, or an ImportError that says which install brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is missing: pip install -e ".[course]" brings {package}') from error


def cache_folder() -> Path:
    """Where derived data is kept: $COURSE_CACHE, or text-diffusion-course in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("COURSE_CACHE") or Path(base) / "text-diffusion-course")


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(open file), then move the file into place: whatever happens, path holds all of it or what it held."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            write(f)
        os.chmod(temporary, path.stat().st_mode if path.exists() else 0o644)  # mkstemp made it private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: str | Path, value) -> None:
    """value as JSON, written atomically."""
    text = json.dumps(value, indent=1) + "\n"
    write_atomically(path, lambda f: f.write(text.encode()))


def save_tensors(path: str | Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Tensors and a JSON-able dict about them as one safetensors file, written atomically. Never pickle."""
    packed = save(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, {"about": json.dumps(about)}
    )
    write_atomically(path, lambda f: f.write(packed))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """What save_tensors wrote. FileNotFoundError if it is missing, ValueError if damaged or not one of ours."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as f:
            about = (f.metadata() or {}).get("about")
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error})") from error
    if about is None:
        raise ValueError(f"{path} was not written by this course: it does not say what it holds")
    return tensors, json.loads(about)
