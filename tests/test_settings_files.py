"""The settings file: which one is read, and which one is not trusted."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspex.settings import Settings
from tests.settings_files import folder, refused, write

__all__ = ["folder"]  # a fixture, which each test of this file has

STRANGER = 12345


# Which file


def test_the_file_of_the_working_directory_is_read() -> None:
    """A program beside its settings file would run with the defaults."""
    file = write("max_payload = 2048\n")
    settings = Settings()
    assert (settings.max_payload, settings.file) == (2048, file)


def test_the_nearest_directory_above_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program started in a subdirectory would lose its settings, or get those of another project."""
    write("max_payload = 2048\n")
    write("", "one/dspex.toml")
    (folder / "one" / "two").mkdir()
    (folder / "three" / "four").mkdir(parents=True)
    monkeypatch.chdir(folder / "one" / "two")
    assert Settings().file == folder / "one" / "dspex.toml"
    assert Settings().max_payload != 2048, "an empty file ends the search as any other"
    monkeypatch.chdir(folder / "three" / "four")
    assert Settings().max_payload == 2048


def test_the_search_ends_at_the_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whatever lies around a checkout would hold in it."""
    write("max_payload = 2048\n")
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner")
    (folder / "inner" / ".git").write_text("gitdir: elsewhere")
    assert Settings().file is None


def test_a_file_of_our_own_comes_before_pyproject() -> None:
    """Of two files in one directory it would be chance which one holds."""
    write("[tool.dspex]\nmax_payload = 4096\n", "pyproject.toml")
    assert Settings().max_payload == 4096
    write("max_payload = 2048\n")
    assert Settings().max_payload == 2048


def test_a_pyproject_without_our_table_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a repository would not hold in a package of it that has a pyproject.toml."""
    file = write("max_payload = 2048\n")
    write("[tool.black]\n", "package/pyproject.toml")
    monkeypatch.chdir(folder / "package")
    assert Settings().file == file


def test_a_file_can_be_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment could not say where its settings are, or a test could not do without any."""
    write("max_payload = 2048\n")
    named = write("max_payload = 4096\n", "etc/named.toml")
    monkeypatch.setenv("DSPEX_SETTINGS", str(named))
    assert Settings().max_payload == 4096
    assert Settings().ignored == ()
    other = write("max_payload = 8192\n", "other.toml")
    for file in (other, str(other), "other.toml"):
        assert Settings(file=file).file == other
    assert Settings(file=False).file is None
    monkeypatch.setenv("DSPEX_SETTINGS", "")
    assert Settings().max_payload == 2048


def test_a_named_pyproject_needs_our_table() -> None:
    """A wrong path would be taken for settings that say nothing."""
    file = write("[tool.black]\n", "pyproject.toml")
    assert refused(file=file).message == "pyproject.toml: this file has no table [tool.dspex]"


@pytest.mark.parametrize("file", [True, 5, "", b"dspex.toml", ["dspex.toml"]])
def test_a_file_is_a_path(file: Any) -> None:
    """A slip would end in an error of the system, about file number 1 perhaps."""
    assert refused(file=file).message.startswith("Settings.file has to be the path of a file, False or None")


def test_a_named_file_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment with a slip in a path would run with the defaults."""
    error = refused(file="gone.toml")
    assert error.message == "gone.toml: the settings file cannot be read: No such file or directory"
    assert error.details == {"option": "file", "file": str(folder / "gone.toml")}
    monkeypatch.setenv("DSPEX_SETTINGS", "/nowhere/dspex.toml")
    assert refused().message.startswith("/nowhere/dspex.toml: the settings file cannot be read")


@pytest.mark.parametrize("named", [True, False])
def test_a_directory_is_no_file(named: bool) -> None:
    """A mount of a file that is not there, which makes a directory, would go unnoticed."""
    Path("dspex.toml").mkdir()
    assert "dspex.toml: this is a directory" in refused(**({"file": "dspex.toml"} if named else {})).message


def test_a_pipe_is_no_file() -> None:
    """Reading settings would wait for ever for somebody who writes."""
    os.mkfifo("dspex.toml")
    assert "no ordinary file" in refused().message


def test_a_link_that_leads_nowhere_is_an_error() -> None:
    """A mount that failed would go unnoticed."""
    Path("dspex.toml").symlink_to("gone")
    assert "cannot be read: No such file" in refused().message


