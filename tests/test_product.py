import pytest
import torch
from torch import nn

import mlo
from mlo import Autograd, FiniteDifference, ResponseError, tree
from mlo.inner import inner_of
from mlo.product import product_of

PRODUCTS = [Autograd(), FiniteDifference()]
both_products = pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: p.label)


def smooth(solution, upstream):
    """A loss with non-zero derivatives of all orders."""
    x, y = solution["x"], solution["y"]
    a, b = upstream["above"]["a"], upstream["other"]["b"]
    return ((x @ a).sin() * y.exp()).sum() + (x.square().sum() * b.sum()).tanh() + y.pow(4).sum()


def point():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 2

    solution = {"x": normal(2, 3), "y": normal(2)}
    upstream = {"above": {"a": normal(3)}, "other": {"b": normal(2), "unused": normal(1)}}
    return solution, upstream, {"x": normal(2, 3), "y": normal(2)}


def flat(params):
    return torch.cat([t.reshape(-1) for t in params.values()])


def reference():
    """Both products from dense second derivatives of torch.func."""
    solution, upstream, vector = point()

    def gradient(solution, upstream):
        return torch.func.grad(smooth)(solution, upstream)

    over_solution = torch.func.jacrev(gradient, argnums=0)(solution, upstream)
    over_upstream = torch.func.jacrev(gradient, argnums=1)(solution, upstream)

    def contracted(tensors):
        return sum(
            torch.tensordot(vector[name], tensors[name], dims=vector[name].dim()) for name in vector
        )

    hessian = {n: contracted({m: over_solution[m][n] for m in solution}) for n in solution}
    mixed = {
        p: {n: contracted({m: over_upstream[m][p][n] for m in solution}) for n in params}
        for p, params in upstream.items()
    }
    return hessian, mixed


def test_autograd_products_equal_dense_second_derivatives():
    solution, upstream, vector = point()
    hessian, mixed = reference()
    maps = Autograd()(inner_of(smooth), solution, upstream)
    image = maps.hessian(vector)
    back = maps.mixed(vector)
    assert all(torch.allclose(image[n], hessian[n], rtol=1e-12) for n in solution)
    assert torch.allclose(back["above"]["a"], mixed["above"]["a"], rtol=1e-12)
    assert torch.allclose(back["other"]["b"], mixed["other"]["b"], rtol=1e-12)


def errors(radius):
    """Error norms of both finite-difference products on a smooth loss."""
    solution, upstream, vector = point()
    hessian, mixed = reference()
    maps = FiniteDifference(radius=radius)(inner_of(smooth), solution, upstream)
    image, back = maps.hessian(vector), maps.mixed(vector)
    wanted = {n: mixed[p][n] for p, n in (("above", "a"), ("other", "b"))}
    found = {"a": back["above"]["a"], "b": back["other"]["b"]}
    return (
        float(tree.norm(tree.minus(image, hessian)) / tree.norm(hessian)),
        float(tree.norm(tree.minus(found, wanted)) / tree.norm(wanted)),
    )


@pytest.mark.parametrize("radius", [0.1, 0.02, 0.01])
def test_halving_the_radius_quarters_the_error(radius):
    for whole, half in zip(errors(radius), errors(radius / 2), strict=True):
        assert whole / half == pytest.approx(4.0, rel=0.02)


def test_finite_differences_are_close_to_exact_at_a_small_radius():
    assert max(errors(1e-4)) < 1e-7


def test_the_default_radius_is_good_in_single_precision():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    inputs, weights = torch.randn(64, 8), torch.rand(64, 1)
    solution = {n: p.detach() for n, p in model.named_parameters()}
    vector = {n: torch.randn_like(p) for n, p in solution.items()}

    def inner(solution, upstream):
        out = torch.func.functional_call(model, solution, inputs)
        return (upstream["above"]["w"] * out.square()).mean()

    found, exact = (
        product(inner_of(inner), solution, {"above": {"w": weights}}).mixed(
            tree.scaled(vector, 1.0)
        )["above"]
        for product in (FiniteDifference(), Autograd())
    )
    assert float((found["w"] - exact["w"]).norm() / exact["w"].norm()) < 1e-3


@both_products
def test_what_the_mixed_derivative_does_not_touch_is_left_out(product):
    back = product(inner_of(smooth), *point()[:2]).mixed(point()[2])
    assert {p: list(params) for p, params in back.items()} == {"above": ["a"], "other": ["b"]}


@both_products
def test_the_hessian_is_keyed_and_shaped_like_the_solution(product):
    solution, upstream, vector = point()
    image = product(inner_of(smooth), solution, upstream).hessian(vector)
    assert {n: t.shape for n, t in image.items()} == {n: t.shape for n, t in solution.items()}


