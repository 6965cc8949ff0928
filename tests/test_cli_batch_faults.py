"""``dspex batch`` with files, disks and people as they are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.namespaces import need
from tests.processes import alive, descendants, until
from tests.provider import Provider, echo, fields, hanging
from tests.shell import SCRIPT, environment
from tests.shell import dspex as command
from tests.terminals import Terminal

# A disk of its own that is soon full, and then is given room.
_OWN_DISKS = ["unshare", "--user", "--map-root-user", "--mount"]
_SMALL_DISK = """
mount -t tmpfs -o size=64k small "$DISK" || exit 77
"$@"; echo "code $?"; ls "$DISK"
mount -o remount,size=64m "$DISK"
"$@"; echo "code $?"; cat "$DISK/out.jsonl"
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


def batch(provider: Provider, source: Path, out: Path, *options: str) -> tuple[str, ...]:
    lm = ("--lm", "openai/x", "--base-url", provider.base_url)
    return ("batch", str(source), str(out), "Predict", "question -> answer", *lm, *options)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"question\ncaf\xe9\n", "line 2: byte 4 of the line (0xe9) is not UTF-8"),
        (b"Frage\nWarum?\n", "--map COLUMN=question"),
        (b"question\n\xef\xbb\xbfone,two\n", "line 2: 2 columns, and the header has 1"),
    ],
)
def test_a_file_that_cannot_be_used_costs_nothing(
    provider: Provider, tmp_path: Path, content: bytes, says: str
) -> None:
    """If this failed, money would be spent on the rows before the one that cannot be read."""
    asked = len(provider.requests)
    source = tmp_path / "in.csv"
    source.write_bytes(content)
    ran = command(*batch(provider, source, tmp_path / "out.csv"))
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    assert says in ran.stderr
    assert len(provider.requests) == asked
    assert list(tmp_path.iterdir()) == [source]


def test_an_output_that_is_there_is_kept(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a slip would cost a file, or be found when all rows are paid for."""
    asked = len(provider.requests)
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "Why?"}\n')
    out.write_text("precious")
    ran = command(*batch(provider, source, out))
    assert (ran.returncode, out.read_text()) == (2, "precious")
    assert "--overwrite" in ran.stderr
    ran = command(*batch(provider, source, out / "deeper.jsonl"))
    assert ran.returncode == 2, ran.stderr
    assert len(provider.requests) == asked


def test_a_cell_of_ten_megabytes_comes_back(provider: Provider, tmp_path: Path) -> None:
    """If this failed, a long document would end the batch, or lose its end on the way."""
    provider.reply = lambda _: fields(answer="read")
    cell = 'line, one\nline "two"\n' * 500_000
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"question": cell}) + "\n" + json.dumps({"question": "short"}) + "\n")
    ran = command(*batch(provider, source, out))
    assert ran.returncode == 0, ran.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [{"question": cell, "answer": "read"}, {"question": "short", "answer": "read"}]


def test_a_full_disk_says_to_make_room_and_costs_nothing_twice(provider: Provider, tmp_path: Path) -> None:
    """If this failed, what was answered before the disk was full would be lost, or asked again."""
    need(_OWN_DISKS)
    provider.reply = lambda _: fields(answer="x" * 3000)
    asked = len(provider.requests)
    disk = tmp_path / "disk"
    disk.mkdir()
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"question": "row {number}"}}\n' for number in range(40)))
    ran = subprocess.run(
        [*_OWN_DISKS, "sh", "-c", _SMALL_DISK, "sh", *SCRIPT, *batch(provider, source, disk / "out.jsonl")],
        env=environment(DISK=str(disk)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if ran.returncode == 77:
        pytest.skip("this system mounts no tmpfs")
    first, second = ran.stdout.split("out.jsonl.journal\n", 1)
    assert first == "code 1\n", ran.stderr  # and no output, neither half nor whole
    assert "No space left on device" in ran.stderr
    assert "run the same command again" in ran.stderr
    assert "Traceback" not in ran.stderr
    code, *rows = second.splitlines()
    assert code == "code 0", ran.stderr
    assert [json.loads(row)["question"] for row in rows] == [f"row {number}" for number in range(40)]
    recorded = ran.stderr.partition(" rows are left")[0].rpartition(" of 40")[0].split()[-1]
    assert len(provider.requests) - asked <= 40 + int(recorded)


def test_ctrl_c_twice_at_a_terminal(provider: Provider, tmp_path: Path) -> None:
    """If this failed, who cannot wait would get a traceback, or leave requests that go on being paid for."""
    provider.reply = lambda request: hanging() if "row 9" in request.prompt.user else echo()
    source = tmp_path / "in.csv"
    source.write_text("question\n" + "".join(f"row {number}\n" for number in range(40)))
    with Terminal(*batch(provider, source, tmp_path / "out.csv", "--concurrency", "1")) as terminal:
        terminal.shows("9 ok")
        family = descendants(terminal.process.pid)
        terminal.type("\x03")
        at = terminal.shows("Ctrl-C once more stops at once")
        terminal.type("\x03")
        at = terminal.shows("31 of 40 rows are left; run the same command again", since=at)
        assert terminal.ends() == 130
        assert terminal.seen.endswith("cancelled stopped by SIGINT\r\n")
    until(lambda: not any(alive(pid) for pid in family))
    until(lambda: provider.in_flight == 0)
