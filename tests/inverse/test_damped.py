import torch

from mlo.inverse.damped import damped


def test_damping_adds_a_multiple_of_the_vector():
    found = damped(lambda v: {"a": 2 * v["a"]}, 0.5)({"a": torch.ones(2)})
    assert torch.equal(found["a"], torch.full((2,), 2.5))


def test_without_damping_the_image_is_not_copied():
    image = {"a": torch.ones(2)}
    assert damped(lambda v: image)({"a": torch.ones(2)})["a"].data_ptr() == image["a"].data_ptr()


def test_with_damping_what_the_product_returned_is_not_changed():
    image = {"a": torch.ones(2)}
    damped(lambda v: image, 0.5)({"a": torch.ones(2)})
    assert torch.equal(image["a"], torch.ones(2))


def test_the_image_is_dense_and_constant_and_in_the_order_of_the_vector():
    def hvp(v):
        sparse = torch.eye(2).to_sparse()
        return {"b": sparse, "a": v["a"] * torch.ones(2, requires_grad=True)}

    found = damped(hvp)({"a": torch.ones(2), "b": torch.ones(2, 2)})
    assert list(found) == ["a", "b"]
    assert found["b"].layout == torch.strided
    assert not found["a"].requires_grad
