"""What a Betty program may use that `mlo` has under the same meaning; the rest is refused."""

from typing import Any

from mlo.errors import ProblemError

_PLAIN = {
    "precision": ("fp32", "put torch.autocast into the loss"),
    "gradient_accumulation": (1, "draw larger batches, or several in one batch"),
    "gradient_clipping": (0.0, "clip in optimizer.register_step_pre_hook"),
    "warmup_steps": (0, "train the lower problem first, as a graph of its own"),
    "first_order": (True, "with False Betty's hypergradient is silently zero"),
    "darts_multitask": (False, "no weight is perturbed in mlo"),
    "sama_multitask": (False, "no weight is perturbed in mlo"),
}
"""Fields of Betty's problem config that change what is computed, and what to do instead."""

_METHODS = {
    "grad_callback": "use optimizer.register_step_pre_hook",
    "param_callback": "use optimizer.register_step_post_hook",
    "custom_optimizer_step": "write a torch.optim.Optimizer",
    "param_groups": "give the optimizer its groups, they are kept",
    "epoch_callback": "loop over mlo.Engine.rounds",
    "on_inner_loop_start": "loop over mlo.Engine.rounds",
}
"""Methods that Betty calls where a problem has them."""

_ENGINE = {
    "roll_back": (False, "there is no roll-back"),
    "early_stopping": (False, "loop over mlo.Engine.rounds and stop"),
}
_STRATEGIES = ("default", "cpu", "gpu")


def check(problem: Any) -> None:
    """Refuse a Betty problem that uses what has no counterpart.

    Raises:
        ProblemError: With the field or method, and what to do instead.

    >>> from types import SimpleNamespace
    >>> check(SimpleNamespace(name="m", config=SimpleNamespace(warmup_steps=0)))
    """
    for field, (plain, instead) in _PLAIN.items():
        value = getattr(problem.config, field, plain)
        if value != plain:
            raise ProblemError(
                f"problem {problem.name!r}: config.{field} must be {plain!r} to be read, got "
                f"{value!r}; {instead}"
            )
    for method, instead in _METHODS.items():
        if callable(getattr(problem, method, None)):
            raise ProblemError(
                f"problem {problem.name!r}: its method {method} would not be called; {instead}"
            )


def check_engine(engine: Any) -> None:
    """Refuse a Betty engine that uses what has no counterpart.

    Raises:
        ProblemError: With the field, and what to do instead.

    >>> from types import SimpleNamespace
    >>> check_engine(SimpleNamespace(config=SimpleNamespace(strategy="cpu")))
    """
    for field, (plain, instead) in _ENGINE.items():
        value = getattr(engine.config, field, plain)
        if value != plain:
            raise ProblemError(
                f"engine: config.{field} must be {plain!r} to be read, got {value!r}; {instead}"
            )
    if engine.config.strategy not in _STRATEGIES:
        raise ProblemError(
            f"engine: config.strategy must be one of {_STRATEGIES} to be read, got "
            f"{engine.config.strategy!r}"
        )


def check_trained(problem: Any) -> None:
    """Refuse a Betty problem that trains other parameters than those with ``requires_grad``.

    Raises:
        ProblemError: If ``trainable_parameters`` or ``meta_trainable_parameters`` returns others.

    >>> from types import SimpleNamespace
    >>> from torch import nn
    >>> line = nn.Linear(1, 1)
    >>> both = {m: lambda: [line.weight] for m in ("trainable_parameters",
    ...                                            "meta_trainable_parameters")}
    >>> check_trained(SimpleNamespace(name="m", module=line, **both))
    Traceback (most recent call last):
        ...
    mlo.errors.ProblemError: problem 'm': trainable_parameters() leaves out 'bias', which has \
requires_grad; what requires a gradient is trained, so freeze it with requires_grad_(False)
    """
    # Betty's own method returns frozen ones too, and then fails on them.
    for method in ("trainable_parameters", "meta_trainable_parameters"):
        returned = {id(p) for p in getattr(problem, method)()}
        for name, parameter in problem.module.named_parameters():
            if parameter.requires_grad and id(parameter) not in returned:
                raise ProblemError(
                    f"problem {problem.name!r}: {method}() leaves out {name!r}, which has "
                    "requires_grad; what requires a gradient is trained, so freeze it with "
                    "requires_grad_(False)"
                )


def overrides(problem: Any, method: str) -> bool:
    """Return whether the class of `problem` defines `method` outside Betty.

    >>> class Own:
    ...     def get_batch(self): ...
    >>> overrides(Own(), "get_batch")
    True
    """
    owner = next((c for c in type(problem).__mro__ if method in vars(c)), None)
    return owner is not None and owner.__module__.partition(".")[0] != "betty"
