"""The figures of a notebook in twice as many dots, for walls and fine screens: assets/<notebook>/figures.zip.

`make notebooks` writes the file beside the outputs that it stores; decks and pages show what is in it. The notebook
itself stays small: it holds each figure once, and the name in the file is made from the bytes that it holds.
"""

import base64
import io
import zipfile
from pathlib import Path

from PIL import Image

from course_lib.files import write_atomically
from course_lib.style import name_of

DATE = (1980, 1, 1, 0, 0, 0)  # the same figures give the same bytes


def place(path) -> Path:
    """Where the figures of the notebook at path are kept."""
    path = Path(path).resolve()
    return path.parent.parent / "assets" / path.stem / "figures.zip"


def shown(nb) -> list:
    """(output, name in the file) of each figure that the notebook holds, in order."""
    outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    return [(o, name_of(base64.b64decode(o["data"]["image/png"]))) for o in pictures]


def pack(nb, drawn, path) -> None:
    """Keep those of the pictures in the folder drawn that nb shows, in one move; no file where it shows none."""
    names = sorted({name for _, name in shown(nb) if (Path(drawn) / name).is_file()})
    kept = place(path)
    if not names:
        kept.unlink(missing_ok=True)
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, DATE), (Path(drawn) / name).read_bytes())
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, lambda file: file.write(buffer.getvalue()))


def missing(nb, path) -> int:
    """How many figures of the notebook are not in its file."""
    found = set()
    if place(path).is_file():
        with zipfile.ZipFile(place(path)) as archive:
            found = set(archive.namelist())
    return sum(name not in found for _, name in shown(nb))


def sharpen(nb, path) -> None:
    """Put the finer pictures where the notebook's own stand, with the width in which each was drawn."""
    if not place(path).is_file():
        return
    with zipfile.ZipFile(place(path)) as archive:
        there = set(archive.namelist())
        for output, name in shown(nb):
            if name not in there:
                continue
            picture = archive.read(name)
            output["data"]["image/png"] = base64.b64encode(picture).decode()
            about = output["metadata"].setdefault("image/png", {})
            about["width"] = Image.open(io.BytesIO(picture)).width // 2
