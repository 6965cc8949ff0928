"""Rows of ugly files: what is read of them, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

import dspex
from dspex.cli.batch.checked import Checked
from dspex.cli.batch.mapped import Fields, Mapped, pairs
from dspex.cli.batch.rows import Fault, Form, Header, Row, form_of, read

ONE = Fields({"question": "str"}, frozenset({"question"}))


def rows(path: Path, content: bytes, form: Form) -> list[Row | Fault]:
    path.write_bytes(content)
    return [row for row in read(path, form) if not isinstance(row, Header)]


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    """If this failed, a byte order mark, CRLF, empty lines or a line break in a cell would spoil rows."""
    content = b'\xef\xbb\xbfquestion,n\r\n"a\r\nb ""c""",1\r\n\r\nd,2\r\n'
    assert rows(tmp_path / "in", content, "csv") == [
        Row(2, {"question": 'a\r\nb "c"', "n": "1"}),
        Row(5, {"question": "d", "n": "2"}),
    ]


def test_json_lines_with_a_mark_and_empty_lines(tmp_path: Path) -> None:
    """If this failed, files that other tools write could not be read."""
    content = b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": [2]}'
    assert rows(tmp_path / "in", content, "jsonl") == [Row(1, {"a": 1}), Row(4, {"a": [2]})]


def test_a_cell_of_ten_megabytes(tmp_path: Path) -> None:
    """If this failed, the csv module's limit of 128 KiB would refuse long documents."""
    cell = b"x" * 10_000_000
    (row,) = rows(tmp_path / "in", b'a\n"' + cell + b'"\n', "csv")
    assert isinstance(row, Row)
    assert len(row.values["a"]) == len(cell)


@pytest.mark.parametrize(
    ("content", "form", "line", "said"),
    [
        (b"a,b\n1,2\n3\n", "csv", 3, "1 column, and the header has 2 columns"),
        (b"a,b\n1,2,3\n", "csv", 2, "3 columns, and the header has 2 columns"),
        (b"a,a\n1,2\n", "csv", 1, "columns 1 and 2 are both named 'a'"),
        (b"a,\n1,2\n", "csv", 1, "column 2 of the header has no name"),
        (b'a\n1\n"never closed\n', "csv", 3, "not CSV"),
        (b"a\n1\n\xe9\n", "csv", 3, "byte 1 of the line (0xe9) is not UTF-8"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "jsonl", 2, "byte 8 of the line (0xff) is not UTF-8"),
        (b"\xff\xfea\0", "csv", 1, "UTF-16"),
        (b"[1]\n", "jsonl", 1, "a row is an object"),
        (b'{"a": 1}\n{"a"\n', "jsonl", 2, "not JSON"),
        (b'{"a": NaN}\n', "jsonl", 1, "NaN is no number"),
        (b"[" * 100_000, "jsonl", 1, "not JSON"),
    ],
)
def test_what_is_no_row_is_told_with_its_line(
    tmp_path: Path, content: bytes, form: Form, line: int, said: str
) -> None:
    """If this failed, nobody could find the one bad row among half a million."""
    found = rows(tmp_path / "in", content, form)[-1]
    assert isinstance(found, Fault)
    assert found.line == line
    assert said in found.message


def test_all_faults_are_told_at_once_and_counted(tmp_path: Path) -> None:
    """If this failed, a file would have to be mended one run at a time, or would print a page per row."""
    path = tmp_path / "in.jsonl"
    path.write_text("[]\n" * 30)
    with pytest.raises(dspex.InvalidInput, match="and 20 more") as caught:
        Checked(path, "jsonl", None, "in.jsonl").check(Mapped(ONE, {}, "jsonl"))
    assert caught.value.details == {"lines": list(range(1, 11)), "wrong": 30}


def test_a_missing_column_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    """If this failed, a wrong name of a column would cost a run."""
    path = tmp_path / "in.csv"
    path.write_text("Question,id\na,1\n")
    with pytest.raises(dspex.InvalidInput, match=r"no column for 'question'; there is 'Question', 'id'"):
        Checked(path, "csv", None, "in.csv").check(Mapped(ONE, {}, "csv"))
    checked = Checked(path, "csv", None, "in.csv")
    checked.check(Mapped(ONE, {"Question": "question"}, "csv"))
    assert checked.count == 1


