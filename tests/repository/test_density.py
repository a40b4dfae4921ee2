"""The thermometer reads what it says; and the rules that are no matter of taste."""

import re
from pathlib import Path

from tools import density

ROOT = Path(__file__).resolve().parents[2]


def test_a_line_is_counted_by_its_expressions():
    source = '"""Words."""\n\n# why\n\n\ndef f(x):\n    """More\n    words."""\n    return x.a + g(x[0], -1)  # how\n'
    # a def line without nodes; x.a, x, +, g(..), g, x[0], x, 0, -, 1
    nodes = 10 + 2  # and the two docstrings, which are constants
    assert density.measure(source) == (2, nodes, 0, 2, 9)
    said = "300 lines, 200 of code, 5.0 nodes a line, 10% over 88 columns, comments 5.0%"
    assert str(density.Measure(200, 1000, 20, 10, 300)).split() == said.split()


def test_a_walk_sees_the_functions_that_run(tmp_path):
    source = "def f():\n    return [g(i)\n            for i in range(2)]\n\n\ndef unused():\n    pass\n"
    (tmp_path / "a.py").write_text(source)
    names = {"g": lambda i: i}
    exec(compile(source, str(tmp_path / "a.py"), "exec"), names)
    assert density.walk(names["f"], tmp_path) == {"a.py": {1, 2, 3}}


def test_what_one_reads_is_what_runs_and_the_heads_above_it(tmp_path):
    source = '''"""Two
lines."""


class A:
    """What it is."""

    def f(self):
        return 1

    def g(self):
        return 2


class B:
    """Not used."""


def h():
    return A().f()
'''
    (tmp_path / "a.py").write_text(source)
    (tmp_path / "shapes.py").write_text("def looked_up():\n    return 3\n")
    names = {}
    for name in ("a.py", "shapes.py"):
        exec(compile((tmp_path / name).read_text(), str(tmp_path / name), "exec"), names)
    steps = density.walk(lambda: (names["h"](), names["looked_up"]()), tmp_path)
    # the file's two lines, class A with its sentence, f, h
    assert density.heads(tmp_path / "a.py", steps["a.py"]) == {1, 2, 5, 6}
    assert density.reading(steps, tmp_path) == (["a.py"], 2 + 2 + 2 + 2, ["shapes.py"], 20)


def test_following_a_step_stays_short():
    """SEDD on masks: 6 files and 900 lines to read at most; DDPM: 4 and 600."""
    for name, most_files, most_lines in (("sedd.absorbing", 6, 900), ("ddpm.digits", 4, 600)):
        files, lines, aside, whole = density.reading(density.training_step(name))
        assert len(files) <= most_files and lines <= most_lines < 2 * whole, (name, files, lines)
        assert set(aside) <= density.ASIDE and not set(files) & density.ASIDE


def test_what_is_set_aside_knows_no_system():
    """Looked up, not followed: none of these files imports a process, a noise or a system."""
    known = {Path(name).stem for name in density.ASIDE} | {"sentences", "files", "batching"}
    for name in density.ASIDE:
        text = (density.ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"^from \.(\w+) import", text, re.M)) <= known, name


def test_the_report_reads_every_room_and_both_steps(capsys):
    assert density.main([]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:3]] == ["library", "recipes", "solutions"]
    for line, must in zip(said[4:], ("categorical.py", "ddpm.py"), strict=True):
        assert re.match(r"one training step of [\w ]+: \d+ files", line) and must in line
