"""The hand-written loops against dense algebra: they are what everything else is measured by."""

import pytest
import torch
from torch.func import functional_call

from mlo.bench import by_hand
from mlo.bench.programs import PROGRAMS, RATE, Parts, Shape
from mlo.bench.variant import gradient_of_round

CPU = torch.device("cpu")
DAMPING = 1.0


def tiny(build) -> Parts:
    """Return a program with so few parameters that its Hessian is a small matrix."""
    return build(Shape(size="1k", device=CPU, dtype=torch.float64, batch_size=5))


def dense(parts: Parts):
    """Return ``∂F/∂θ``, ``∂F/∂a``, ``H`` and ``∂²g/∂θ∂a`` on the first batches, as matrices."""
    theta, phi = (
        {k: p.detach() for k, p in m.named_parameters()} for m in (parts.model, parts.upper)
    )

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.upper = parts.model, parts.upper

        def forward(self, training):
            if training:
                return parts.train_loss(self.model, self.upper, parts.train[0])
            return parts.validate(parts.valid[0])

    def loss(flat_theta, flat_phi, training):
        given = {f"model.{k}": v for k, v in unflat(flat_theta, theta).items()}
        given |= {f"upper.{k}": v for k, v in unflat(flat_phi, phi).items()}
        return functional_call(Both(), given, (training,))

    def unflat(vector, like):
        pieces = torch.split(vector, [t.numel() for t in like.values()])
        return {k: p.reshape(t.shape) for (k, t), p in zip(like.items(), pieces, strict=True)}

    point = tuple(torch.cat([t.reshape(-1) for t in d.values()]) for d in (theta, phi))
    first = torch.func.grad(loss, argnums=(0, 1))(*point, False)
    gradient = torch.func.grad(loss)
    hessian, mixed = torch.func.jacrev(gradient, argnums=(0, 1))(*point, True)
    return *first, hessian, mixed


def after_a_lower_step(build) -> Parts:
    """Return the program as it stands when the upper step of the first round begins."""
    parts = tiny(build)
    by_hand.build(parts, by_hand.finite_difference).lower()
    return parts


SOLVES = {
    "neumann": (
        by_hand.neumann(2),
        lambda h, v, rate: rate * (3 * v - 3 * rate * h @ v + rate**2 * h @ h @ v),
        1e-10,
    ),
    "cg": (
        by_hand.cg(40, DAMPING),
        lambda h, v, rate: torch.linalg.solve(h + DAMPING * torch.eye(len(h), dtype=h.dtype), v),
        1e-6,
    ),
}


def distance(parts: Parts, indirect, expected) -> float:
    """Return how far the hypergradient of the first round is from what it should be."""
    found = gradient_of_round(by_hand.build(parts, indirect))
    return float((torch.cat([g.reshape(-1) for g in found]) - expected).norm() / expected.norm())


@pytest.mark.parametrize("build", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("name", SOLVES)
def test_the_hypergradient_is_that_of_dense_algebra(build, name):
    indirect, inverse, tolerance = SOLVES[name]
    to_model, direct, hessian, mixed = dense(after_a_lower_step(build))
    expected = direct - inverse(hessian, to_model, RATE) @ mixed
    assert distance(tiny(build), indirect, expected) <= tolerance


def test_the_error_of_a_finite_difference_falls_with_the_square_of_the_radius(monkeypatch):
    # Not with reweighting: what its loss detaches is held still by autograd only.
    build = PROGRAMS["input scaling"]
    to_model, direct, _, mixed = dense(after_a_lower_step(build))
    expected = direct - RATE * to_model @ mixed
    errors = []
    for radius in (1e-1, 1e-2, 1e-3):
        monkeypatch.setattr(by_hand, "RADIUS", radius)
        errors.append(distance(tiny(build), by_hand.finite_difference, expected))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(100, rel=0.1)


INDIRECT = {name: solve[0] for name, solve in SOLVES.items()}
INDIRECT["finite difference"] = by_hand.finite_difference


@pytest.mark.parametrize("name", INDIRECT)
def test_an_upper_step_leaves_the_model_bit_for_bit(name):
    parts = tiny(PROGRAMS["input scaling"])
    steps = by_hand.build(parts, INDIRECT[name])
    steps.lower()
    before = {k: p.detach().clone() for k, p in parts.model.named_parameters()}
    steps.upper()
    for key, parameter in parts.model.named_parameters():
        assert torch.equal(parameter, before[key])
        assert parameter.requires_grad
        assert parameter.grad is None


def test_an_error_in_a_difference_leaves_the_model():
    parts = tiny(PROGRAMS["reweighting"])
    weights = list(parts.model.parameters())
    before = [w.detach().clone() for w in weights]

    def fail():
        raise RuntimeError("a loss that fails")

    lower = by_hand.Lower(
        loss=fail, weights=weights, upper=list(parts.upper.parameters()), rate=0.5
    )
    with pytest.raises(RuntimeError, match="a loss that fails"):
        by_hand.finite_difference(lower, [torch.ones_like(w) for w in weights])
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))
    assert all(w.requires_grad for w in weights)
