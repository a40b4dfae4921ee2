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


def test_the_report_reads_every_room_and_both_steps(capsys):
    assert density.main([]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:3]] == ["library", "recipes", "solutions"]
    for line, must in zip(said[4:], ("categorical.py", "ddpm.py"), strict=True):
        assert re.match(r"one training step of [\w ]+: \d+ files", line) and must in line
