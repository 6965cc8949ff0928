"""What is wrong in a settings file is refused with the place where it stands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st

from dspex.errors import InvalidOption
from dspex.settings import Settings
from dspex.settings.places import lines
from tests.settings_files import folder, refused, write

__all__ = ["folder"]  # a fixture, which each test of this file has

WRONG: dict[str, tuple[str | bytes, int | None, str]] = {
    "a slip": ("max_paylod = 1", 1, "there is no option 'max_paylod'; did you mean 'max_payload'?"),
    "a case": ("Max_Payload = 1", 1, "did you mean 'max_payload'?"),
    "nothing like it": ("# hm\n\nfrobnicate = 1", 3, "there is no option 'frobnicate'; known: default_lm, "),
    "an unknown table": ("[recipe.x]\na = 1", 1, "there is no option 'recipe'; known: "),
    "a slip in a table": (
        "[pool.a]\nslots = 1\nwokers = 2",
        3,
        "[pool.a] has no option 'wokers'; did you mean",
    ),
    "a slip in a profile": (
        "[lm.a]\nmodel='x/y'\ntemprature = 1",
        3,
        "[lm.a] has no option 'temprature'; did",
    ),
    "a slip in a quoted name": (
        '[pool."a b"]\n"wor ker" = 2',
        2,
        "[pool.\"a b\"] has no option 'wor ker'; did",
    ),
    "a slip in a dotted key": ("pool.a.slot = 1", 1, "[pool.a] has no option 'slot'; did you mean 'slots'?"),
    "in an inline table": (
        "[lm]\na = {model='x/y', retry={attemts=1}}",
        2,
        "[lm.a.retry] has no option 'attemts'",
    ),
    "in an array in it": (
        "[pool]\na = {preload=[\n'x',\n 5], slots=1}",
        2,
        "pool.a.preload has to be a list of",
    ),
    "a text for a number": ("max_payload = '1 MB'", 1, "max_payload has to be a whole number, not '1 MB'"),
    "a float for a number": ("max_payload = 4096.0", 1, "max_payload has to be a whole number, not 4096.0"),
    "a truth for a number": ("max_payload = true", 1, "max_payload has to be a whole number, not True"),
    "too small": ("# a\nmax_payload = 5", 2, "max_payload has to be a whole number of at least 1024, not 5"),
    "too small in a pool": (
        "[pool.a]\n\nslots = 0",
        3,
        "pool.a.slots has to be a whole number of at least 1, not 0",
    ),
    "no number": ("[pool.a]\ngrace = nan", 2, "pool.a.grace has to be a number of seconds, not nan"),
    "a text for a list": ("allow_modules = 'shop'", 1, "allow_modules has to be a list of names, not 'shop'"),
    "a table for a list": ("[allow_modules]\nshop = 1", 1, "allow_modules has to be a list of names, not {"),
    "numbers for names": ("allow_modules = ['a',\n 1]", 1, "allow_modules has to be a list of names"),
    "an empty text": ("default_lm = ''", 1, "default_lm has to be text, not ''"),
    "a date": ("python = 1979-05-27 07:32:00 # hm", 1, "python has to be text, not datetime"),
    "a value for a table": (
        "[lm]\nfast = 'openai/x'",
        2,
        "lm.fast has to be a table of options by name, not str",
    ),
    "an array of tables": ("[[pool]]\nworkers = 1", 1, "pool has to be a table of options"),
    "no table at all": ("\npool = 4", 2, "pool has to be a table of options by name, not int"),
    "no model": (
        "[pool.a]\n[lm.fast]\ntemperature = 0",
        2,
        "lm.fast: a profile needs a model, as in model =",
    ),
    "a truth for a word": ("[lm.a]\nmodel = 'x/y'\nschema = 'yes'", 3, "lm.a.schema has to be true or false"),
    "a model that is none": ("[lm.a]\nmodel = 5", 2, "lm.a.model has to be text, not 5"),
    "windows line ends": ("# a\r\n[pool.a]\r\nwokers = 2\r\n", 3, "has no option 'wokers'"),
    "a byte order mark": (b"\xef\xbb\xbf# a\nmax_paylod = 1", 2, "there is no option 'max_paylod'"),
    "a mark and nothing else": (b"\xef\xbb\xbf\nslots = 1", 2, "there is no option 'slots'"),
    "a text of many lines": (
        'python = """\nmax_payload = "x"\n"""\nwhat = 1',
        4,
        "there is no option 'what'",
    ),
    "quotes at its end": ("python = '''a''''' # '\nwhat = 1", 2, "there is no option 'what'"),
    "a key twice": ("max_payload = 1\nmax_payload = 2", 2, "not valid TOML: Cannot overwrite a value"),
    "a table twice": ("[pool.a]\n[pool.a]", 2, "not valid TOML: Cannot declare ('pool', 'a') twice"),
    "a missing quote": ('python = "x\nslots = 1', 1, "not valid TOML: Illegal character '\\n'"),
    "a missing end": ("allow_modules = [\n'a',\n", 2, "not valid TOML: Invalid value, and the file ends"),
    "no value": ("python =", 1, "not valid TOML: Invalid value"),
    "no TOML": ("<settings/>", 1, "not valid TOML: Invalid statement"),
    "an old code page": (b"# a\npython = 'caf\xe9'", 2, "this is not UTF-8 text"),
    "another encoding": ("a = 1".encode("utf-16"), 1, "this is not UTF-8 text"),
    "zeros": (b"a\0b = 1", 1, "not valid TOML"),
    "too deep": ("python = " + "[" * 9999, None, "values are nested too deeply"),
    "too many digits": ("max_payload = " + "1" * 5000, 1, "not valid TOML: Exceeds the limit"),
}


# The same options in a pyproject.toml; what the parser refuses it refuses in any file.
IN_PROJECT = {
    case: (text, line)
    for case, (text, line, says) in WRONG.items()
    if isinstance(text, str) and "TOML" not in says and line is not None
}


def check_place(name: str, line: int | None, says: str) -> None:
    error = refused()
    place = name if line is None else f"{name}:{line}"
    assert error.message.startswith(f"{place}: "), error.message
    assert says in error.message
    assert error.details["file"] == str(Path(name).absolute())
    assert error.details.get("line") == line


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_place(case: str) -> None:
    """Who made a slip would have to look for it in the whole file, or would not learn of it."""
    text, line, says = WRONG[case]
    write(text)
    check_place("dspex.toml", line, says)


@pytest.mark.parametrize("case", IN_PROJECT)
def test_what_is_wrong_in_a_pyproject_is_told_with_its_place(case: str) -> None:
    """The place would be that of a file which begins with our table."""
    text, line = IN_PROJECT[case]
    tables = re.sub(r"^(\[+)", r"\1tool.dspex.", text, flags=re.M)
    write(f"[project]\n[tool.dspex]\n{tables}", "pyproject.toml")
    check_place("pyproject.toml", line + 2, WRONG[case][2])


def test_the_option_is_named_for_programs_too() -> None:
    """A tool could not point at what is wrong."""
    write('[pool."a.b"]\nslots = 0\n')
    assert refused().details["option"] == 'pool."a.b".slots'
    write("[lm.a]\nmodle = 'x/y'\n")
    assert refused().details["option"] == "lm.a.modle"


def test_a_file_elsewhere_is_named_in_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dspex.toml:1` would be looked for in the wrong directory."""
    file = write("what = 1")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert refused().message.startswith(f"{file}:1: ")


