"""Guidance: sampling what a label, or any control, makes likelier. Without a classifier, and with one of x_t.

ClassifierFree            around a network that knows labels (Ho & Salimans 2022, arXiv:2207.12598)
ClassifierGuided          around a process, up the gradient of a control (Li et al. 2022, arXiv:2205.14217)
NoisyClassifierTraining   trains such a control: a classifier of x_t

What is done to a network before it samples wraps the network, so that it works with every sampler of chapters 1 to 3.
What is done to a state wraps the process, or is a clamp.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .diffusion_lm import DiffusionLM
from .embeddings import LogLaw, Vectors, check_word_network
from .finite import check_finite
from .nets import Wrapped
from .process import Process
from .schedules import check_number
from .sentences import Labelled
from .shapes import (
    Network,
    PerExample,
    State,
    Times,
    check_answer,
    check_count,
    describe,
    per_example,
)
from .wrapper import Wrapper


class ClassifierFree(Wrapped):
    """The network's (1 + weight) f(x, label) - weight f(x), of two calls: without the label, then with it.  (eq. 6)

    If it is conditioned on itself inside, both are given the last f(x, label): `SelfConditioned` says why.
    """

    def __init__(self, inner: Network, label: Int[Tensor, " B"], weight: float):
        super().__init__(inner)
        if not isinstance(label, Tensor):
            raise TypeError(
                f"label must hold one integer per example, not {describe(label)}"
            )
        self.label, self.weight = label, check_number("weight", weight)

    def _apply(self, fn, recurse: bool = True):
        """The label goes where the network goes."""
        super()._apply(fn, recurse)
        self.label = fn(self.label)
        return self

    def forward(self, x: State, u: PerExample, **given: Tensor | None) -> State:
        """The guided estimate."""
        # Eq. 6's unconditional network is the same one, which was trained with a tenth
        # of its labels hidden.
        free = self.inner(x, u, **{**given, "label": None})
        # The labelled call comes last: its answer is what is remembered.
        told = self.inner(x, u, **{**given, "label": self.label})
        return self.guided(free, told)

    def explain(
        self, x: Vectors, u: PerExample, **given: Tensor | None
    ) -> tuple[Vectors, LogLaw]:
        """The guided estimate, and the log law of words guided likewise."""
        free, free_law = self.inner.explain(x, u, **{**given, "label": None})
        told, told_law = self.inner.explain(x, u, **{**given, "label": self.label})
        return self.guided(free, told), self.guided(free_law, told_law).log_softmax(-1)

    def guided(self, free: Tensor, told: Tensor) -> Tensor:
        """From the one beyond the other."""
        return torch.lerp(free, told, 1 + self.weight)


class ClassifierGuided(Wrapper):
    """A process whose steps each end with a few steps of Adagrad up log p(c | x_s) + fluency log p(x_s | x_t).

    log_p(x_s, u) -> (B,) is the control, such as a classifier's log probability; log p(x_s | x_t) is that of a Gaussian
    around what the step has drawn. The last step, to s = 0, is left as it is.  (section 5.1; all else is the process's)
    """

    def __init__(
        self,
        process: Process,
        log_p: Callable[[Vectors, PerExample], PerExample],
        updates: int = 3,
        lr: float = 0.1,
        fluency: float = 0.01,
    ):
        super().__init__(process)
        if not hasattr(process, "transition"):
            raise TypeError(
                f"process must make Gaussian steps, as DDPM and DiffusionLM do, not be {describe(process)}"
            )
        check_count("updates", updates)
        for name, number in (("lr", lr), ("fluency", fluency)):
            check_number(name, number)
        if not (lr > 0 and fluency >= 0):
            raise ValueError(
                f"lr must be positive and fluency not negative, not {lr} and {fluency}"
            )
        if not callable(log_p):
            raise TypeError(
                f"log_p must be callable as log_p(x_s, u), not {describe(log_p)}"
            )
        self.log_p, self.updates, self.lr, self.fluency = log_p, updates, lr, fluency

    def step(self, model: Network, x: State, t: Times, s: Times) -> State:
        """x_s as the process draws it, then pulled; as drawn at s = 0."""
        drawn = self.process.step(model, x, t, s)
        # The fluency term's width: without it a
        # control may push x_s to where no x_s ever is.
        var = per_example(self.process.transition(t, s).q_var.to(x.dtype), x)
        return torch.where(per_example(s > 0, x), self.pulled(drawn, var, s), drawn)

    def pulled(self, drawn: State, var: Tensor, s: Times) -> State:
        """The drawn x_s after `updates` steps up the objective. Raises for a control that is not (B,) finite floats."""
        # Copies, since tensors of inference mode take no part in gradients.
        with torch.inference_mode(False), torch.enable_grad():
            start, var, u = drawn.clone(), var.clone(), self.u(s.clone())
            x = start.detach().clone().requires_grad_()
            optimizer = torch.optim.Adagrad([x], lr=self.lr)
            for _ in range(self.updates):
                far = ((x - start).square() / (2 * var).clamp(min=1e-12)).sum()
                objective = self.control(x, u, s).sum() - self.fluency * far
                # grad, not backward: that would add to the
                # gradients of whatever the control holds.
                x.grad = -torch.autograd.grad(objective, x)[0]
                optimizer.step()
        return x.detach()

    def control(self, x: State, u: PerExample, s: Times) -> PerExample:
        """log_p(x_s, u), checked."""
        log_p = self.log_p(x, u)
        if (
            not isinstance(log_p, Tensor)
            or not log_p.is_floating_point()
            or log_p.shape != (len(x),)
        ):
            raise ValueError(
                f"log_p must give {len(x)} floats, one per example, not {describe(log_p)}"
            )
        if not log_p.requires_grad:
            raise ValueError(
                "log_p must pass a gradient on to x_s, or it guides nothing: is it under no_grad, or detached?"
            )
        return check_finite("log_p", log_p, s)


class NoisyClassifierTraining(Process):
    """Trains a classifier of x_t: loss(classifier, Labelled, t) is -log p(label | x_t) in nats.

    process  the DiffusionLM whose x_t it is to read
    model    the network that embeds; it is not trained
    """

    def __init__(self, process: DiffusionLM, model: Network):
        super().__init__()
        if not hasattr(process, "diffuse"):
            raise TypeError(f"process must be a DiffusionLM, not {describe(process)}")
        check_word_network(model, "embed")
        self.process, self.T = process, process.T
        self.__dict__["model"] = (
            model  # not a part of this module: its weights are not this process's
        )

    def loss(self, model: nn.Module, data: Labelled, t: Times) -> PerExample:
        """At one draw of x_t."""
        if not isinstance(data, Labelled):
            raise TypeError(f"data must be Labelled, not {describe(data)}")
        with torch.no_grad():
            _, _, x0, x_t = self.process.diffuse(self.model, data.tokens, t)
        return self.loss_at(model, data, x0, x_t, t)

    def loss_at(
        self, model: nn.Module, data: Labelled, x0: Vectors, x_t: Vectors, t: Times
    ) -> PerExample:
        """At this x_t."""
        mask = self.process.unpack(data.tokens)[2]
        logits = check_finite(
            "the classifier's output",
            self.checked(model(x_t, self.u(t), mask), data.labels),
            t,
        )
        return F.cross_entropy(logits, data.labels.long(), reduction="none")

    @staticmethod
    def checked(logits: Tensor, labels: Tensor) -> Float[Tensor, "B classes"]:
        """The classifier's answer, or an error: floats (B, classes) on the labels' device, a class for each label."""
        rows = len(labels)
        wide = isinstance(logits, Tensor) and logits.ndim == 2
        check_answer(logits, (rows, logits.shape[1] if wide else "classes"), labels)
        classes = logits.shape[1]
        if (
            labels.device.type == "cpu"
            and not 0 <= labels.min() <= labels.max() < classes
        ):
            raise ValueError(
                f"labels must lie in 0..{classes - 1}, as the model has {classes} classes, "
                f"not {labels.min()}..{labels.max()}"
            )
        return logits
