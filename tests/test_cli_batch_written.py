"""The output of a batch: each row once, in its order, with what became of it."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import dspex
from dspex.cli.batch.bar import Tally
from dspex.cli.batch.drain import Drain
from dspex.cli.batch.rows import Form
from dspex.cli.batch.written import Spool, check_output, replacing, write
from tests.shell import dspex as command

ROWS = [{"q": "a", "answer": "gold"}, {"q": "é\nb", "answer": ""}, {"q": "c", "answer": "x"}]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """Three rows that ended in another order: answered, failed, never asked."""
    with closing(Spool(tmp_path)) as made:
        made.put(1, {"error": {"code": "python_timeout", "message": "too, late"}})
        made.put(0, {"outputs": {"answer": "Paris", "tags": ["x", 1]}})
        yield made


def written(spool: Spool, form: Form) -> str:
    file = io.StringIO()
    write(file, form, ROWS, ["q", "answer"], spool)
    return file.getvalue()


def test_json_lines_keep_order_and_columns(spool: Spool) -> None:
    """If this failed, answers would stand beside other rows, or replace a column of the user's."""
    assert [json.loads(line) for line in written(spool, "jsonl").splitlines()] == [
        {**ROWS[0], "answer_output": "Paris", "tags": ["x", 1]},
        {**ROWS[1], "error": {"code": "python_timeout", "message": "too, late"}},
        {**ROWS[2], "error": {"code": "cancelled", "message": "the batch ended before this row"}},
    ]


def test_csv_has_nested_values_as_json(spool: Spool) -> None:
    """If this failed, a list in CSV could not be read back, or a failed row would have no cause."""
    cells = list(csv.reader(io.StringIO(written(spool, "csv"), newline="")))
    assert cells == [
        ["q", "answer", "answer_output", "tags", "error"],
        ["a", "gold", "Paris", '["x", 1]', ""],
        ["é\nb", "", "", "", "python_timeout: too, late"],
        ["c", "x", "", "", "cancelled: the batch ended before this row"],
    ]


def test_a_row_that_ends_twice_is_written_once(tmp_path: Path) -> None:
    """If this failed, a row that was asked again would keep its old failure, or stand twice."""
    with closing(Spool(tmp_path)) as spool:
        spool.put(5, {"error": {"code": "x", "message": ""}})
        spool.put(5, {"outputs": {"a": "new"}})
        assert spool[5] == {"outputs": {"a": "new"}}
        assert spool[4] is None
        assert spool[6] is None
    assert list(tmp_path.iterdir()) == []


def test_the_output_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    """If this failed, a crash while writing would leave half a file where a whole one was."""
    path = tmp_path / "out.csv"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines(["half", None])  # type: ignore[list-item]
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write("new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)
    assert list(tmp_path.iterdir()) == [path]


def test_outputs_that_would_destroy_something(tmp_path: Path) -> None:
    """If this failed, a slip on the command line would cost a file."""
    source, out, journal = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "out.csv.journal"
    source.write_text("q\n")
    same = tmp_path / "link.csv"
    same.symlink_to(source)
    for name in (source, same):
        with pytest.raises(dspex.InvalidOption, match="is the input as well"):
            check_output(str(name), str(source), journal, overwrite=True)
    with pytest.raises(dspex.InvalidOption, match="the journal"):
        check_output(str(out), str(source), source, overwrite=False)
    with pytest.raises(dspex.InvalidOption, match="no directory"):
        check_output(str(tmp_path / "no" / "out.csv"), str(source), None, overwrite=False)
    with pytest.raises(dspex.InvalidOption, match="is a directory"):
        check_output(str(tmp_path), str(source), None, overwrite=False)
    out.write_text("precious")
    with pytest.raises(dspex.InvalidOption, match="--overwrite"):
        check_output(str(out), str(source), journal, overwrite=False)
    assert check_output(str(out), str(source), journal, overwrite=True) == out
    journal.write_text("")
    assert check_output(str(out), str(source), journal, overwrite=False) == out


def test_a_dry_run_checks_and_estimates(tmp_path: Path) -> None:
    """If this failed, nobody would know before the bill what a batch costs, or a check would cost."""
    path = tmp_path / "in.csv"
    path.write_text("question\n" + "x" * 4000 + "\n" + "y" * 4000 + "\n")
    asked = ("batch", str(path), str(tmp_path / "out.csv"), "Predict", "question -> answer", "--dry-run")
    ran = command(*asked, "--lm", "openai/gpt-4o-mini", "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["rows"], told["input_tokens"]) == (2, 2000)
    assert told["input_price"] > 0
    assert told["unknown"]
    ran = command(*asked, "--lm", "openai/nobody-knows-me")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "2 rows, about 2000 tokens of inputs, price unknown" in ran.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_ctrl_c_drains_and_the_second_stops() -> None:
    """If this failed, Ctrl-C would throw away answers that are paid for, or could not stop at all."""
    before = signal.getsignal(signal.SIGINT)
    came: list[dict[str, int]] = []
    with Drain(Tally(9, quiet=True)) as drain:
        for item in drain.until({"n": number} for number in range(9)):
            came.append(item)
            if len(came) == 2:
                signal.raise_signal(signal.SIGINT)
        assert drain.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert came == [{"n": 0}, {"n": 1}]
    assert signal.getsignal(signal.SIGINT) is before


def test_wrong_usage_ends_with_two(tmp_path: Path) -> None:
    """If this failed, a script could not tell a wrong command line from a failed row."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"q": "a"}\n')
    ran = command("batch", str(path), str(tmp_path / "out.jsonl"), "Predict", "question -> answer")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "line 1: no column for 'question'; there is 'q'" in ran.stderr
    assert list(tmp_path.iterdir()) == [path]
