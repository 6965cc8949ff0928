"""The journal of a batch, cut or damaged anywhere."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dspex
from dspex.batch.journal import Journal, Record, read

_PROGRAM, _SAYS = "ab12", {"module": "dspy.Predict", "signature": "frage -> antwört"}
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
_RECORDS = st.lists(
    st.builds(
        lambda index, text: Record(index, f"{index:x}", {"outputs": {"answer": text}}),
        st.integers(0, 12),
        _TEXTS,
    ),
    max_size=8,
)


def opened(path: Path) -> Journal:
    return Journal(path, _PROGRAM, _SAYS)


def written(path: Path, records: list[Record]) -> bytes:
    journal = opened(path)
    for record in records:
        journal.append([record])
    journal.close()
    return path.read_bytes()


def newest(records: list[Record]) -> dict[int, Record]:
    return {record.index: record for record in records}


def check_goes_on(path: Path, kept: list[Record]) -> None:
    """It has exactly these records, and takes one more."""
    journal = opened(path)
    try:
        assert journal.recorded == len(newest(kept))
        for index in range(14):
            assert journal.find(index) == newest(kept).get(index)
        more = Record(13, "d", error={"code": "error"})
        journal.append([more])
        assert journal.find(13) == more
        assert list(read(path)) == [*kept, more]
    finally:
        journal.close()


@settings(max_examples=60, deadline=None)
@given(records=_RECORDS, data=st.data())
def test_cut_anywhere_it_keeps_all_that_is_whole(records: list[Record], data: st.DataObject) -> None:
    """If this failed, a process that is killed while it writes would cost more than that one record."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        whole = written(path, records)
        end = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:end])
        check_goes_on(path, records[: max(0, whole[:end].count(b"\n") - 1)])


@settings(max_examples=60, deadline=None)
@given(records=_RECORDS, data=st.data())
def test_a_flipped_bit_is_never_believed(records: list[Record], data: st.DataObject) -> None:
    """If this failed, a bad sector would be an answer."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        whole = bytearray(written(path, records))
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole)
        last = whole.rfind(b"\n", 0, len(whole) - 1) + 1  # where its last line begins
        try:
            journal = opened(path)
        except dspex.InvalidOption as error:
            assert "damaged in line" in error.message or "is no journal" in error.message  # noqa: PT017
            assert path.read_bytes() == whole
            return
        journal.close()
        # Only in the last line is it taken for one that was not written to its end.
        assert at >= last
        check_goes_on(path, records[: max(0, whole[:last].count(b"\n") - 1)])


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """If this failed, a wrong path would cost somebody his file."""
    for text in ("something else\n", "no line end", "\n", '00000000 {"dspex_journal":1}\n'):
        path = tmp_path / "file"
        path.write_text(text)
        with pytest.raises(dspex.InvalidOption):
            opened(path)
        assert path.read_text() == text
