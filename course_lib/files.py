"""Files and packages: all or nothing when writing, plain words when something is missing, damaged or not writable."""

import hashlib
import importlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar
from zipfile import BadZipFile
from zlib import error as BadStream

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

Value = TypeVar("Value")


def needs(module: str, package: str):
    """The imported module, or an ImportError that says which install brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is missing: pip install "text-diffusion-course[course]" brings {package}, '
            'and so does pip install -e ".[course]" in a clone'
        ) from error


# Derived data


def cache_folder() -> Path:
    """Where derived data is kept: $COURSE_CACHE, or text-diffusion-course in the user's cache folder."""
    if chosen := os.environ.get("COURSE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "text-diffusion-course"


def cached(
    name: str,
    make: Callable[[], Value],
    read: Callable[[Path], Value],
    write: Callable[[BinaryIO, Value], object],
) -> Value:
    """What make() gives, read from the cache folder where it is kept under this name, else made and kept there.

    A damaged copy is made again and a folder that cannot be written is done without: both with a warning that names
    the file and COURSE_CACHE.
    """
    path = cache_folder() / name
    if path.is_file():
        try:
            return read(path)
        except (
            OSError,
            ValueError,
            KeyError,
            AttributeError,
            EOFError,
            BadZipFile,
            BadStream,
        ) as error:
            warnings.warn(
                f"{path} is damaged ({type(error).__name__}) and made again; COURSE_CACHE names its folder",
                stacklevel=3,
            )
    value = make()
    try:
        write_atomically(path, lambda f: write(f, value))
    except OSError as error:
        warn_of_no_cache(str(path.parent), error.strerror or str(error))
    return value


@cache
def warn_of_no_cache(folder: str, why: str) -> None:
    """Say once for each folder that nothing can be kept there."""
    warnings.warn(
        f"{folder} cannot be written ({why}), so data is made anew each time: set COURSE_CACHE to a folder that can be",
        stacklevel=4,
    )


# Writing


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(open file), then move the file into place: whatever happens, path holds all of it or what it held.

    OSError names the path.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as f:
                write(f)
            # mkstemp made it private.
            os.chmod(temporary, path.stat().st_mode if path.exists() else 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise about_path(error, "cannot write", path) from error


def about_path(error: OSError, what: str, path: str | Path) -> OSError:
    """An error of the same kind that says what could not be done to which path."""
    return OSError(error.errno, f"{what}: {error.strerror or error}", str(path))


def check_writable(name: str, path: str | Path) -> None:
    """Raise OSError now, naming the argument, if a file cannot be written at path later: tried in its folder."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{name} must be a file, but {path} is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Permission bits say little (root, read-only mounts, network drives): only trying tells.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        os.unlink(temporary)
    except OSError as error:
        raise about_path(error, f"{name} cannot be written there", path) from error


def write_json(path: str | Path, value) -> None:
    """value as JSON, written atomically."""
    text = as_json(value)
    write_atomically(path, lambda f: f.write(text))


def as_json(value) -> bytes:
    """value as indented JSON, in UTF-8."""
    return (json.dumps(value, indent=1) + "\n").encode()


def read_json(path: str | Path):
    """What write_json wrote, whatever the locale is."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


# Tensors


def save_tensors(path: str | Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Tensors and a JSON-able dict about them as one safetensors file, written atomically. Never pickle."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    # All in one entry: safetensors writes several in a random order, and equal runs shall give equal files.
    said = {**about, "sha256": checksum(plain, about)}
    packed = save(plain, {"about": json.dumps(said)})
    write_atomically(path, lambda f: f.write(packed))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """What save_tensors wrote. FileNotFoundError if it is missing, ValueError if damaged or not one of ours."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} is a folder" if Path(path).is_dir() else f"no such file: {path}"
        )
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error})"
        ) from error
    if "about" not in metadata:
        raise ValueError(
            f"{path} was not written by this course: it does not say what it holds. Weights of other libraries are "
            "loaded by model.load_state_dict(safetensors.torch.load_file(path)), their names changed to the model's"
        )
    try:
        about = json.loads(metadata["about"])
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged: what it says of itself is no JSON"
        ) from error
    written = about.pop("sha256", None)  # files of version 0.1 have none
    if written is not None and written != checksum(tensors, about):
        raise ValueError(
            f"{path} is damaged: its contents are not those whose checksum was written with them"
        )
    return tensors, about


def checksum(tensors: dict[str, Tensor], about: dict) -> str:
    """sha256 of names, dtypes, shapes and bytes of tensors on the CPU, and of what is said about them."""
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # bfloat16 has no dtype in numpy: bytes have one.
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
