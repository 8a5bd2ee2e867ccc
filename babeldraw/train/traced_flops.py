"""Operations of any function's products of matrices and convolutions, from its trace."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def traced_flops(fn: Callable, *args: Any) -> int:
    """Multiplications and additions of `fn` of abstract arrays; a loop counts all its turns."""
    return _count(jax.make_jaxpr(fn)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _dot(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        else:
            turns = params["length"] if name == "scan" else 1
            total += turns * sum(_count(inner) for inner in inside(params))
    return total


def inside(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs that an equation holds."""
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(out) * math.prod(lhs[dim] for dim in contracted)


def _convolution(equation: Any) -> int:
    """Padding counts like pixels."""
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(out) * math.prod(kernel) // features
