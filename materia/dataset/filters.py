"""Filters on the index: `subjects >= 2 and residual < 0.3`, `"dog" in subject_words`, `not ("still" in flags)`.

In: an expression in Python's notation of comparisons, and the index's schema. Out: a pyarrow expression, for any dataset or
table with these columns. The text is parsed, never run: columns, constants, comparisons, `in`, and, or, not - nothing else. A
comparison with a value that is missing is false.
"""

from __future__ import annotations

import ast
import difflib
import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from materia.base.errors import UserError

ALIASES = {"subjects": "n_subjects", "objects": "n_objects", "instances": "n_instances", "faces": "n_faces"}
"""Short names for columns of the index (materia/dataset/schema.py)."""

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], pc.Expression]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_SEPARATOR = "\x1f"
"""Between the items of a list where one is looked for in it: Arrow has no function for that."""


class FilterError(UserError):
    """An expression that cannot be understood; the message names the expression, the part and what is known."""


def admitted(index: pa.Table, expression: str) -> np.ndarray:
    """Rows of the index that the expression admits, (N,) bool. Raises FilterError."""
    condition = arrow_filter(index.schema, expression)
    column = pyarrow.dataset.dataset(index).scanner(columns={"admitted": condition}).to_table()["admitted"]
    rows: np.ndarray = column.to_numpy(zero_copy_only=False).astype(bool)
    return rows


def arrow_filter(schema: pa.Schema, expression: str) -> pc.Expression:
    """The expression as Arrow takes it, true or false for every row and never null. Raises FilterError."""
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FilterError(f"--where {expression!r} is no expression like: subjects >= 2 and residual < 0.3") from None
    return _Filter(schema, expression).condition(tree)


Kind = Literal["number", "text", "truth", "list of numbers", "list of texts"]
_KINDS: tuple[tuple[Callable[[pa.DataType], bool], Kind, Kind | None], ...] = (
    (pa.types.is_integer, "number", "list of numbers"),
    (pa.types.is_floating, "number", "list of numbers"),
    (pa.types.is_string, "text", "list of texts"),
    (pa.types.is_boolean, "truth", None),
)
"""Arrow's type -> what it holds alone, and in a list."""


class _Operand(NamedTuple):
    """A side of a comparison: a column as `field`, or a constant `value`."""

    kind: Kind
    field: pc.Expression | None
    value: Any = None

    @property
    def arrow(self) -> pc.Expression:
        return self.field if self.field is not None else pc.scalar(self.value)


class _Filter:
    def __init__(self, schema: pa.Schema, expression: str) -> None:
        self.schema = schema
        self.expression = expression

    def condition(self, node: ast.expr) -> pc.Expression:
        """Truth of a condition."""
        match node:
            case ast.BoolOp(op=op, values=values):
                combine = operator.and_ if isinstance(op, ast.And) else operator.or_
                return functools.reduce(combine, [self.condition(value) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.condition(operand)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                pairs = zip(sides, ops, sides[1:], strict=False)
                return functools.reduce(operator.and_, [self.compare(a, op, b) for a, op, b in pairs])
        raise self.error(node, "is no comparison")

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        """One comparison; values of kinds that cannot be compared are an error."""
        a, b = self.operand(left), self.operand(right)
        if isinstance(op, ast.In | ast.NotIn):
            found = self.contained(a, b, left, right)
            here = pc.coalesce(found, pc.scalar(False))
            return here if isinstance(op, ast.In) else ~here & self.there(a) & self.there(b)
        if type(op) not in _COMPARE:
            raise self.error(left, "is compared in a way that is not known here")
        if a.kind != b.kind or a.kind.startswith("list"):
            raise self.error(right, f"cannot be compared with {ast.unparse(left)}: {b.kind} and {a.kind}")
        return pc.coalesce(_COMPARE[type(op)](a.arrow, b.arrow), pc.scalar(False))

    def contained(self, item: _Operand, container: _Operand, left: ast.expr, right: ast.expr) -> pc.Expression:
        """Whether an item is in a list; one of the two is a column, the other a constant."""
        if container.kind != f"list of {item.kind}s" or (item.field is None) == (container.field is None):
            raise self.error(right, f"cannot be asked for {ast.unparse(left)}: {container.kind} and {item.kind}")
        if container.field is None:
            return item.arrow.isin(container.value)
        text = str(item.value)
        if not text or _SEPARATOR in text:
            return pc.scalar(False)
        texts = container.field.cast(pa.list_(pa.string()))
        edge = pc.scalar(_SEPARATOR)
        joined = pc.binary_join_element_wise(edge, pc.binary_join(texts, _SEPARATOR), edge, pc.scalar(""))
        return pc.match_substring(joined, f"{_SEPARATOR}{text}{_SEPARATOR}")

    def there(self, operand: _Operand) -> pc.Expression:
        """Whether a value is not missing."""
        return pc.scalar(True) if operand.field is None else operand.field.is_valid()

    def operand(self, node: ast.expr) -> _Operand:
        """A column, or a constant."""
        match node:
            case ast.Name(id=name):
                return self.column(node, name)
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return _Operand(self.kind_of(node, pa.infer_type, [value]), None, value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return _Operand("number", None, -value)
            case ast.Tuple(elts=elements) | ast.List(elts=elements) if elements:
                parts = [self.operand(element) for element in elements]
                if any(part.field is not None or part.kind != parts[0].kind for part in parts):
                    raise self.error(node, "must be a list of constants of one kind")
                kind: Kind = "list of texts" if parts[0].kind == "text" else "list of numbers"
                return _Operand(kind, None, [part.value for part in parts])
        raise self.error(node, "is neither a column nor a number, text or list")

    def column(self, node: ast.expr, name: str) -> _Operand:
        """A column by its name or alias."""
        column = ALIASES.get(name, name)
        if column not in self.schema.names:
            known = [*ALIASES, *self.schema.names]
            near = difflib.get_close_matches(name, known, n=1)
            raise self.error(node, f"is no column; did you mean {near[0]}?" if near else f"is none of {', '.join(known)}")
        return _Operand(self.kind_of(node, lambda: self.schema.field(column).type), pc.field(column))

    def kind_of(self, node: ast.expr, infer: Callable[..., pa.DataType], *of: Any) -> Kind:
        """What a column or constant holds."""
        try:
            kind = infer(*of)
        except (OverflowError, pa.ArrowException, UnicodeEncodeError):
            raise self.error(node, "is too large, or no text") from None
        is_list = pa.types.is_list(kind)
        for is_one, alone, listed in _KINDS:
            if is_one(kind.value_type if is_list else kind) and (name := listed if is_list else alone):
                return name
        raise self.error(node, f"holds {kind}, which is not compared")

    def error(self, node: ast.expr, why: str) -> FilterError:
        return FilterError(f"--where {self.expression!r}: {ast.unparse(node)} {why}")
