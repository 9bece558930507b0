"""Filters on the index: `subjects >= 2 and residual < 0.3`, `"dog" in subject_words`, `extra.score / frames > 0.5`.

In: an expression in Python's notation of comparisons, and the schema of the index or of the instances. Out: a pyarrow
expression, for any dataset or table with these columns. The text is parsed, never run: columns, constants, + - * /,
comparisons, `in`, `is null`, `is not null`, and, or, not - nothing else. The user's own columns are `extra.NAME` or
`extra["any name"]`, those of a layer (layers.py, which joins them to the table) `LAYER.NAME`. A comparison with a value that is
missing, or that a division by zero has left without a value, is false. Numbers are calculated with as doubles; a time is
compared with a text, ISO 8601.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import operator
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from materia.base.errors import UserError
from materia.dataset.schema import LATER

ALIASES = {"subjects": "n_subjects", "objects": "n_objects", "instances": "n_instances", "faces": "n_faces"}
"""Short names for columns of the index (materia/dataset/schema.py)."""
WHERE = "--where"
"""How an expression is given, where nothing else is said; errors begin with it."""
MAX_PARTS = 1000
"""Of an expression. Arrow takes time that grows with their square, and has no stack for ten thousand."""
_LATER = (*LATER, "extra")
"""Columns that indices of earlier versions do not have."""
_SHOWN_EXTRA = 10

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], pc.Expression]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[pc.Expression, pc.Expression], pc.Expression]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: lambda a, b: pc.divide(a, pc.if_else(b == pc.scalar(0.0), pc.scalar(pa.scalar(None, pa.float64())), b)),
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


def arrow_filter(schema: pa.Schema, expression: str, later: Collection[str] = _LATER) -> pc.Expression:
    """The expression as Arrow takes it, true or false for every row and never null. Raises FilterError.

    `later`: columns that a table with this schema may lack because an earlier version wrote it; an error tells so.
    """
    tree = _parsed(expression)
    try:
        return _Filter(schema, expression, later).condition(tree)
    except RecursionError:
        raise _too_long(expression, WHERE) from None


def column_values(table: pa.Table, expression: str, option: str, kinds: Collection[Kind]) -> pa.ChunkedArray:
    """A column of a table, named as in filters, or what is calculated of some: whole numbers as int64, others as float64.

    `option`: how the expression was given; errors begin with it. Raises FilterError for what is not of these kinds.
    """
    tree = _parsed(expression, option)
    parser = _Filter(table.schema, expression, _LATER, option)
    try:
        operand = parser.operand(tree)
    except RecursionError:
        raise _too_long(expression, option) from None
    kind: Kind = "whole number" if operand.whole else operand.kind
    if operand.field is None or kind not in kinds:
        raise parser.error(tree, f"holds a {kind}, not a {' or '.join(kinds)}")
    value = operand.double if kind == "number" else operand.field
    return pyarrow.dataset.dataset(table).scanner(columns={"value": value}).to_table()["value"]


def columns_named(expression: str, option: str = WHERE) -> set[str]:
    """Columns of the table that an expression names, there or not: `key`, `extra`, `LAYER.NAME`. Raises FilterError."""
    return {name for name, _ in _columns(_parsed(expression, option))}


def layer_columns_named(expression: str, option: str = WHERE) -> dict[str, list[str]]:
    """Layer -> its columns that an expression names, neither necessarily there. Raises FilterError."""
    found: dict[str, list[str]] = {}
    for _, node in _columns(_parsed(expression, option)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id != "extra":
            columns = found.setdefault(node.value.id, [])
            columns += [] if node.attr in columns else [node.attr]
    return found


def _columns(tree: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """(column of the table, node) of all names in an expression."""
    of_others = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=column):
                yield (name if name == "extra" else f"{name}.{column}"), node
            case ast.Name(id=name) if id(node) not in of_others and name != "null":
                yield ALIASES.get(name, name), node


def _parsed(expression: str, option: str = WHERE) -> ast.expr:
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        advice = '; a name that Python does not take is written extra["any name"]' if "extra" in expression else ""
        like = "subjects >= 2 and residual < 0.3"
        raise FilterError(f"{option} {expression!r} is no expression like: {like}{advice}") from None
    except (RecursionError, MemoryError):
        raise _too_long(expression, option) from None
    if sum(isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp | ast.UnaryOp) for node in ast.walk(tree)) > MAX_PARTS:
        raise _too_long(expression, option)
    return tree


def _too_long(expression: str, option: str) -> FilterError:
    return FilterError(f"{option} {expression[:100]!r}... is too long; for many values write: key in ('a', 'b')")


Kind = Literal["number", "whole number", "text", "truth", "time", "list of numbers", "list of texts"]
_KINDS: tuple[tuple[Callable[[pa.DataType], bool], Kind, Kind | None], ...] = (
    (pa.types.is_integer, "number", "list of numbers"),
    (pa.types.is_floating, "number", "list of numbers"),
    (pa.types.is_string, "text", "list of texts"),
    (pa.types.is_boolean, "truth", None),
    (pa.types.is_timestamp, "time", None),
)
"""Arrow's type -> what it holds alone, and in a list."""


