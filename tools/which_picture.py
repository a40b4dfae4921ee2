"""Draw the figure that answers "which should I use?" for the README, from chapter 8's results.

python -m tools.which_picture    writes assets/08_side_by_side/which.png
"""

import sys
from pathlib import Path

from course_lib.files import read_json, write_atomically
from course_lib.recipes.scoreboard import which
from course_lib.style import png

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "08_side_by_side"


def main(folder: Path = FOLDER) -> int:
    """Write the picture beside the results."""
    data = png(which(read_json(folder / "letters.results.json")))
    write_atomically(folder / "which.png", lambda f: f.write(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
