"""With a network: training against plain loops, sampling against an autoregressive sampler with a KV cache."""

import copy

import torch
import torch.nn.functional as F

from course_lib.absorbing import Absorbing
from course_lib.autoregressive import Autoregressive
from course_lib.data import batches
from course_lib.ddpm import DDPM
from course_lib.first_hitting import first_hitting
from course_lib.mdlm import MDLM
from course_lib.nets import CausalNet, TokenNet, UNet, Wrapped
from course_lib.process import last, sample
from course_lib.schedules import cosine, geometric, log_linear, table
from course_lib.sedd import SEDD
from course_lib.stationary import Uniform
from course_lib.train import train

from .measure import Comparison, comparison
from .tokens import BIG


class Uncached(Wrapped):
    """An autoregressive network that reads everything again for each token."""

    takes_cache = False


def spread(net: torch.nn.Module) -> torch.nn.Module:
    """Some weights in the place of zeros, so that all of the network is at work."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.02)
    return net.eval()


@comparison
def sampler(device: str, small: bool) -> Comparison:
    """Rows of L letters by one Transformer, once causal and once not: the same number of weights, but for one row."""
    L, B, width, depth = (8, 2, 16, 1) if small else (128, 4, 128, 4)
    K, heads = 27, 4
    writer = spread(CausalNet(K, width, heads, depth)).to(device)
    denoiser = spread(TokenNet(K + 1, K, width, heads, depth)).to(device)
    one_by_one = Autoregressive(K, L).to(device)
    masked = MDLM(Absorbing(K, log_linear(0.0)), L).to(device)

    def diffusion(steps):
        return lambda: last(sample(masked, denoiser, B, steps))[1]

    calls = {
        "autoregressive, KV cache": lambda: last(sample(one_by_one, writer, B, L))[1],
        "autoregressive, no cache": lambda: last(sample(one_by_one, Uncached(writer), B, L))[1],
        f"MDLM, {L} steps": diffusion(L),
        f"MDLM, {L // 4} steps": diffusion(L // 4),
        f"MDLM, {L // 16 or 1} steps": diffusion(L // 16 or 1),
        "MDLM, first hitting": lambda: last(first_hitting(masked, denoiser, B))[1],
    }
    return Comparison(
        f"{B} rows of {L} letters, Transformer {depth} x {width}", calls, 0, None, "each position read once"
    )


@comparison
def many_words(device: str, small: bool) -> Comparison:
    """One training step at 50,257 words: forward and backward. A plain loop has the cross-entropy of every token."""
    K, B, L, width, depth = (50, 2, 8, 16, 1) if small else (BIG, 2, 128, 128, 2)
    net = spread(TokenNet(K + 1, K, width, 4, depth)).to(device).train()
    x0, t = torch.randint(0, K, (B, L), device=device), torch.full((B,), 0.5, device=device)

    def stepping(loss):
        def call():
            net.zero_grad()
            loss().mean().backward()

        return call

    mdlm = MDLM(Absorbing(K, log_linear()), L).to(device)
    masked = SEDD(Absorbing(K, log_linear()), L).to(device)
    uniform = SEDD(Uniform(K, geometric()), L).to(device)
    calls = {
        "MDLM": stepping(lambda: mdlm.loss(net, x0, t)),
        "plain loop": stepping(lambda: F.cross_entropy(net(x0, t).flatten(0, 1), x0.flatten())),
        "SEDD, absorbing": stepping(lambda: masked.loss(net, x0, t)),
        "SEDD, uniform": stepping(lambda: uniform.loss(net, x0, t)),
    }
    name = f"training step, K = {K:,}, {B} x {L}, Transformer {depth} x {width}"
    return Comparison(name, calls, 0, None, "its matrix products")


@comparison
def training_loop(device: str, small: bool) -> Comparison:
    """What `train` costs above the same work written out."""
    steps = 2 if small else 10
    process, data = (
        DDPM(table(cosine(), 1000), (1, 8, 8)).to(device),
        torch.rand(1000, 1, 8, 8, device=device),
    )
    model = UNet(1, (32, 64)).to(device)

    def library():
        for _ in train(process, model, batches(data, 64), steps):
            pass

    def bare():
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.0, fused=True)
        average = copy.deepcopy(model).requires_grad_(False)
        ours, stream = list(model.parameters()), batches(data, 64)
        for _ in range(steps):
            x = next(stream)
            loss = process.loss(model, x, process.sample_t(64)).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(ours, 1.0)
            optimizer.step()
            torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in ours], 0.001)

    calls = {"train": library, "written out": bare}
    return Comparison(f"training, {steps} steps of a U-Net on digits", calls, 0, None, "its products")
