"""A moment in evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Inside, every layer is in evaluation mode; on leaving each is in the mode that it was in.

    >>> layers = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(layers):
    ...     layers[0].training
    False
    >>> [layer.training for layer in layers]
    [True, False]
    """
    modes = [(layer, layer.training) for module in modules for layer in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
