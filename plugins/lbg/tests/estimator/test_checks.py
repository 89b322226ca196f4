"""scikit-learn's own checks of an estimator."""

from collections.abc import Callable

from sklearn.utils.estimator_checks import parametrize_with_checks

from mlo_lbg.estimator.lbg_classifier import LBGClassifier


@parametrize_with_checks([LBGClassifier(rounds=10, epochs=30, learning_rate=3e-2)])
def test_passes_the_check(estimator: LBGClassifier, check: Callable[[LBGClassifier], None]) -> None:
    check(estimator)
