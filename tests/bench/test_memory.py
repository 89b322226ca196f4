"""Peak memory of a known allocation."""

import os
import sys

import pytest
import torch

from mlo.bench.memory import MIB, extra_peak, in_new_process

MEBIBYTES = 48
SLACK = 2 * MIB
"""The kernel counts pages in batches, and Python allocates a little of its own."""


def allocate_and_free():
    for _ in range(3):
        torch.zeros(MEBIBYTES * MIB // 4)


def peak_of_allocation():
    kept = torch.zeros(16 * MIB // 4)
    return extra_peak(allocate_and_free, kept.device)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's high-water mark")
def test_the_peak_is_what_is_held_at_once_above_what_stays():
    found = in_new_process(peak_of_allocation)
    assert abs(found - MEBIBYTES * MIB) < SLACK


def test_the_process_is_another_one():
    assert in_new_process(os.getpid) != os.getpid()


def test_an_error_comes_back():
    with pytest.raises(ZeroDivisionError):
        in_new_process(divmod, 1, 0)
