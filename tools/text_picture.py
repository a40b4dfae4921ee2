"""The README's animation: masks become verses, by the shipped network of words at the temperature of chapter 6.

python -m tools.text_picture
"""

import io

import torch
from matplotlib.figure import Figure
from PIL import Image

from course_lib.diagrams import MASKED, write
from course_lib.files import write_atomically
from course_lib.nets import Given
from course_lib.process import sample
from course_lib.recipes.run import find, shipped
from course_lib.recipes.verse_sets import vocabulary
from course_lib.recipes.word_measures import COLD, Colder
from course_lib.sentences import up_to
from tools.readme import ROOT

LENGTHS = (12, 16, 14)  # words of the three verses; the first draw of seed 0 is shown
STEPS, HOLD, PAUSE = 32, 25, 140  # the last frame stays for HOLD frames of PAUSE milliseconds


def states(lengths=LENGTHS, steps: int = STEPS, seed: int = 0) -> list[list[list[str]]]:
    """The verses as lists of words, MASKED where nothing is said yet, at each step of one run of the sampler."""
    recipe = find("words.masked")
    process, model, words = recipe.process(), Colder(shipped(recipe), COLD), vocabulary().words
    mask = up_to(torch.tensor(lengths), max(lengths))
    process.length = mask.shape[1]
    torch.manual_seed(seed)
    shown = [*words, MASKED]
    return [
        [[shown[k] for k in row[:len_].tolist()] for row, len_ in zip(x, lengths, strict=True)]
        for _, x in sample(process, Given(model, mask=mask), len(lengths), steps)
    ]


def frame(verses: list[list[str]], before: list[list[str]]) -> Image.Image:
    """One picture: words that are new in the colour of what is learned, masks in that of masks."""
    fig = Figure(figsize=(9, 1.8), facecolor="white")
    for line, (verse, old) in enumerate(zip(verses, before, strict=True)):
        write(fig, (0.02, 0.8 - 0.3 * line), verse, old)
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=100, bbox_inches=None)
    return Image.open(file).convert("RGB").quantize(64, dither=Image.Dither.NONE)


def draw() -> bytes:
    """The animation as a GIF that starts again for ever."""
    seen = states()
    frames = [frame(now, then) for then, now in zip([seen[0], *seen], seen, strict=False)]
    frames += [frame(seen[-1], seen[-1])] * HOLD
    return gif(frames, PAUSE)


def gif(frames: list[Image.Image], pause: int) -> bytes:
    """Frames of so many milliseconds each, as a GIF that starts again for ever."""
    file = io.BytesIO()
    first, *rest = frames
    first.save(file, "gif", save_all=True, append_images=rest, duration=pause, loop=0, optimize=True)
    return file.getvalue()


def main(path=ROOT / "assets" / "06_d3pm" / "words_appear.gif") -> None:
    """Write the animation."""
    picture = draw()
    write_atomically(path, lambda file: file.write(picture))


if __name__ == "__main__":
    main()
