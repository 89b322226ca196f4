"""A stand-in for CUDA graphs on a CPU: operations are recorded, and made again where they were.

As in a CUDA graph nothing but tensor operations is recorded, Python is not run again, recording
leaves the values of all tensors as they were, and reading a number on the host is an error.
"""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mlo import tree

HOST_READS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::item"}


class Recording:
    """A `mlo.replay.captured.Capture`."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def warm_up(self, run):
        run()

    def rehearse(self, run):
        with _Refusing():
            run()

    def record(self, run):
        self.recorded += 1
        mode = _Recorder()
        with mode:
            run()
        mode.restore()

        def replay():
            self.replayed += 1
            mode.replay()

        return replay


class _Refusing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in HOST_READS:
            raise RuntimeError("called a synchronizing operation")
        return func(*args, **(kwargs or {}))


class _Recorder(_Refusing):
    def __init__(self):
        super().__init__()
        self._calls = []
        self._made = {}
        self._before = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        self._remember(given)
        made = super().__torch_dispatch__(func, types, args, kwargs)
        taken = set(map(_storage, given))
        fresh = [
            t.detach() if isinstance(t, torch.Tensor) and _storage(t) not in taken else None
            for t in tree_leaves(made)
        ]
        for tensor in fresh:
            if tensor is not None:
                self._made[_storage(tensor)] = tensor
        self._calls.append((func, _detached(args), _detached(kwargs), fresh))
        return made

    def _remember(self, given):
        # All of them: that batch_norm writes running statistics is not in its signature.
        for tensor in given:
            storage = _storage(tensor)
            if storage not in self._made and storage not in self._before:
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                whole = tensor.detach().as_strided((size,), (1,), 0)
                self._before[storage] = (whole, whole.clone())

    def restore(self):
        for tensor, before in self._before.values():
            tensor.copy_(before)
        for tensor in self._made.values():
            # What is not replayed is not known, as memory of a graph before its first launch.
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, fresh in self._calls:
            made = tree_leaves(func(*args, **kwargs))
            for kept, tensor in zip(fresh, made, strict=True):
                if kept is not None:
                    kept.copy_(tensor)


def _storage(tensor):
    return tensor.untyped_storage()._cdata


def _detached(arguments):
    return tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, arguments)


@pytest.fixture
def like_an_accelerator(monkeypatch):
    """Let `mlo` treat the CPU as a device whose numbers must not be read."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mlo.") and hasattr(module, "synchronous"):
            monkeypatch.setattr(module, "synchronous", lambda device: False)
    # Both are numbers on a CPU and tensors elsewhere.
    monkeypatch.setattr(tree, "size", tree.largest)
    monkeypatch.setattr(tree, "inner", tree.dot)
