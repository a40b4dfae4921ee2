"""The README's picture: digits made from noise by the shipped MNIST weights.

python -m tools.picture
"""

import torch

from course_lib.files import write_atomically
from course_lib.plots import filmstrip
from course_lib.process import sample
from course_lib.recipes.run import find, shipped
from course_lib.style import png
from tools.readme import ROOT


def draw(steps: int = 200):
    """Figure: three reverse trajectories, noise to digit."""
    recipe = find("ddpm.mnist")
    model = shipped(recipe)
    torch.manual_seed(3)
    frames = list(sample(recipe.process(), model, 3, steps))
    return filmstrip(
        frames, "From noise to digits: the network only ever learned to remove noise", columns=9, rows=3
    )


def main(path=ROOT / "assets" / "01_ddpm" / "from_noise.png") -> None:
    """Write the picture."""
    picture = png(draw())
    write_atomically(path, lambda f: f.write(picture))


if __name__ == "__main__":
    main()
