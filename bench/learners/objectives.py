"""What a stack of image predictors is trained for, and how its errors are counted.

Outputs have shape (predictors, samples) or (predictors, samples, classes); `samples` are the
places, in a part of the data, of the samples that they belong to. Losses and errors of every
sample have shape (predictors, samples), errors of the best constant shape (predictors,).
"""

from torch import Tensor
from torch.nn import functional

from data_prep.one_versus_all import EVERYTHING, POSITIVE_TARGET, Part

# The squared error is in units of the targets' distance, so that it reads as for labels 0 and 1.
ERROR_UNIT = POSITIVE_TARGET**2


class OneClass:
    """Each predictor tells its class from all others by the squared loss [TF, appendix]."""

    def losses(self, outputs: Tensor, part: Part, samples: Tensor | slice) -> Tensor:
        """Return squared distances from the targets 2 and 0."""
        wanted = POSITIVE_TARGET * part.targets(EVERYTHING, samples)
        return (outputs - wanted).square()

    def errors(self, outputs: Tensor, part: Part, samples: Tensor | slice) -> Tensor:
        """Return the losses in units of labels 1 and 0."""
        return self.losses(outputs, part, samples) / ERROR_UNIT

    def constant_errors(self, part: Part) -> Tensor:
        """Return the variance of the labels 1 and 0."""
        share = part.targets(EVERYTHING).float().mean(1)
        return share * (1 - share)


class AllClasses:
    """Each predictor has an output a class and is trained by the cross entropy."""

    def losses(self, outputs: Tensor, part: Part, samples: Tensor | slice) -> Tensor:
        """Return cross entropies."""
        labels = part.problem_labels(EVERYTHING, samples).long()
        return functional.cross_entropy(outputs.mT, labels, reduction="none")

    def errors(self, outputs: Tensor, part: Part, samples: Tensor | slice) -> Tensor:
        """Return 1 where the largest output is not that of the sample's class, else 0."""
        labels = part.problem_labels(EVERYTHING, samples)
        return (outputs.argmax(-1) != labels).to(outputs.dtype)

    def constant_errors(self, part: Part) -> Tensor:
        """Return the share of samples that are not of the most frequent class."""
        counts = functional.one_hot(part.problem_labels(EVERYTHING).long()).sum(1)
        return 1 - counts.amax(1) / counts.sum(1)


Objective = OneClass | AllClasses
OBJECTIVES: dict[str, Objective] = {"one_class": OneClass(), "all_classes": AllClasses()}
