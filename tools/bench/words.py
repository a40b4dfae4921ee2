"""Rounding, risk, likelihoods, and what an import costs."""

import random
import subprocess
import sys

import torch

from course_lib.embeddings import nearest
from course_lib.likelihood import ProbabilityFlow, rademacher
from course_lib.nets import UNet
from course_lib.schedules import cosine
from course_lib.sde import VP
from course_lib.text_metrics import mbr

from .measure import Comparison, comparison


@comparison
def rounding(device: str, small: bool) -> Comparison:
    """The nearest of K words, against the whole matrix of distances, as Diffusion-LM's and DiffuSeq's codes have it."""
    K, B, D = (100, 2, 128) if small else (30_522, 16, 128)
    x, e = torch.randn(B, 64, D, device=device), torch.randn(K, D, device=device)

    def distances():
        norms = e.square().sum(1)[:, None]
        far = norms + x.reshape(-1, D).square().sum(1) - 2 * e @ x.reshape(-1, D).T
        return torch.topk(-far.clamp(min=0), 1, dim=0).indices[0].reshape(x.shape[:-1])

    calls = {"course_lib": lambda: nearest(x, e), "matrix of distances": distances}
    made = 2.0 * x.numel() * K
    return Comparison(f"rounding, {B} x 64 vectors, K = {K:,}", calls, 0, made, "one product", equal=True)


@comparison
def risk(device: str, small: bool) -> Comparison:
    """Minimum Bayes risk: every candidate against every other, each time from the words on, or counted once."""
    from nltk.translate import bleu_score

    smooth, g = bleu_score.SmoothingFunction().method4, random.Random(0)
    words = [g.choice("abcdefghij") * g.randint(1, 3) for _ in range(25 * 10 * 20)]
    sets = [[words[250 * i + 25 * j :][:25] for j in range(10)] for i in range(2 if small else 20)]

    def loop(candidates):
        scores = [
            sum(bleu_score.sentence_bleu([b], a, smoothing_function=smooth) for b in candidates)
            for a in candidates
        ]
        return max(range(len(scores)), key=scores.__getitem__)

    calls = {
        "course_lib": lambda: [mbr(c)[0] for c in sets],
        "loop over NLTK": lambda: [loop(c) for c in sets],
    }
    return Comparison(f"MBR, 10 candidates for {len(sets)} sentences", calls)


class TwoCalls(ProbabilityFlow):
    """The right-hand side as score_sde computes it: drift and divergence from one call of the network each."""

    def at(self, t, x):
        self.x, self.t = x, super().at(t, x)
        return self.t

    def solve(self, rhs, y, start, end):
        def twice(t, y):
            out = rhs(t, y)  # the divergence, and a drift that is thrown away
            n = len(self.x)
            with torch.no_grad():
                v = self.sde.velocity(
                    self.model, torch.tensor(y[n:]).reshape(self.x.shape).to(self.x), self.t
                )
            out[n:] = v.double().cpu().numpy().ravel()
            return out

        return super().solve(twice, y, start, end)


@comparison
def likelihood(device: str, small: bool) -> Comparison:
    """The same solve to the same density; only the number of forward passes for each right-hand side differs."""
    sde, model = VP(cosine(), (1, 8, 8), t_min=0.02).to(device), UNet(1, (32, 64)).to(device)
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(p)
    x = torch.rand(1 if small else 16, 1, 8, 8, device=device) * 2 - 1
    probe = rademacher(x)

    def solving(kind):
        ode = kind(sde, *[1.0 if small else 1e-2] * 2)
        ode.model = model
        return lambda: ode.log_prob(model, x, probe)

    calls = {"course_lib": solving(ProbabilityFlow), "two calls": solving(TwoCalls)}
    return Comparison(f"ODE likelihood by RK45, {len(x)} digits", calls)


@comparison
def importing(device: str, small: bool) -> Comparison:
    def importing_of(code):
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    calls = {
        "course_lib.ddpm": importing_of("import course_lib" if small else "import course_lib.ddpm"),
        "torch and jaxtyping": importing_of("import sys" if small else "import torch, jaxtyping"),
    }
    return Comparison("import, in a new process", calls)
