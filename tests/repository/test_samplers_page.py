"""docs/SAMPLERS.md is true: its code runs, and prints what it says."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "SAMPLERS.md"


def test_the_code_of_the_page_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    first, second, *texts = capsys.readouterr().out.splitlines()
    assert first.startswith("FromBothEnds 0.0 ")  # choosing positions keeps the distribution
    name, off, _ = second.split()
    assert name == "SampledConfidence" and float(off) > 0.1
    assert len(texts) == 3 and all(len(line.split()) == 16 for line in texts)
