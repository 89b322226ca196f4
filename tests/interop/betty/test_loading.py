"""Several loaders as one."""

from itertools import islice

import pytest

from mlo import BatchError
from mlo.interop.betty.loading import Together


def test_each_iteration_starts_anew() -> None:
    both = Together(problem="m", loaders=([1, 2], [3]))
    assert list(islice(both, 3)) == list(islice(both, 3)) == [(1, 3), (2, 3), (1, 3)]


@pytest.mark.parametrize("loader", [[], iter([1])])
def test_a_loader_that_has_no_more(loader: object) -> None:
    batches = iter(Together(problem="m", loaders=([1, 2], loader)))
    with pytest.raises(BatchError, match="problem 'm': one of its train_data_loader is empty"):
        list(islice(batches, 2))