@pytest.mark.parametrize("text", ["", "\n\n# nothing\n", b"\xef\xbb\xbf", "[pool]\n[lm]\n"])
def test_a_file_that_says_nothing(text: str | bytes) -> None:
    """A file whose lines are all commented out would be an error."""
    write(text)
    assert Settings() == Settings(file=False)


def test_tool_dspex_has_to_be_a_table() -> None:
    """A slip would end in an AttributeError."""
    write("[tool]\ndspex = 4\n", "pyproject.toml")
    assert refused().message == "pyproject.toml:2: tool.dspex has to be a table"


def test_an_empty_table_is_a_pool() -> None:
    """A pool that needs no options could not be named."""
    write("[pool.batch]\n")
    assert list(Settings().pools) == ["batch"]


def test_paths_go_on_from_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program started in a subdirectory would not find its interpreter or model."""
    write('python = ".venv/bin/python"\nlocal_model = "tiny.gguf"\n')
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    settings = Settings()
    assert settings.python == str(folder / ".venv/bin/python")
    assert settings.local_model == str(folder / "tiny.gguf")


def test_other_paths_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python3.12` would be looked for beside the file, and `~` taken for a directory."""
    monkeypatch.setenv("HOME", "/home/zoe")
    write('python = "python3.12"\nlocal_model = "~/tiny.gguf"\n')
    assert (Settings().python, Settings().local_model) == ("python3.12", "/home/zoe/tiny.gguf")
    write('python = "/usr/bin/python3"\n')
    assert Settings().python == "/usr/bin/python3"
    assert Settings(python=".venv/bin/python").python == ".venv/bin/python"


