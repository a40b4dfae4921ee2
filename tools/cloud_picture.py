"""The animation of chapter 1: points of eight blobs become noise, and a perfect network turns noise into points.

python -m tools.cloud_picture    writes assets/01_ddpm/cloud.gif
"""

import torch
from PIL import Image

from course_lib.colours import COLOURS
from course_lib.data import eight_gaussians
from course_lib.ddpm import DDPM
from course_lib.files import write_atomically
from course_lib.oracle import MixtureOracle
from course_lib.process import sample
from course_lib.schedules import cosine, table
from course_lib.style import panels, pixels
from tools.readme import ROOT
from tools.text_picture import gif

T, EVERY = 200, 6  # steps, and how many of them for one frame
HOLD, PAUSE = 12, 90  # both ends stay for HOLD frames of PAUSE ms
POINTS = 300


def states(points: int = POINTS, T: int = T, seed: int = 0) -> dict[str, list[tuple[int, torch.Tensor]]]:
    """(t, x_t) of the forward chain, step by step, and of the way back from fresh noise: "q" and "p"."""
    law = eight_gaussians()
    process = DDPM(table(cosine(), T), (2,))
    torch.manual_seed(seed)
    x = law.sample(points)
    forward = [(0, x)]
    for t in range(1, T + 1):
        beta = process.beta[t]
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn_like(x)
        forward.append((t, x))
    return {"q": forward, "p": list(sample(process, MixtureOracle(process, law), points, T))}


def palette(shades: int = 8) -> Image.Image:
    """Shades from white to the colours of the two ways, the same for all frames: that keeps the file small."""
    found = []
    for role in ("data", "exact"):
        colour = bytes.fromhex(COLOURS[role][1:])
        found += [round(255 + (c - 255) * k / (shades - 1)) for k in range(shades) for c in colour]
    image = Image.new("P", (1, 1))
    image.putpalette(found)
    return image


def frame(t: int, x: torch.Tensor, way: str) -> Image.Image:
    """One picture: where the points are at t; those of the perfect network in the colour of what is exact."""
    role, what = {"q": ("data", "noise comes in"), "p": ("exact", "a perfect network walks back")}[way]
    fig, ((ax,),) = panels(f"t = {t}: {what}", size=(4.6, 4.6))
    ax.scatter(*x.T, s=8, color=COLOURS[role], linewidths=0)
    ax.set(xlim=(-2.7, 2.7), ylim=(-2.7, 2.7), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return pixels(fig, 72).quantize(palette=palette(), dither=Image.Dither.NONE)


def draw() -> bytes:
    """The animation as a GIF that starts again for ever."""
    frames = []
    for way, seen in states().items():
        shown = [frame(t, x, way) for t, x in seen[::EVERY]]
        shown.append(frame(*seen[-1], way))
        frames += [shown[0]] * (HOLD if way == "q" else 1) + shown + [shown[-1]] * HOLD
    return gif(frames, PAUSE)


def main(path=ROOT / "assets" / "01_ddpm" / "cloud.gif") -> None:
    """Write the animation."""
    picture = draw()
    write_atomically(path, lambda file: file.write(picture))


if __name__ == "__main__":
    main()
