"""The weights of a checkpoint that lie on several processes: each writes and reads its own part.

Such a checkpoint (FSDP2) is a small file as any other, and a folder beside it, <name>.parts/step-<n>, that the file
names. The folder is torch.distributed.checkpoint's; it is complete before the file is put into place, and those of
earlier steps go after that: whatever happens, the file names a whole folder. Any number of processes can read it. It
holds pickles, so that it should be from a source that you trust; its files are checked before they are opened.
"""

import hashlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .parallel import first, rank, together, world
from .weights import is_spread


def folder_of(path: str | Path) -> Path:
    """Where the parts of a checkpoint are."""
    path = Path(path)
    return path.with_name(f"{path.name}.parts")


def write_parts(path: str | Path, step: int, tensors: dict[str, Tensor]) -> dict:
    """Write tensors into a folder beside path, each process its own part; what the checkpoint must know of it.

    OSError where one of them cannot: on all of them.
    """
    # Only here: it takes a second to import.
    from torch.distributed.checkpoint import FileSystemWriter, save
    from torch.distributed.checkpoint.api import CheckpointException

    folder = folder_of(path) / f"step-{step}"
    together(lambda: emptied(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one process alone: it is meant
            save(tensors, storage_writer=FileSystemWriter(folder))
    except CheckpointException as error:
        # Raised on all processes, about those that failed
        failure, _ = next(iter(error.failures.values()))
        raise failure if isinstance(failure, OSError) else error from error
    names = together(lambda: sorted(p.name for p in folder.iterdir()))
    return {"folder": folder.name, "sha256": digests(folder, names)}


def read_parts(
    path: str | Path, parts: dict, like: Callable[[str], Tensor | None]
) -> dict[str, Tensor]:
    """The tensors of a folder. Each lies as like(name) does, and whole on the CPU where that is None or not spread.

    ValueError if a file is missing or damaged.
    """
    from torch.distributed.checkpoint import FileSystemReader, load

    folder = folder_of(path) / parts["folder"]
    together(lambda: check_parts(path, folder, parts["sha256"]), everywhere=True)
    tensors = {}
    for name, said in (
        FileSystemReader(folder).read_metadata().state_dict_metadata.items()
    ):
        mine = like(name)
        if mine is not None and is_spread(mine) and mine.shape == said.size:
            tensors[name] = torch.empty_like(mine, dtype=said.properties.dtype)
        else:
            tensors[name] = torch.empty(said.size, dtype=said.properties.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one process alone: it is meant
        load(tensors, storage_reader=FileSystemReader(folder))
    return tensors


def keep_only(path: str | Path, step: int | None) -> None:
    """Delete the folders of other steps; of all, and the folder around them, if step is None."""
    around = folder_of(path)
    if first() and around.is_dir():
        for folder in around.iterdir():
            if folder.name != f"step-{step}":
                shutil.rmtree(folder, ignore_errors=True)
        if step is None:
            shutil.rmtree(around, ignore_errors=True)


def delete(path: str | Path) -> None:
    """Delete a checkpoint with its parts, where it has some; on the first process."""
    if first():
        Path(path).unlink(missing_ok=True)
    keep_only(path, None)


def emptied(folder: Path) -> None:
    """An empty folder: what an interrupted run left there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def check_parts(path: str | Path, folder: Path, wanted: dict[str, str]) -> None:
    """Raise ValueError unless the files are those that were written; processes share the work."""
    mine = sorted(wanted)[rank() :: world()]
    for name in mine:
        if not (folder / name).is_file():
            raise ValueError(f"{path} is damaged: {folder / name} is missing")
        if digest(folder / name) != wanted[name]:
            raise ValueError(
                f"{path} is damaged: {folder / name} is not what was written with it"
            )


def digests(folder: Path, names: list[str]) -> dict[str, str]:
    """sha256 of each file; processes share the work."""
    mine = {name: digest(folder / name) for name in names[rank() :: world()]}
    if world() == 1:
        return mine
    every: list[dict] = [{} for _ in range(world())]
    torch.distributed.all_gather_object(every, mine)
    return {name: value for some in every for name, value in some.items()}


def digest(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
