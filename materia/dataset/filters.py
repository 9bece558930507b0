"""Filters on the index: `subjects >= 2 and residual < 0.3`, `"dog" in subject_words`, `not ("still" in flags)`.

In: an expression in Python's notation of comparisons, and the index as a table. Out: which rows it admits. The expression is
parsed, never run: columns, constants, comparisons, `in`, and, or, not - nothing else. A value that is missing admits nothing.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from materia.base.errors import UserError

ALIASES = {"subjects": "n_subjects", "objects": "n_objects", "instances": "n_instances", "faces": "n_faces"}
"""Short names for columns of the index (materia/dataset/schema)."""

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}


class FilterError(UserError):
    """An expression that cannot be understood; the message names the expression, the part and what is known."""


def admitted(index: pa.Table, expression: str) -> np.ndarray:
    """Rows of the index that the expression admits, (N,) bool. Raises FilterError."""
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FilterError(f"--where {expression!r} is no expression like: subjects >= 2 and residual < 0.3") from None
    return _Filter(index, expression).rows(tree)


class _Filter:
    def __init__(self, index: pa.Table, expression: str) -> None:
        self.index = index
        self.expression = expression

    def rows(self, node: ast.expr) -> np.ndarray:
        """Truth of a condition for each row."""
        match node:
            case ast.BoolOp(op=op, values=values):
                combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                combined: np.ndarray = combine.reduce([self.rows(value) for value in values])
                return combined
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.rows(operand)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                pairs = zip(sides, ops, sides[1:], strict=False)
                together: np.ndarray = np.logical_and.reduce([self.compare(a, op, b) for a, op, b in pairs])
                return together
        raise self.error(node, "is no comparison")

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> np.ndarray:
        """One comparison for each row; values of kinds that cannot be compared are an error."""
        if type(op) not in _COMPARE:
            raise self.error(left, "is compared in a way that is not known here")
        test = _COMPARE[type(op)]
        pairs = zip(self.values(left), self.values(right), strict=True)
        try:
            return np.array([a is not None and b is not None and test(a, b) for a, b in pairs], bool)
        except TypeError:
            raise self.error(right, f"cannot be compared with {ast.unparse(left)}") from None

    def values(self, node: ast.expr) -> list[Any]:
        """A column, or a constant, for each row."""
        match node:
            case ast.Name(id=name):
                column = ALIASES.get(name, name)
                if column not in self.index.column_names:
                    known = [*ALIASES, *self.index.column_names]
                    near = difflib.get_close_matches(name, known, n=1)
                    raise self.error(
                        node, f"is no column; did you mean {near[0]}?" if near else f"is none of {', '.join(known)}"
                    )
                return list(self.index[column].to_pylist())
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return [value] * len(self.index)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return [-value] * len(self.index)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                rows = zip(*(self.values(element) for element in elements), strict=True)
                return [list(row) for row in rows] if elements else [[]] * len(self.index)
        raise self.error(node, "is neither a column nor a number, text or list")

    def error(self, node: ast.expr, why: str) -> FilterError:
        return FilterError(f"--where {self.expression!r}: {ast.unparse(node)} {why}")
