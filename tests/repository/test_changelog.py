"""No released name goes without a word: it is where it was, or the changelog says what became of it."""

from tools import changelog as C

ROW = "| `a.f`, `g`, `A.h(x=1)`, `.k`; `course_lib.b` | `c.f` |\n"


def test_every_released_name_is_there_or_told(capsys):
    assert C.main([]) == 0, capsys.readouterr().err


def test_a_lost_name_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "names.txt").write_text("ddpm.DDPM\nddpm.gone\n")
    monkeypatch.setattr(C, "RELEASED", tmp_path / "names.txt")
    assert C.main([]) == 1
    assert capsys.readouterr().err == "CHANGELOG.md: say what became of ddpm.gone\n"


def test_the_list_is_not_short():
    names = C.RELEASED.read_text(encoding="utf-8").split()
    assert len(names) > 900 and {"sedd.SEDD", "sedd.SEDD.step", "recipes.Recipe", "ddpm.DDPM"} <= set(names)


def test_public_names_are_what_can_be_imported_or_called():
    source = "A = B = 1\nC: int = 2\n_D = 3\n\n\ndef f():\n    x = 1\n\n\ndef _g(): ...\n\n\n"
    source += "class K:\n    y = 1\n\n    def m(self): ...\n\n    def _n(self): ...\n"
    assert C.public(source, "mod") == {f"mod.{name}" for name in ("A", "B", "C", "f", "K", "K.m")}
    assert C.module_of("course_lib/recipes/sde.py") == "recipes.sde"
    assert C.module_of("course_lib/recipes/__init__.py") == "recipes"


def test_a_class_has_what_it_stands_on(tmp_path):
    (tmp_path / "course_lib").mkdir()
    (tmp_path / "course_lib" / "a.py").write_text(
        "class A:\n    def f(self): ...\n\n\nclass B(A):\n    pass\n"
    )
    (tmp_path / "course_lib" / "b.py").write_text("class C(B):\n    def g(self): ...\n")
    assert {"a.B.f", "b.C.f", "b.C.g"} <= C.of_tree(tmp_path)


def test_a_row_names_what_stands_in_it():
    told = C.told("| old | new |\n" + ROW)
    assert {"a.f", "a.g", "A.h", "A.k", "b"} <= told and "c.f" not in told


def test_what_is_lost_is_named():
    table = C.told(ROW)
    gone = {"a.f", "a.g", "m.A.h", "b.x", "b.Y.z"}
    assert C.lost(gone | {"here"}, {"here"}, table) == []
    assert C.lost({"a.x", "m.f", "m.A.x", "m.b"}, set(), table) == ["a.x", "m.A.x", "m.b", "m.f"]
