"""What a stack of image predictors is trained for, and how its errors are counted.

Outputs have shape (predictors, samples) or (predictors, samples, classes), labels shape
(predictors, samples), uint8. Losses and errors of every sample have shape (predictors, samples),
errors of the best constant shape (predictors,). `classes`, shape (predictors, 1), are the
predictors' own.
"""

from torch import Tensor
from torch.nn import functional

from data_prep.one_versus_all import POSITIVE_TARGET

# The squared error is in units of the targets' distance, so that it reads as for labels 0 and 1.
ERROR_UNIT = POSITIVE_TARGET**2


class OneClass:
    """Each predictor tells its class from all others by the squared loss [TF, appendix]."""

    def losses(self, outputs: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
        """Return squared distances from the targets 2 and 0."""
        return (outputs - POSITIVE_TARGET * (labels == classes)).square()

    def errors(self, outputs: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
        """Return the losses in units of labels 1 and 0."""
        return self.losses(outputs, labels, classes) / ERROR_UNIT

    def constant_errors(self, labels: Tensor, classes: Tensor) -> Tensor:
        """Return the variance of the labels 1 and 0."""
        share = (labels == classes).float().mean(1)
        return share * (1 - share)


class AllClasses:
    """Each predictor has one output per class and is trained by the cross entropy."""

    def losses(self, outputs: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
        """Return cross entropies."""
        return functional.cross_entropy(outputs.mT, labels.long(), reduction="none")

    def errors(self, outputs: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
        """Return 1 where the largest output is not that of the sample's class, else 0."""
        return (outputs.argmax(-1) != labels).to(outputs.dtype)

    def constant_errors(self, labels: Tensor, classes: Tensor) -> Tensor:
        """Return the share of samples that are not of the most frequent class."""
        counts = functional.one_hot(labels.long()).sum(1)
        return 1 - counts.amax(1) / counts.sum(1)


LOSSES = {"one_class": OneClass(), "all_classes": AllClasses()}
