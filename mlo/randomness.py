"""The state of every random generator that a loss may draw from."""

import ctypes
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
State = tuple[Any, Any, Tensor, Tensor | None]


def capture(device: torch.device) -> State:
    """Return the state of Python's, NumPy's and torch's generators, on `device` too."""
    on_device = None
    if device.type != "cpu":
        on_device = torch.get_device_module(device).get_rng_state(device)
    return _python.capture(), _numpy.capture(), torch.get_rng_state(), on_device


def restore(state: State, device: torch.device) -> None:
    """Set the generators to a state that `capture` returned.

    >>> cpu = torch.device("cpu")
    >>> state = capture(cpu)
    >>> first = torch.rand(())
    >>> restore(state, cpu)
    >>> bool(first == torch.rand(()))
    True
    """
    python, numpy, torch_cpu, on_device = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torch_cpu)
    # The words are the same with and without a leftover normal deviate.
    _python.forget()
    _numpy.forget()
    if on_device is not None:
        torch.get_device_module(device).set_rng_state(on_device, device)


class Replay:
    """Calls functions with the same random numbers each time.

    The first call draws from the generators as they are and advances them; later calls draw the
    same numbers again and leave the generators where they were. So a dropout mask is shared by
    both sides of a finite difference, and the generators move as if the loss ran once. With a
    state, every call draws what follows that state. A generator of the user's own that a loss
    passes explicitly is not known here and draws anew each time.

    Args:
        device: Whose generator is replayed, beside those of the CPU.
        state: Where every call starts, or None.

    >>> replay = Replay(torch.device("cpu"))
    >>> bool(replay(torch.rand, 1) == replay(torch.rand, 1))
    True
    """

    def __init__(self, device: torch.device, state: State | None = None) -> None:
        self.device = device
        self._state = state
        self._draws: bool | None = None if state is None else True

    def __call__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``function(*args, **kwargs)``, drawn from the same state at each call."""
        if self._state is None:
            # While a CUDA graph is recorded the generators cannot be read; losses that draw have
            # been refused by then.
            if self.device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
                self._state = capture(self.device)
            return function(*args, **kwargs)
        if self._draws is None:
            # Most losses draw nothing; then later calls need not touch the generators at all.
            self._draws = not _is_at(self._state, self.device)
        if not self._draws:
            return function(*args, **kwargs)
        with _at(self._state, self.device):
            return function(*args, **kwargs)


@contextmanager
def unchanged(device: torch.device) -> Iterator[None]:
    """Leave all generators as they were before.

    >>> cpu = torch.device("cpu")
    >>> before = torch.get_rng_state()
    >>> with unchanged(cpu):
    ...     _ = torch.rand(())
    >>> bool(torch.equal(before, torch.get_rng_state()))
    True
    """
    now = capture(device)
    try:
        yield
    finally:
        if not _is_at(now, device):
            restore(now, device)


@contextmanager
def _at(state: State, device: torch.device) -> Iterator[None]:
    now = capture(device)
    try:
        restore(state, device)
        yield
    finally:
        restore(now, device)


def _is_at(state: State, device: torch.device) -> bool:
    """Return whether nothing was drawn since `state` was captured."""
    python, numpy, torch_cpu, on_device = state
    if on_device is not None:
        # Comparing would wait for nothing, as generators' states are kept on the CPU.
        now = torch.get_device_module(device).get_rng_state(device)
        if not torch.equal(now, on_device):
            return False
    if not (_python.is_at(python) and _numpy.is_at(numpy)):
        return False
    # Comparing bytes takes a fifth of what comparing tensors takes.
    return torch.get_rng_state().numpy().tobytes() == torch_cpu.numpy().tobytes()


class _Twister:
    """The state of a global Mersenne Twister, read again only if it has moved.

    Reading a state takes ten to thirty times as long as comparing its words in memory, and most
    losses draw nothing from these generators. The words change with each draw, unless a normal
    deviate was left over from the draw before; such a state is not remembered.

    Args:
        read: Returns the state.
        words: Returns the words in memory, or nothing where they cannot be found.
        has_leftover: Whether a state holds a normal deviate for the next draw.
    """

    def __init__(
        self,
        read: Callable[[], Any],
        words: Callable[[], bytes],
        has_leftover: Callable[[Any], bool],
    ) -> None:
        self._read = read
        self._words_now = words
        self._has_leftover = has_leftover
        self._words = b""
        self._state: Any = None

    def capture(self) -> Any:
        """Return the state."""
        words = self._words_now()
        if words and words == self._words:
            return self._state
        state = self._read()
        self._words, self._state = (b"" if self._has_leftover(state) else words), state
        return state

    def forget(self) -> None:
        """Read the state anew at the next capture."""
        self._words, self._state = b"", None

    def is_at(self, state: Any) -> bool:
        """Return whether `state` is the one that `capture` would return."""
        if self._words and state is self._state:
            return self._words_now() == self._words
        return _same(self._read(), state)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return all(_same(left[key], right[key]) for key in left)
    return bool(left == right) if isinstance(left, tuple) else bool(np.array_equal(left, right))


_SIZE = 4 * 625  # 624 words and the position among them


def _numpy_words() -> bytes:
    generator = np.random.mtrand.get_bit_generator()
    if not isinstance(generator, np.random.MT19937):
        return b""
    return ctypes.string_at(generator.ctypes.state_address, _SIZE)


def _python_words_at(offset: int) -> Callable[[], bytes]:
    """Return a reader of the words of ``random``'s generator, which tests that it finds them."""
    generator: random.Random = random._inst
    if sys.implementation.name != "cpython" or object.__sizeof__(generator) < offset + _SIZE:
        return bytes
    address = id(generator) + offset

    def read() -> bytes:
        return ctypes.string_at(address, _SIZE)

    *words, position = random.getstate()[1]
    expected = np.array([position, *words], dtype=np.uint32).tobytes()
    return read if read() == expected else bytes


_numpy = _Twister(
    lambda: np.random.get_state(legacy=False), _numpy_words, lambda state: bool(state["has_gauss"])
)
# CPython keeps an int and the words behind the head of the object.
_python = _Twister(
    random.getstate, _python_words_at(object.__basicsize__), lambda state: state[2] is not None
)