@both_products
def test_a_zero_vector_gives_exactly_zero(product):
    solution, upstream, vector = point()
    maps = product(inner_of(smooth), solution, upstream)
    zero = tree.zeros_like(vector)
    assert float(tree.norm(maps.hessian(zero))) == 0.0
    assert all(float(tree.norm(params)) == 0.0 for params in maps.mixed(zero).values())


@both_products
def test_a_loss_that_is_linear_in_its_parameters_has_a_zero_hessian(product):
    def linear(solution, upstream):
        return (solution["x"] * upstream["above"]["a"]).sum()

    solution, upstream = {"x": torch.ones(2)}, {"above": {"a": torch.tensor([3.0, 4.0])}}
    maps = product(inner_of(linear), solution, upstream)
    vector = {"x": torch.tensor([1.0, 2.0])}
    assert torch.equal(maps.hessian(vector)["x"], torch.zeros(2))
    assert torch.allclose(maps.mixed(vector)["above"]["a"], torch.tensor([1.0, 2.0]), rtol=1e-3)


@both_products
def test_a_loss_that_depends_on_nothing_has_zero_derivatives(product):
    maps = product(inner_of(lambda solution, upstream: torch.tensor(1.0)), {"x": torch.ones(2)}, {})
    vector = {"x": torch.ones(2)}
    assert torch.equal(maps.hessian(vector)["x"], torch.zeros(2))
    assert maps.mixed(vector) == {}


@both_products
def test_an_unused_parameter_has_a_zero_row_and_column(product):
    def loss(solution, upstream):
        return solution["x"].pow(3).sum() * upstream["above"]["a"].sum()

    solution = {"x": torch.ones(2).double(), "unused": torch.ones(3).double()}
    upstream = {"above": {"a": torch.ones(1).double()}}
    maps = product(inner_of(loss), solution, upstream)
    image = maps.hessian({"x": torch.ones(2).double(), "unused": torch.ones(3).double()})
    assert torch.equal(image["unused"], torch.zeros(3).double())
    assert torch.allclose(image["x"], torch.full((2,), 6.0).double())


@both_products
def test_nothing_that_goes_in_is_changed(product):
    solution, upstream, vector = point()
    maps = product(inner_of(smooth), solution, upstream)
    maps.hessian(vector)
    maps.mixed({name: t.clone() for name, t in vector.items()})
    again = point()
    for left, right in zip((solution, *upstream.values(), vector), again[:1], strict=False):
        assert all(torch.equal(left[n], right[n]) for n in right)
    assert torch.equal(flat(vector), flat(again[2]))
    assert not any(t.requires_grad or t.grad is not None for t in solution.values())


@both_products
def test_the_gradient_of_a_sparse_embedding_comes_back_sparse(product):
    rows = torch.tensor([1, 3])
    table = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def inner(solution, upstream):
        weights = nn.functional.embedding(rows, upstream["table"]["w"], sparse=True)
        return (weights * solution["x"].square()).sum()

    solution, vector = {"x": torch.tensor([2.0, 3.0]).double()}, {"x": torch.ones(2).double()}
    back = product(inner_of(inner), solution, {"table": {"w": table}}).mixed(vector)["table"]["w"]
    expected = torch.zeros(5, 2).double()
    expected[rows] = 2 * solution["x"]
    assert back.is_sparse
    assert set(back.coalesce().indices()[0].tolist()) == {1, 3}
    assert torch.allclose(back.to_dense(), expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_finite_differences_refuse_half_precision(dtype):
    solution = {"x": torch.ones(2, dtype=dtype)}
    message = f"finite difference: parameter 'x' is {dtype}, whose rounding hides the difference"
    maps = FiniteDifference()(inner_of(lambda solution, _: solution["x"].sum()), solution, {})
    vector = {"x": torch.ones(2, dtype=dtype)}
    with pytest.raises(ResponseError, match=message):
        maps.hessian(vector)
    with pytest.raises(ResponseError, match=message):
        maps.mixed(vector)


def test_autograd_products_take_half_precision():
    solution = {"x": torch.tensor([2.0], dtype=torch.bfloat16)}
    maps = Autograd()(inner_of(lambda solution, _: solution["x"].pow(2).sum()), solution, {})
    assert maps.hessian({"x": torch.ones(1, dtype=torch.bfloat16)})["x"] == 2


@pytest.mark.parametrize("radius", [0.0, -0.1, float("nan"), float("inf")])
def test_a_radius_out_of_range_is_refused(radius):
    with pytest.raises(ResponseError, match=f"radius must be > 0, got {radius}"):
        FiniteDifference(radius=radius)


def test_products_are_found_by_name_or_given():
    assert product_of("finite_difference") == FiniteDifference(radius=0.01)
    assert product_of("autograd") == Autograd()
    own = FiniteDifference(radius=0.5)
    assert product_of(own) is own
    with pytest.raises(ResponseError, match=r"got 'autgrad' \(did you mean 'autograd'\?\)"):
        mlo.cg(product="autgrad")
