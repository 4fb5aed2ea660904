"""Parts of all models: the split between features and classifier, and the normalisation layers."""

from torch import Tensor, nn

from fedsim.models.config import Norm

Features = tuple[nn.Module, int]
"""The result of a builder: the feature extractor and its number of features."""


class Classifier(nn.Module):
    """A feature extractor and one linear layer on top; all parameters are `features.*` or `classifier.*`.

    Parameters
    ----------
    features
        maps (B, *input_shape) to (B, feature_dim)
    feature_dim
        number of features
    num_classes
        number of logits; 1 for regression
    intercept
        whether the linear layer has a bias
    """

    def __init__(self, features: nn.Module, feature_dim: int, num_classes: int, intercept: bool = True) -> None:
        super().__init__()
        self.input_shape: tuple[int, ...] = ()
        """Shape of one sample, set by `build_model`."""
        self.feature_dim = feature_dim
        self.features = features
        self.classifier = nn.Linear(feature_dim, num_classes, bias=intercept)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of inputs (B, *input_shape)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of at most 8 groups with at least 4 channels each; one group if no such division exists.

    With one channel per group, a flat feature would become a constant; with two, only its sign would remain.
    """
    groups = max(g for g in (1, 2, 4, 8) if g == 1 or (channels % g == 0 and channels >= 4 * g))
    return nn.GroupNorm(groups, channels)


def norm_1d(norm: Norm, units: int) -> list[nn.Module]:
    """Return the layers, one or none, that normalise (B, units)."""
    if norm == "batch":
        return [nn.BatchNorm1d(units)]
    return [group_norm(units)] if norm == "group" else []


def norm_2d(norm: Norm, channels: int) -> list[nn.Module]:
    """Return the layers, one or none, that normalise (B, channels, H, W)."""
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    return [group_norm(channels)] if norm == "group" else []
