"""Which notebooks are meant, and how a cell is named in a message."""

from pathlib import Path


def find(paths) -> list[Path]:
    """Notebooks named by paths (files or folders), in order; ValueError names a path that holds none."""
    found = []
    for path in map(Path, paths):
        notebooks = sorted(path.glob("*.ipynb")) if path.is_dir() else [path]
        if not notebooks or any(n.suffix != ".ipynb" or not n.is_file() for n in notebooks):
            raise ValueError(f"paths must be .ipynb files or folders that hold some, got {str(path)!r}")
        found += notebooks
    return found


def where(path, number: int, cell) -> str:
    """'01_ddpm.ipynb cell 7 (check)': cells are counted from 1, the tags stand in brackets."""
    tags = ", ".join(cell.metadata.get("tags", [])) or cell.cell_type
    return f"{Path(path).name} cell {number} ({tags})"
