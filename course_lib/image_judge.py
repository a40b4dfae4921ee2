"""A judge of pictures: how sure is a classifier, and where do pictures lie in feature space?"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .files import needs
from .shapes import check_count, check_scalar, describe, upcast


class Judge:
    """Fitted once on real images and labels: how sure is a classifier, and where do images lie in feature space?

    The classifier is ten nearest neighbours in pixel space: it is surer than 0.9 when all ten real digits around an
    image agree, which they seldom do far from the data. A neural classifier is often sure of noise. Features are the
    leading principal components.
    """

    def __init__(
        self,
        x: Float[Tensor, "N *event"],
        y: Int[Tensor, " N"],
        neighbours: int = 10,
        components: int = 30,
    ):
        for name, value in (("x", x), ("y", y)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a tensor, not {describe(value)}")
        check_count("neighbours", neighbours)
        check_count("components", components)
        if y.shape != x.shape[:1] or y.is_floating_point():
            raise ValueError(
                f"y must hold one whole label for each of the {len(x)} images, not {describe(y)}"
            )
        self.event = x.shape[1:]
        most = min(len(x), self.event.numel())
        if not 1 <= components <= most or not 1 <= neighbours <= len(x):
            raise ValueError(
                f"components must lie in 1..{most} and neighbours in 1..{len(x)}, not {components} and {neighbours}"
            )
        knn = needs("sklearn.neighbors", "scikit-learn").KNeighborsClassifier(
            neighbours
        )
        pca = needs("sklearn.decomposition", "scikit-learn").PCA(
            components, random_state=0
        )
        pixels = self.pixels(x)
        self.classifier = knn.fit(pixels, y.cpu().numpy())
        self.pca = pca.fit(pixels)

    def pixels(self, x: Float[Tensor, "N *event"]):
        """The images as rows of numbers. ValueError for other images than those it was fitted on, or NaN."""
        good = isinstance(x, Tensor) and x.is_floating_point() and len(x)
        if not good or x.shape[1:] != self.event or not x.isfinite().all():
            want = ", ".join(["N >= 1", *map(str, self.event)])
            raise ValueError(f"x must hold finite images ({want}), not {describe(x)}")
        return upcast(x.detach()).flatten(1).cpu().numpy()

    def features(self, x: Float[Tensor, "N *event"]) -> Float[Tensor, "N components"]:
        """Principal components, float64."""
        return torch.from_numpy(self.pca.transform(self.pixels(x))).double()

    def label(self, x: Float[Tensor, "N *event"]) -> Int[Tensor, " N"]:
        """The classifier's favourite class."""
        return torch.from_numpy(self.classifier.predict(self.pixels(x)))

    def confidence(self, x: Float[Tensor, "N *event"]) -> Float[Tensor, " N"]:
        """The classifier's probability for its favourite class."""
        law = torch.from_numpy(self.classifier.predict_proba(self.pixels(x)))
        return law.max(1).values

    def accepted(self, x: Float[Tensor, "N *event"], above: float = 0.9) -> float:
        """Share of images whose class the classifier is surer of than `above`."""
        check_scalar("above", above)
        if not 0 <= above <= 1:
            raise ValueError(f"above must lie in [0, 1], not {above}")
        sure = self.confidence(x) > above
        return sure.double().mean().item()
