"""What the fair baselines refuse."""

from mlo.errors import MloError


class FairBaselineError(MloError):
    """A setting is out of range, or a method is not defined for these examples."""