# Lines


KEYS = st.one_of(
    st.text("abc_-1", min_size=1, max_size=4),
    st.text("a.'\" \\#[]=é\t", max_size=4),
)
NOISE = st.sampled_from(
    [
        "",
        "# [a] = 1",
        '"no end',
    ]
).map(lambda text: text if text.startswith("#") else f"# {text}")
TEXTS = st.sampled_from(
    [
        '"a # b"',
        "'a = 1'",
        '"""\n[x]\na = 1\n"""',
        "'''\n# '' \n'''",
        r'"a \" ] } , b"',
        '""""a"""""',
        "'''a'''''",
        "''",
        '""',
        "1979-05-27 07:32:00",
        "[1, [2, # ]\n 3], {a = '}'} ]",
    ]
)


def quoted(key: str) -> str:
    if key and all(sign in "abc_-1" for sign in key):
        return key
    if "'" not in key and "\t" not in key:
        return f"'{key}'"
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[str, ...], int]]:
    """A TOML text, and the number that each of its plain keys has."""
    parts: list[str] = []
    expected: dict[tuple[str, ...], int] = {}

    def number(path: tuple[str, ...]) -> str:
        expected[path] = 1000 + len(expected)
        return str(expected[path])

    def inline(path: tuple[str, ...], depth: int) -> str:
        fields = []
        for key in draw(st.lists(KEYS, unique=True, max_size=3)):
            here = (*path, key)
            deeper = depth < 2 and draw(st.booleans())
            fields.append(f"{quoted(key)} = {inline(here, depth + 1) if deeper else number(here)}")
        return "{ " + " , ".join(fields) + " }"

    def table(path: tuple[str, ...]) -> None:
        for key in draw(st.lists(KEYS, unique=True, max_size=4)):
            here = (*path, key)
            match draw(st.integers(0, 3)):
                case 0:
                    parts.append(f"{quoted(key)} = {number(here)} {draw(NOISE)}")
                case 1:
                    parts.append(f"  {quoted(key)}={draw(TEXTS)}")
                case 2:
                    parts.append(f"{quoted(key)} = {inline(here, 0)} {draw(NOISE)}")
                case _:
                    parts.append(f"{quoted(key)} . x .'y' = {number((*here, 'x', 'y'))}")
            parts.append(draw(NOISE))

    table(())
    for name in draw(st.lists(KEYS.map(lambda key: f"t{key}"), unique=True, max_size=3)):
        parts.append(f"[ table . {quoted(name)} ] {draw(NOISE)}")
        table(("table", name))
    for _ in range(draw(st.integers(0, 2))):
        parts.append("[[many]]")
        parts.append(f"n = {draw(TEXTS)}")
    return "\n".join(parts), expected


@given(documents())
@options(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_each_key_has_the_line_that_it_is_on(document: tuple[str, dict[tuple[str, ...], int]]) -> None:
    """An error would point at a line that is right."""
    text, expected = document
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # two keys that were made alike, as `table` and `table.x`
    found = lines(text)
    written = text.splitlines() if "\x0b" not in text else text.split("\n")
    for path, value in expected.items():
        assert str(value) in written[found[path] - 1], (path, found[path])


@given(st.text(st.sampled_from("ab=.[]{}\"'#\n, 1\\lmpoo\t"), max_size=40))
@options(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_text_gives_any_other_error(text: str) -> None:
    """A file that is damaged would end in a traceback."""
    write(text)
    found: list[InvalidOption] = []
    try:
        Settings()
    except InvalidOption as error:
        found.append(error)
    for wrong in found:
        assert wrong.message.startswith("dspex.toml:")
        assert 1 <= wrong.details["line"] <= text.count("\n") + 1
