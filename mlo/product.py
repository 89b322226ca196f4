"""The products that users name."""

from collections.abc import Mapping
from typing import Literal

from mlo.difference import FiniteDifference
from mlo.double_backward import Autograd
from mlo.errors import ResponseError, nearest
from mlo.second_derivatives import Product

ProductName = Literal["autograd", "finite_difference"]
_BY_NAME: Mapping[str, Product] = {
    "autograd": Autograd(),
    "finite_difference": FiniteDifference(),
}


def product_of(choice: ProductName | Product) -> Product:
    """Return the product that a user named, or the one that was given.

    >>> product_of("autograd").label
    'autograd'

    Raises:
        ResponseError: If the name is not known.
    """
    if isinstance(choice, Product):
        return choice
    if not isinstance(choice, str) or choice not in _BY_NAME:
        hint = nearest(choice, _BY_NAME) if isinstance(choice, str) else ""
        raise ResponseError(f"product must be one of {sorted(_BY_NAME)}, got {choice!r}{hint}")
    return _BY_NAME[choice]