def test_a_deleted_working_directory_has_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon whose directory was removed could not make a runtime."""
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert Settings().file is None


@pytest.fixture
def common() -> Iterator[Path]:
    """A directory that other users reach, as pytest's own are not."""
    found = Path(tempfile.mkdtemp())
    found.chmod(0o755)
    yield found
    shutil.rmtree(found)


@pytest.mark.parametrize("named", [True, False])
def test_a_file_that_may_not_be_read(common: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """A service that may not read its settings would run with the defaults."""
    monkeypatch.chdir(common)
    file = write("max_payload = 2048\n")
    file.chmod(0)
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(STRANGER)
        error = refused(**({"file": file} if named else {}))
    finally:
        os.seteuid(before)
    assert error.message == "dspex.toml: the settings file cannot be read: Permission denied"


def test_a_project_that_does_not_speak_of_us_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """On a mount where everybody may write to everything, each program would begin with a warning."""
    file = write("[tool.black]\n", "pyproject.toml")
    file.chmod(0o666)
    assert Settings().ignored == ()
    assert caplog.records == []


# Trust


def give_away(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file another user's, as far as this process can tell."""
    if os.geteuid() == 0:
        os.chown(file, STRANGER, STRANGER, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)


@pytest.mark.parametrize("name", ["dspex.toml", "pyproject.toml"])
@pytest.mark.parametrize("text", ['python = "/tmp/evil"\n', "not TOML at all"])
def test_what_another_user_put_into_a_common_directory_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, text: str
) -> None:
    """Any user of the machine could run his program, or stop ours, by a file in /tmp."""
    prefix = "[tool.dspex]\n" if name == "pyproject.toml" else ""
    file = write(prefix + text, f"common/{name}")
    file.parent.chmod(0o1777)
    give_away(file, monkeypatch)
    (folder / "common" / "mine").mkdir()
    monkeypatch.chdir(folder / "common" / "mine")
    settings = Settings()
    assert (settings.file, settings.python) == (None, None)
    assert settings.ignored == (str(file),)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{file} is not used: it belongs to another user" in caplog.text
    Settings()
    assert len(caplog.records) == 1, "it is said once"


def test_what_another_user_put_there_is_in_nobodys_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory or a pipe in /tmp by that name would stop every program below it."""
    above = write("max_payload = 2048\n")
    (folder / "common").mkdir()
    (folder / "common").chmod(0o1777)
    monkeypatch.chdir(folder / "common")
    for make in (os.mkdir, os.mkfifo, lambda name: Path(name).symlink_to("/gone/for/good")):
        make("dspex.toml")
        give_away(folder / "common" / "dspex.toml", monkeypatch)
        if os.geteuid() == 0:
            assert Settings().file == above
        assert str(folder / "common" / "dspex.toml") in Settings().ignored
        shutil.move("dspex.toml", folder / f"used-{os.urandom(4).hex()}")


def test_a_link_of_another_user_is_not_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger could choose which of our files we take our settings from."""
    mine = write("max_payload = 2048\n", "elsewhere/mine.toml")
    (folder / "common").mkdir()
    (folder / "common").chmod(0o1777)
    monkeypatch.chdir(folder / "common")
    Path("dspex.toml").symlink_to(mine)
    give_away(folder / "common" / "dspex.toml", monkeypatch)
    assert Settings().file is None


def test_a_file_that_everybody_may_write_to_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """Any user of the machine could name the interpreter of our workers."""
    file = write("max_payload = 2048\n")
    file.chmod(stat.S_IMODE(file.stat().st_mode) | stat.S_IWOTH)
    assert Settings().file is None
    assert "everybody on this machine may write to it" in caplog.text
    assert Settings(file=file).max_payload == 2048, "a file that is named is read"


def test_a_file_of_another_user_is_not_used_in_a_directory_of_his_own_either(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who goes into a stranger's directory, as root perhaps, would run the program that he named there."""
    file = write('python = "/home/stranger/evil.sh"\n')
    give_away(file, monkeypatch)
    file.parent.chmod(0o755)
    assert (Settings().python, Settings().ignored) == (None, (str(file),))
    assert f"{file} is not used: it belongs to another user; name it with DSPEX_SETTINGS" in caplog.text
    assert Settings(file=file).python == "/home/stranger/evil.sh", "a file that is named is read"
