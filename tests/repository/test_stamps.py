"""Stored outputs carry what made them: a change of code, library or assets is named, a change of words is none."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import stamps

FILES = {
    "course_lib/__init__.py": "",
    "course_lib/shapes.py": "def like(x):\n    return x\n",
    "course_lib/process.py": "from .shapes import like\n",
    "course_lib/ddpm.py": '"""Words."""\nfrom course_lib import process\n\n\n'
    'class DDPM:\n    """More."""\n\n    T = 1  # why\n',
    "course_lib/sde.py": "from . import process\n",
    "course_lib/recipes/__init__.py": "from ..shapes import like\n",
    "course_lib/recipes/ddpm.py": "from ..ddpm import DDPM\n",
    "course_lib/recipes/sde.py": "",
    "assets/01_x/a.json": "{}",
    "assets/01_x/a.safetensors": "weights",
    "assets/01_x/a.png": "picture",
    "assets/02_y3d/b.json": "{}",
    "assets/03_z/c.json": "{}",
}
CELLS = (
    "%matplotlib inline\nfrom course_lib.process import sample",
    "from course_lib.recipes import find\nfind('ddpm.x')",
    "read('02_y3d/b.json')",
)


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "notebooks").mkdir()
    save(tmp_path, new_notebook(cells=[new_markdown_cell("# 1. Words"), *map(new_code_cell, CELLS)]))
    return tmp_path


def save(root, nb, stamp=True):
    path = root / "notebooks" / "01_x.ipynb"
    if stamp:
        nb.metadata[stamps.KEY] = stamps.made_from(nb, path, root)
    nbformat.write(nb, path)


def changes(root):
    return stamps.changes(root / "notebooks" / "01_x.ipynb", root)


def test_it_depends_on_what_is_imported_at_any_depth_found_by_name_or_read(root):
    nb = nbformat.read(root / "notebooks" / "01_x.ipynb", as_version=4)
    lost = {"course_lib/sde.py", "course_lib/recipes/sde.py", "assets/01_x/a.png", "assets/03_z/c.json"}
    assert {*nb.metadata[stamps.KEY]["files"]} == {*FILES} - lost
    assert changes(root) == []


@pytest.mark.parametrize("name", ["course_lib/shapes.py", "course_lib/ddpm.py", "course_lib/recipes/ddpm.py"])
def test_a_changed_library_file_is_named(root, name):
    (root / name).write_text((root / name).read_text() + "x = 1\n")
    assert changes(root) == [name]


def test_changed_weights_are_named_and_a_picture_is_not(root):
    (root / "assets" / "01_x" / "a.safetensors").write_text("others")
    (root / "assets" / "02_y3d" / "b.json").unlink()
    (root / "assets" / "01_x" / "a.png").write_text("another")
    assert changes(root) == ["assets/01_x/a.safetensors", "assets/02_y3d/b.json"]


def test_words_make_nothing_stale(root):
    path = root / "course_lib" / "ddpm.py"
    path.write_text(
        path.read_text().replace("More", "Other words\n    on two lines").replace("# why", "# because")
    )
    path.write_text(path.read_text().replace("    T", "\n\n    # A comment\n    T") + "\n\n# the end\n")
    nb = nbformat.read(root / "notebooks" / "01_x.ipynb", as_version=4)
    nb.cells[0].source = "# 1. Other words"
    save(root, nb, stamp=False)
    assert changes(root) == []
    path.write_text(path.read_text().replace("T = 1", "T = 2"))
    assert changes(root) == ["course_lib/ddpm.py"]


def test_changed_cells_are_numbered(root):
    nb = nbformat.read(root / "notebooks" / "01_x.ipynb", as_version=4)
    nb.cells[3].source = "print(2)"
    save(root, nb, stamp=False)
    assert changes(root)[0] == "cell 4 (code)"
    del nb.cells[3]
    save(root, nb, stamp=False)
    assert changes(root) == ["the order or the number of its cells", "assets/02_y3d/b.json"]


def test_cells_in_another_order_are_stale(root):
    nb = nbformat.read(root / "notebooks" / "01_x.ipynb", as_version=4)
    nb.cells[1], nb.cells[2] = nb.cells[2], nb.cells[1]
    save(root, nb, stamp=False)
    assert changes(root) == ["the order or the number of its cells"]


def test_the_tool_names_the_notebook_and_what_to_do(root, capsys):
    assert stamps.main([str(root / "notebooks")], root) == 0
    assert capsys.readouterr().out == "stored outputs: 1 of 1 notebooks are up to date\n"
    (root / "course_lib" / "shapes.py").write_text("")
    assert stamps.main([str(root / "notebooks")], root) == 1
    said = "01_x.ipynb: outputs are older than course_lib/shapes.py; run make notebooks NB=01_x\n"
    assert capsys.readouterr().err == said


def test_a_notebook_without_a_stamp_is_stale(root):
    save(root, new_notebook(cells=[new_code_cell("1")]), stamp=False)
    assert changes(root) == ["the first run by make notebooks"]
