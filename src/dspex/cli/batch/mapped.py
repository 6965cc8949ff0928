"""Columns of a file, and the fields of a program that they fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import dspex
from dspex.cli.batch.rows import Form
from dspex.cli.run import value_of


class Fields(NamedTuple):
    """The inputs of a program.

    Attributes:
        types: The type of each, where it is known.
        required: Those that every row has to have.
        takes_any: Whether there may be others.
    """

    types: Mapping[str, str | None]
    required: frozenset[str]
    takes_any: bool = False


class Mapped:
    """Which column fills which field.

    Args:
        fields: The inputs of the program.
        given: Field by column, as ``--map`` says; a column fills the field of its own name otherwise.
        form: Format of the rows: in CSV every value is text.

    Raises:
        InvalidOption: A field that is given is none of the program's, or is given twice.
    """

    def __init__(self, fields: Fields, given: Mapping[str, str], form: Form) -> None:
        self._fields, self._given, self._form = fields, given, form
        for column, field in given.items():
            if field not in fields.types and not fields.takes_any:
                raise dspex.InvalidOption(
                    f"--map {column}={field}: the program has no input {field!r}; it has "
                    f"{_list(fields.types)}",
                    details={"option": "map", "known": list(fields.types)},
                )
        twice = [field for field in given.values() if list(given.values()).count(field) > 1]
        if twice:
            raise dspex.InvalidOption(
                f"--map fills the field {twice[0]!r} twice; one column fills one field",
                details={"option": "map"},
            )
        self._filled = frozenset(given.values())

    def fault(self, columns: Iterable[str]) -> str | None:
        """What is missing in a row of these columns; None when nothing is."""
        here = list(columns)
        if missing := [column for column in self._given if column not in here]:
            return f"no column {_list(missing)}, which --map names; there is {_list(here)}"
        missing = sorted(self._fields.required - self._filled - set(here))
        if missing:
            return (
                f"no column for {_list(missing)}; there is {_list(here)}. Name the one that fills it: "
                f"--map COLUMN={missing[0]}"
            )
        return None

    def inputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs that a row makes."""
        made = {}
        for column, value in values.items():
            field = self._given.get(column)
            if field is None:
                # A field that --map fills is not filled by a column of its name as well.
                if column in self._filled or not (self._fields.takes_any or column in self._fields.types):
                    continue
                field = column
            made[field] = self._value(field, value)
        return made

    def _value(self, field: str, value: Any) -> Any:
        kind = self._fields.types.get(field)
        if self._form == "jsonl" or kind == "str":
            return value
        if value == "" and kind is not None and "None" in kind:
            return None  # an empty cell is how CSV says it
        return value_of(value)


def pairs(written: list[str]) -> dict[str, str]:
    """Field by column, of ``column=field``.

    Raises:
        InvalidOption: One has another form, or a column is named twice.
    """
    found: dict[str, str] = {}
    for text in written:
        # A column may have any name, also one with a "=" in it; a field may not.
        column, equals, field = text.rpartition("=")
        if not (equals and column and field):
            raise dspex.InvalidOption(
                f"--map {text!r} is not COLUMN=FIELD, such as --map Question=question",
                details={"option": "map"},
            )
        if column in found:
            raise dspex.InvalidOption(f"--map names the column {column!r} twice", details={"option": "map"})
        found[column] = field
    return found


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
