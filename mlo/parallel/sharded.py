"""First derivatives of losses that read modules sharded by `fully_shard`.

Such a module shows its parameters as DTensors, of which each process holds a part. While it runs it
puts whole tensors in their places, gathered layer by layer, and during a backward pass it hands the
mean over processes of each gradient back in parts. Three things follow:

- autograd knows the whole tensors only, so that ``torch.autograd.grad`` finds nothing for the
  DTensors: gradients are accumulated by a backward pass, and taken from there;
- a loss can be evaluated, forwards and backwards, only at the values that the parts have at that
  time: another point is written into the parts, and the values before are put back bit for bit;
- what has been gathered must be let go before parts are written, or it would be used again.

No second derivative can be taken: what the first backward pass has used is gone by then.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlo.errors import GraphError, ProblemError, ResponseError
from mlo.parallel.sharded_tensors import any_sharded, is_sharded, local, locals_of
from mlo.tree import Params

INSTEAD = (
    'use mlo.finite_difference(), mlo.identity(product="finite_difference") or mlo.value_function()'
)
_HALF = frozenset({torch.float16, torch.bfloat16})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Parameter:
    """A parameter as it is between evaluations and as losses see it.

    Attributes:
        name: As in ``module.named_parameters()``.
        parts: The DTensor; gradients arrive here.
        whole: What is gathered; autograd knows this one.
    """

    name: str
    parts: Any
    whole: Tensor


class Sharded:
    """The sharded parameters of some modules; there may be none, which changes nothing.

    Making one, where modules are sharded, gathers each layer once: all processes must do so.

    Args:
        modules: The modules.

    Raises:
        ProblemError: If a parameter is a DTensor of another kind.

    >>> loss = (weight := torch.ones(2, requires_grad=True)).square().sum()
    >>> Sharded([nn.Linear(1, 1)]).gradients(loss, [weight])
    [tensor([2., 2.])]
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = tuple(modules)
        # Of modules that share parts, each part once.
        parts = {id(p): p for module in self._modules for p in layers_of(module)}
        self._layers = list(parts.values())
        self._parameters = {_address(p.parts): p for p in self._found()}
        self._gathered = {id(p.whole) for p in self._parameters.values()}

    def __bool__(self) -> bool:
        """Return whether any parameter is sharded."""
        return bool(self._parameters)

    def gradients(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the gradient of `loss`, None where it does not depend on an input.

        Those of sharded parameters are DTensors and the mean over processes; the others are this
        process's own. Every ``.grad`` is as it was afterwards.

        Args:
            loss: What was evaluated where parameters stand now.
            inputs: Leaves. Sharded parameters, or tensors that share their memory.

        Raises:
            ProblemError: If the gradients of a sharded module are not reduced.
        """
        if not self:
            return list(torch.autograd.grad(loss, inputs, allow_unused=True))
        with self._letting_go():
            if not any_sharded(inputs):
                return list(torch.autograd.grad(loss, inputs, allow_unused=True))
            return self._accumulated(loss, [self._pair(tensor) for tensor in inputs])

    def standing_at(
        self, base: Params | None, point: Params
    ) -> contextlib.AbstractContextManager[Params]:
        """Let sharded parameters stand at `point` for the time of a context.

        Afterwards their parts are what they were, bit for bit, whatever happens.

        Args:
            base: The parameters where they stand; None if they are not at hand.
            point: Where losses are to be evaluated.

        Returns:
            A context whose value is to be given to a loss: `point`, but for what now stands there.

        Raises:
            ResponseError: If a module gathers its parameters in half precision.
        """
        if not self or not any_sharded(point.values()):
            return contextlib.nullcontext(point)
        if base is None:
            raise ResponseError(
                "parameters sharded by fully_shard can be moved only from where their module "
                f"stands; {INSTEAD}"
            )
        own = {name: base[name] for name, tensor in point.items() if is_sharded(tensor)}
        if all(_address(own[name]) == _address(point[name]) for name in own):
            return contextlib.nullcontext(point)
        self._check_precision(own.values())
        return self._moved(own, point)

    def keeps(self, present: Tensor, given: Tensor, name: str) -> bool:
        """Return whether a module must keep its own parameter where a loss is to see `given`.

        Args:
            present: What the module holds.
            given: What a loss is evaluated at.
            name: Of the parameter, for the error.

        Raises:
            ResponseError: If it is sharded and stands elsewhere.
        """
        if not is_sharded(present) and not is_sharded(given):
            return False
        if is_sharded(present) and is_sharded(given) and _address(present) == _address(given):
            return True
        raise ResponseError(
            f"parameter {name!r} is sharded by fully_shard, so that a loss can be evaluated only "
            f"where it stands, not at other values; {INSTEAD}"
        )

    def let_go(self) -> None:
        """Free what is gathered, so that modules show DTensors."""
        for layer in self._layers:
            layer.reshard()

    @contextlib.contextmanager
    def _moved(self, own: Params, point: Params) -> Iterator[Params]:
        with self._letting_go():
            self.let_go()
            parts = locals_of(own.values())
            before = [part.clone() for part in parts]
            try:
                _write(parts, locals_of(point[name] for name in own))
                yield {**point, **{name: tensor.detach() for name, tensor in own.items()}}
            finally:
                _write(parts, before)

    def _found(self) -> Iterator[_Parameter]:
        self.let_go()
        slots = [
            (part, key, parameter)
            for module in self._modules
            for part in module.modules()
            for key, parameter in part._parameters.items()
            if is_sharded(parameter)
        ]
        names = {id(p): n for module in self._modules for n, p in module.named_parameters()}
        seen: set[int] = set()
        for layer in self._layers:
            # One at a time, as there may be no room for all.
            layer.unshard()
            found = [(parts, part._parameters[key]) for part, key, parts in slots]
            layer.reshard()
            for parts, gathered in found:
                if gathered is parts or gathered is None or id(parts) in seen:
                    continue
                seen.add(id(parts))
                if not is_sharded(gathered):
                    yield _Parameter(name=names[id(parts)], parts=parts, whole=gathered)
                    continue
                raise ProblemError(
                    f"parameter {names[id(parts)]!r} is sharded by fully_shard and by something "
                    "else, such as tensor parallelism, expected by fully_shard alone"
                )
        for _, _, parts in slots:
            if id(parts) not in seen:
                raise ProblemError(
                    f"parameter {names[id(parts)]!r} is a DTensor that fully_shard has not made; "
                    "of distributed parameters only those of fully_shard are understood"
                )

    def _pair(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Return where autograd accumulates the gradient of an input, and where it is found."""
        known = self._parameters.get(_address(tensor)) if is_sharded(tensor) else None
        if known is None and not is_sharded(tensor) and id(tensor) not in self._gathered:
            return tensor, tensor
        if known is None:
            raise ResponseError(
                "a loss was differentiated in values of a sharded parameter that its module does "
                f"not hold between evaluations; {INSTEAD}"
            )
        return known.whole, known.parts

    def _accumulated(
        self, loss: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]
    ) -> list[Tensor | None]:
        touched = {id(t): t for pair in pairs for t in pair}
        variables = [tensor for tensor in touched.values() if tensor.requires_grad]
        before = [(tensor, tensor.grad) for tensor in touched.values()]
        for tensor, _ in before:
            tensor.grad = None
        try:
            # Without inputs every leaf of the loss would get a gradient. What a loss reads of a
            # parameter between evaluations of its module is the DTensor.
            if variables:
                torch.autograd.backward(loss, inputs=variables)
            if any(a is not f and a.grad is not None for a, f in pairs):
                raise ProblemError(
                    "the gradients of a module sharded by fully_shard are not reduced; call "
                    "set_requires_gradient_sync(True) on it"
                )
            return [found.grad for _, found in pairs]
        finally:
            for tensor, gradient in before:
                tensor.grad = gradient

    @contextlib.contextmanager
    def _letting_go(self) -> Iterator[None]:
        """Free what is gathered afterwards, also what a pass holds that broke off."""
        try:
            yield
        except BaseException:
            self._recover()
            raise
        finally:
            self.let_go()

    def _recover(self) -> None:
        """Bring modules back from a pass that broke off, in which they let nothing go."""
        within = {id(p) for layer in self._layers for p in layer.modules() if p is not layer}
        for layer in self._layers:
            if id(layer) in within:
                continue
            # What went wrong first is what is to be seen.
            with contextlib.suppress(Exception):
                if hasattr(layer, "reset_iter_state"):
                    layer.reset_iter_state()
                else:
                    # Torch 2.11 has no such method, and takes the next pass for a part of this one.
                    state = layer._get_fsdp_state()
                    state._state_ctx.iter_forward_root = None
                    state._root_post_backward_final_callback()
                # It frees what is gathered in whatever state a module is.
                layer.state_dict(keep_vars=True)

    def _check_precision(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            known = self._parameters.get(_address(tensor))
            if known is not None and known.whole.dtype in _HALF:
                raise ResponseError(
                    f"parameter {known.name!r} is gathered in {known.whole.dtype}, whose rounding "
                    "hides the difference of two gradients; leave param_dtype out of the "
                    "MixedPrecisionPolicy of fully_shard, and give the engine autocast="
                )


NOT_SHARDED = Sharded(())
"""Of no module: for losses that are plain functions."""


def layers_of(module: nn.Module) -> list[Any]:
    """Return the parts of a module that `fully_shard` was called on, outermost first.

    >>> layers_of(nn.Linear(1, 1))
    []
    """
    # Importing it takes a second; who has such a module has paid that already.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return []
    return [part for part in module.modules() if isinstance(part, fsdp.FSDPModule)]


def let_go(module: nn.Module) -> None:
    """Free what a module has gathered, so that it shows its sharded parameters as DTensors.

    Who reads or writes parameters between evaluations calls it first: after a forward pass alone
    whole tensors may stand in their places, and what is written there is lost.

    >>> let_go(nn.Linear(1, 1))
    """
    for layer in layers_of(module):
        layer.reshard()


def check_first_order(
    problem: str, response: str, reads: Mapping[str, nn.Module], *, is_first_order: bool
) -> None:
    """Refuse a response that takes second derivatives of a loss that reads a sharded module.

    Args:
        problem: Whose loss it is.
        response: The label of its response.
        reads: The modules that the loss reads, by the name of their problems.
        is_first_order: Whether the response takes first derivatives only.

    Raises:
        GraphError: If a module is sharded and the response does more.

    >>> check_first_order("model", "cg()", {"model": nn.Linear(1, 1)}, is_first_order=False)
    """
    if is_first_order:
        return
    for name, module in reads.items():
        if any(map(is_sharded, module.parameters())):
            raise GraphError(
                f"problem {problem!r}: {response} differentiates its loss twice, which the module "
                f"of {name!r}, sharded by fully_shard, does not allow; {INSTEAD}"
            )


def _address(tensor: Tensor) -> int:
    """Return where the part of a sharded parameter is kept, empty parts told apart too."""
    return local(tensor).untyped_storage().data_ptr()


@torch.no_grad()
def _write(parts: list[Tensor], values: list[Tensor]) -> None:
    torch._foreach_copy_(parts, values)