def test_an_empty_file(tmp_path: Path) -> None:
    """If this failed, an empty CSV would pass for one without rows, though its header is missing."""
    path = tmp_path / "in"
    path.write_bytes(b"")
    with pytest.raises(dspex.InvalidInput, match="is empty"):
        Checked(path, "csv", None, "in").check(Mapped(ONE, {}, "csv"))
    none = Checked(path, "jsonl", None, "in")
    none.check(Mapped(ONE, {}, "jsonl"))
    assert (none.count, list(none)) == (0, [])


def test_a_header_alone_is_checked_and_kept(tmp_path: Path) -> None:
    """If this failed, a CSV without rows would lose its columns on the way, or hide a missing one."""
    path = tmp_path / "in.csv"
    path.write_text("question,id\n")
    checked = Checked(path, "csv", None, "in.csv")
    checked.check(Mapped(ONE, {}, "csv"))
    assert (checked.count, list(checked.columns), list(checked)) == (0, ["question", "id"], [])
    path.write_text("other\n")
    with pytest.raises(dspex.InvalidInput, match="no column for 'question'"):
        Checked(path, "csv", None, "in.csv").check(Mapped(ONE, {}, "csv"))


def test_a_file_that_changes_between_two_readings(tmp_path: Path) -> None:
    """If this failed, answers would stand beside questions that were never asked."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"question": "a"}\n')
    checked = Checked(path, "jsonl", None, "in.jsonl")
    checked.check(Mapped(ONE, {}, "jsonl"))
    path.write_text('{"question": "a longer one"}\n')
    with pytest.raises(dspex.Conflict, match="was changed"):
        list(checked)


def test_a_limit_leaves_what_comes_after(tmp_path: Path) -> None:
    """If this failed, `--limit` would check or ask more rows than were wanted."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"question": "a"}\n{"question": "b"}\nbroken\n')
    checked = Checked(path, "jsonl", 2, "in.jsonl")
    checked.check(Mapped(ONE, {}, "jsonl"))
    assert [row["question"] for row in checked] == ["a", "b"]


def test_values_of_cells() -> None:
    """If this failed, `7` would reach an int as text, or a postcode `007` would become a number."""
    types = {"code": "str", "n": "int", "tags": "list[str]", "some": "int | None"}
    mapped = Mapped(Fields(types, frozenset(types)), {"N": "n"}, "csv")
    row = {"code": "007", "N": "7", "n": "8", "tags": '["a"]', "some": "", "more": "x"}
    assert mapped.inputs(row) == {"code": "007", "n": 7, "tags": ["a"], "some": None}


def test_maps_that_cannot_be() -> None:
    """If this failed, a misspelt field or column would be found after the money is spent."""
    with pytest.raises(dspex.InvalidOption, match="no input 'questoin'; it has 'question'"):
        Mapped(ONE, {"q": "questoin"}, "csv")
    with pytest.raises(dspex.InvalidOption, match="twice"):
        Mapped(ONE, {"a": "question", "b": "question"}, "csv")
    for wrong in ("question", "=question", "column="):
        with pytest.raises(dspex.InvalidOption, match="COLUMN=FIELD"):
            pairs([wrong])
    assert pairs(["a=b=question"]) == {"a=b": "question"}
    assert "which --map names" in str(Mapped(ONE, {"q": "question"}, "csv").fault(["question"]))


def test_formats() -> None:
    """If this failed, a file of an unknown kind would be read as something that it is not."""
    assert (form_of("a.CSV", None), form_of("a.ndjson", None), form_of("-", "csv")) == ("csv", "jsonl", "csv")
    for name, given in (("a.xlsx", None), ("-", None), ("a.csv", "parquet")):
        with pytest.raises(dspex.InvalidOption):
            form_of(name, given)
