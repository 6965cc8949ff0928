"""The documentation: its links lead somewhere, its code runs, its reference is what the code says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents import as_shown, is_agent
from tests.blocks import blocks
from tests.provider import Provider, Reply, Request, echo, hanging

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
WITH_CODE = [page for page in WRITTEN if any(block.marker == "run" for block in blocks(page))]
# Pages whose code asks the embedded model.
LOCAL = [page for page in WITH_CODE if page.stem in {"tutorial", "local-model"}]
_MARKS = re.compile(r"^(<{7}|>{7}) ", re.M)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def headings(page: Path) -> set[str]:
    """What a link to a part of the page may say after the ``#``."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    def reply(request: Request) -> Reply:
        if is_agent(request):
            return as_shown(request)
        # What the tutorial asks with a deadline that no model can keep.
        return hanging() if "long story" in request.prompt.user else echo()

    with Provider(reply) as running:
        yield running


def test_no_page_has_marks_of_a_merge() -> None:
    """If this failed, a reader would find two versions of a page in one."""
    pages = [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md"]
    marked = [name(page) for page in pages if _MARKS.search(page.read_text(encoding="utf-8"))]
    assert not marked


def run_page(page: Path, folder: Path, provider: Provider, *options: str) -> None:
    """Run a page's blocks in a process and a folder of their own."""
    address = provider.base_url.removesuffix("/v1")
    keys = dict.fromkeys(
        ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "AZURE_API_KEY"), "from-the-environment"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.blocks", str(page), "--provider", address, *options],
        cwd=folder,
        env={**os.environ, **keys, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def generate(docs: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(docs / "generate.py"), *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_reference_is_what_the_code_says() -> None:
    """If this failed, the reference would be another version's; `uv run python docs/generate.py` mends it."""
    ran = generate(DOCS, "--check")
    assert ran.returncode == 0, ran.stderr


def test_units_of_options() -> None:
    """If this failed, a reader would take a number of requests for one of seconds."""
    text = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    cells = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("| `lm.NAME")]
    units = {row[1].strip(" `").removeprefix("lm.NAME."): row[4].strip() for row in cells}
    assert units["limits.requests_per_minute"] == "requests"
    assert units["limits.tokens_per_minute"] == "tokens"
    assert (units["timeout"], units["retry.wait"], units["model"]) == ("seconds", "seconds", "")


def test_a_reference_that_differs_is_noticed(tmp_path: Path) -> None:
    """If this failed, the check would pass whatever the pages say."""
    copy = tmp_path / "docs"
    shutil.copytree(DOCS, copy)
    page = copy / "reference" / "errors.md"
    whole = page.read_text(encoding="utf-8")
    page.write_text(whole.replace("python_timeout", "python_timeouts"), encoding="utf-8")
    ran = generate(copy, "--check")
    assert ran.returncode == 1
    assert ran.stderr == "docs/reference/errors.md differs from the code\n"
    assert generate(copy).returncode == 0
    assert page.read_text(encoding="utf-8") == whole


@pytest.mark.parametrize("page", [*(ROOT.glob("README.md")), *PAGES], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """If this failed, a reader would follow a link to nothing."""
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, part = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        assert target.is_relative_to(ROOT)
        assert not part or part in headings(target), f"{name(page)} links to {link}"


def test_the_index_links_to_every_page() -> None:
    """If this failed, a page would exist that nobody finds."""
    index = DOCS / "index.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in _LINK.findall(index.read_text("utf-8"))}
    assert {page for page in PAGES if page != index} <= linked


def test_the_design_page_names_every_room() -> None:
    """If this failed, a reader would meet a folder in the source that no page explains."""
    source = ROOT / "src" / "dspex"
    rooms = {f"{folder.parent.name}/" for folder in source.glob("*/__init__.py")}
    files = {file.name for file in source.glob("*.py") if file.name != "__init__.py"}
    table = re.findall(r"^\| \d \|(.+?)\|", (DOCS / "design.md").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"`(.+?)`", "".join(table))) == rooms | files


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_code_compiles(page: Path) -> None:
    """If this failed, a reader would copy a syntax error."""
    for block in blocks(page):
        if block.language == "python":
            block.compiled()


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_every_marker_is_understood(page: Path) -> None:
    """If this failed, a slip in a comment would leave a block untried for ever."""
    text = page.read_text(encoding="utf-8")
    markers = re.findall(r"^<!-- (.+?) -->$", text, re.M)
    markers = [marker for marker in markers if not marker.startswith(("written: ", "/written"))]
    assert [block.marker for block in blocks(page) if block.marker] == markers
    for marker in markers:
        assert marker in {"run", "output"} or marker.startswith(("file: ", "from: ")), marker


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_lines_from_a_file_are_there(page: Path) -> None:
    """If this failed, a page would show code that no test runs any more."""
    for block in blocks(page):
        if block.marker.startswith("from: "):
            file = ROOT / block.marker.removeprefix("from: ")
            text = file.read_text(encoding="utf-8")
            if file.suffix == ".ipynb":
                text = "".join("".join(cell["source"]) + "\n" for cell in json.loads(text)["cells"])
            assert block.code in text, f"{name(page)}:{block.line}"


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_code_runs(page: Path, tmp_path: Path, provider: Provider) -> None:
    """If this failed, what a reader tries first would fail, or print something else than is shown."""
    run_page(page, tmp_path, provider)


def test_the_tour_runs(tmp_path: Path, provider: Provider) -> None:
    """If this failed, what the README shows of sessions and programs would not be so."""
    run_page(ROOT / "README.md", tmp_path, provider)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", LOCAL, ids=name)
def test_code_runs_on_the_embedded_model(page: Path, tmp_path: Path, provider: Provider) -> None:
    """If this failed, the tutorial would not work for a reader who has no key."""
    pytest.importorskip("xllamacpp")
    run_page(page, tmp_path, provider, "--local")


def test_every_event_is_told_in_its_guide() -> None:
    """If this failed, a user would not know of an event that is there, or wait for one that is not."""
    import dspex

    def below(kind: type[dspex.Event]) -> set[type[dspex.Event]]:
        return {kind, *(each for child in kind.__subclasses__() for each in below(child))}

    leaves = {kind.__name__ for kind in below(dspex.Event) if not kind.__subclasses__()}
    guide = (DOCS / "how-to" / "events.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", guide, re.M)) == leaves
    reference = headings(DOCS / "reference" / "events.md")
    assert {kind.__name__.lower() for kind in below(dspex.Event)} <= reference