class _Operand(NamedTuple):
    """A side of a comparison: what is made of columns as `field`, or a constant `value`.

    `whole`: integers of 64 bits, which are compared as such; all other numbers are compared as doubles.
    """

    kind: Kind
    field: pc.Expression | None
    value: Any = None
    whole: bool = False

    @property
    def arrow(self) -> pc.Expression:
        return pc.scalar(self.value) if self.field is None else self.field

    @property
    def double(self) -> pc.Expression:
        return pc.scalar(float(self.value)) if self.field is None else self.field.cast(pa.float64(), safe=False)


class _Filter:
    def __init__(self, schema: pa.Schema, expression: str, later: Collection[str], option: str = WHERE) -> None:
        self.option = option
        self.schema = schema
        self.expression = expression
        self.later = later
        self.extra = [field.name for field in schema.field("extra").type] if _has_extra(schema) else []

    def condition(self, node: ast.expr) -> pc.Expression:
        """Truth of a condition."""
        match node:
            case ast.BoolOp(op=op, values=values):
                return _balanced(operator.and_ if isinstance(op, ast.And) else operator.or_, [*map(self.condition, values)])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.condition(operand)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                pairs = zip(sides, ops, sides[1:], strict=False)
                return _balanced(operator.and_, [self.compare(a, op, b) for a, op, b in pairs])
            case ast.Name() | ast.Attribute() | ast.Subscript():
                column = self.operand(node)
                if column.kind == "truth":
                    return pc.coalesce(column.arrow, pc.scalar(False))
        raise self.error(node, "is no comparison")

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        """One comparison; values of kinds that cannot be compared are an error."""
        if isinstance(op, ast.Is | ast.IsNot):
            missing = self.missing(left, right)
            return missing if isinstance(op, ast.Is) else ~missing
        a, b = self.operand(left), self.operand(right)
        if (a.kind == "time") != (b.kind == "time"):
            a, b = self.time(a, left), self.time(b, right)
        if isinstance(op, ast.In | ast.NotIn):
            found = self.contained(a, b, left, right)
            here = pc.coalesce(found, pc.scalar(False))
            return here if isinstance(op, ast.In) else ~here & self.there(a) & self.there(b)
        if type(op) not in _COMPARE:
            raise self.error(left, "is compared in a way that is not known here")
        if a.kind != b.kind or a.kind.startswith("list"):
            raise self.error(right, f"cannot be compared with {ast.unparse(left)}: {b.kind} and {a.kind}")
        as_doubles = a.kind == "number" and not (a.whole and b.whole)
        sides = (a.double, b.double) if as_doubles else (a.arrow, b.arrow)
        return pc.coalesce(_COMPARE[type(op)](*sides), pc.scalar(False))

    def missing(self, asked: ast.expr, null: ast.expr) -> pc.Expression:
        """Whether a column of any type, or what is calculated of them, has no value; `null` must be written null or None."""
        if ast.unparse(null) not in ("null", "None"):
            raise self.error(null, "is not what may follow `is`; write: COLUMN is null, or: COLUMN is not null")
        if (column := self.column_of(asked)) is not None:
            return column[0].is_null()
        if (operand := self.operand(asked)).field is None:
            raise self.error(asked, "is no column that could be null")
        return operand.field.is_null()

    def time(self, operand: _Operand, node: ast.expr) -> _Operand:
        """A time: that of a column, or a text that says one; without a zone it is UTC."""
        if operand.kind == "text" and operand.field is None:
            try:
                time = datetime.fromisoformat(operand.value)
            except ValueError:
                raise self.error(
                    node, "is no time as ISO 8601 writes it, e.g. '2026-01-31' or '2026-01-31T12:00:00Z'"
                ) from None
            return _Operand("time", None, time if time.tzinfo else time.replace(tzinfo=UTC))
        return operand

    def contained(self, item: _Operand, container: _Operand, left: ast.expr, right: ast.expr) -> pc.Expression:
        """Whether an item is in a list, or a text in a text; one of the two is made of columns, the other a constant."""
        within_text = container.kind == item.kind == "text" and container.field is not None
        if (not within_text and container.kind != f"list of {item.kind}s") or (item.field is None) == (container.field is None):
            advice = "; a text in quotes is looked for in a column of texts" if container.kind == item.kind == "text" else ""
            raise self.error(right, f"cannot be asked for {ast.unparse(left)}: {container.kind} and {item.kind}{advice}")
        if container.field is None:
            if item.kind != "number" or (item.whole and container.whole):
                return item.arrow.isin(container.value)
            return item.double.isin(pa.array(map(float, container.value), pa.float64()))
        if within_text:
            return pc.match_substring(container.field, item.value)
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
        """A column, a constant, or what is calculated of them."""
        if (column := self.column_of(node)) is not None:
            return self.operand_of(node, *column)
        match node:
            case ast.Name(id="null") | ast.Constant(value=None):
                raise self.error(node, "is not compared; write: COLUMN is null, or: COLUMN is not null")
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return _Operand(self.kind_of(node, pa.infer_type, [value]), None, value, _is_whole(value))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
                return self.signed(sign, self.number(inner))
            case ast.BinOp(left=left, op=op, right=right) if calculate := _ARITHMETIC.get(type(op)):
                return _Operand("number", calculate(self.number(left).double, self.number(right).double))
            case ast.Tuple(elts=elements) | ast.List(elts=elements) if elements:
                return self.constants(node, [self.operand(element) for element in elements])
        raise self.error(node, "is neither a column nor a number, text or list")

    def number(self, node: ast.expr) -> _Operand:
        """An operand to calculate with."""
        operand = self.operand(node)
        if operand.kind != "number":
            raise self.error(node, f"is no number to calculate with, but {operand.kind}")
        return operand

    def signed(self, sign: ast.unaryop, operand: _Operand) -> _Operand:
        """A number as it is, or its negative."""
        if isinstance(sign, ast.UAdd):
            return operand
        if operand.field is None:
            return _Operand("number", None, -operand.value, _is_whole(-operand.value))
        return _Operand("number", pc.negate(operand.double))

    def constants(self, node: ast.expr, parts: list[_Operand]) -> _Operand:
        """A list of them."""
        if any(part.field is not None or part.kind != parts[0].kind for part in parts):
            raise self.error(node, "must be a list of constants of one kind")
        kind: Kind = "list of texts" if parts[0].kind == "text" else "list of numbers"
        return _Operand(kind, None, [part.value for part in parts], all(part.whole for part in parts))

    def column_of(self, node: ast.expr) -> tuple[pc.Expression, pa.DataType] | None:
        """The column that a node names, and its type; None if it is something else. One that there is not is an error."""
        match node:
            case ast.Name(id=name) if name != "null":
                return self.column(node, name, ALIASES.get(name, name))
            case ast.Attribute(value=ast.Name(id="extra"), attr=name):
                return self.extra_column(node, name)
            case ast.Subscript(value=ast.Name(id="extra"), slice=ast.Constant(value=str() as name)):
                return self.extra_column(node, name)
            case ast.Attribute(value=ast.Name(id=layer), attr=name):
                return self.column(node, f"{layer}.{name}", f"{layer}.{name}")
        return None

    def column(self, node: ast.expr, name: str, column: str) -> tuple[pc.Expression, pa.DataType]:
        """A column of the table, as it is named."""
        if column in self.schema.names:
            return pc.field(column), self.schema.field(column).type
        raise self.error(node, self.unknown(name))

    def extra_column(self, node: ast.expr, name: str) -> tuple[pc.Expression, pa.DataType]:
        """One of the user's own columns."""
        if name in self.extra:
            return pc.field("extra", name), self.schema.field("extra").type.field(name).type
        raise self.error(node, self.unknown(_extra_name(name)))

    def operand_of(self, node: ast.expr, field: pc.Expression, kind: pa.DataType) -> _Operand:
        """A column of an Arrow type. Integers become 64 bits wide: Arrow would make a constant as narrow as they are."""
        whole = pa.types.is_integer(kind) and kind != pa.uint64()
        return _Operand(self.kind_of(node, lambda: kind), field.cast(pa.int64()) if whole else field, whole=whole)

    def unknown(self, name: str) -> str:
        """Why there is no such column."""
        mine = [_extra_name(extra) for extra in self.extra]
        short = [alias for alias, column in ALIASES.items() if column in self.schema.names]
        known = [*short, *(column for column in self.schema.names if column != "extra"), *mine]
        if (first := name.partition(".")[0].partition("[")[0]) in self.later and first not in self.schema.names:
            other = " the manifest has no other columns, or" if first == "extra" else ""
            return f"is not in every file of the index:{other} an earlier version wrote some; a new output has all columns"
        if near := difflib.get_close_matches(name, known, n=1) or [extra for extra in mine if extra == _extra_name(name)]:
            return f"is no column; did you mean {near[0]}?"
        hidden = len(mine) - _SHOWN_EXTRA
        return f"is none of {', '.join(known[: len(known) - max(0, hidden)])}" + (f" and {hidden} more" if hidden > 0 else "")

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
        advice = (
            f"; name one of its columns, e.g. {_extra_name(self.extra[0])}" if pa.types.is_struct(kind) and self.extra else ""
        )
        raise self.error(node, f"holds {'columns' if advice else kind}, which is not compared{advice}")

    def error(self, node: ast.expr, why: str) -> FilterError:
        return FilterError(f"{self.option} {self.expression!r}: {ast.unparse(node)} {why}")


def _has_extra(schema: pa.Schema) -> bool:
    return "extra" in schema.names and pa.types.is_struct(schema.field("extra").type)


def _extra_name(name: str) -> str:
    """How one of the user's own columns is written in an expression."""
    plain = name.isidentifier() and name.isascii() and not keyword.iskeyword(name)
    return f"extra.{name}" if plain else f"extra[{name!r}]"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _balanced(combine: Callable[[Any, Any], pc.Expression], parts: list[pc.Expression]) -> pc.Expression:
    """All of them combined, in a tree of little depth."""
    while len(parts) > 1:
        pairs = [parts[at : at + 2] for at in range(0, len(parts), 2)]
        parts = [combine(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]
