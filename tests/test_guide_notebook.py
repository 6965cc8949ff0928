"""The guide to notebooks: the example's cells in a real kernel."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.processes import alive, descendants, until
from tests.provider import Provider, echo, hanging
from tests.servers import EXAMPLES, model


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


class Notebook:
    """The example in a kernel of its own."""

    def __init__(self, client: Any, notebook: Any) -> None:
        self._client = client
        self._cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        self.kernel = client.km.provisioner.pid

    def run(self, cell: str | int) -> str:
        """Run a cell of the example's by its number, or else this code; the value that it shows."""
        code = self._cells[cell].source if isinstance(cell, int) else cell
        new = nbformat.NotebookNode(cell_type="code", source=code, metadata={}, outputs=[])
        ran = self._client.execute_cell(new, 0)
        shown = [output.data["text/plain"] for output in ran.outputs if "data" in output]
        return str(shown[0]) if shown else ""

    def run_interrupted(self, cell: str, provider: Provider) -> str:
        """Run a cell, and interrupt the kernel once a model is asked; the error that the cell shows."""

        def interrupt() -> None:
            until(lambda: provider.in_flight)
            os.kill(self.kernel, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(CellExecutionError) as caught:
            self.run(cell)
        interrupter.join()
        return str(caught.value.ename)


@pytest.fixture
def notebook(provider: Provider) -> Iterator[Notebook]:
    content = nbformat.reads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"), as_version=4)
    client = NotebookClient(content, timeout=60, kernel_name="python3")
    with client.setup_kernel(env={**os.environ, **model(provider)}):
        yield Notebook(client, content)


def test_the_example_from_top_to_bottom(notebook: Notebook, provider: Provider) -> None:
    """If this failed, a cell would not run as the guide shows it, or leave a process."""
    imports, opening, asking, asking_many, closing = range(5)
    notebook.run(imports)
    for _ in range(2):  # a cell is run again and again
        notebook.run(opening)
    assert notebook.run(asking) == "'What is the capital of France?'"
    assert notebook.run(asking_many) == (
        "['In which country is Lisbon?',\n 'In which country is Oslo?',\n"
        " 'In which country is Prague?',\n 'In which country is Rome?']"
    )
    assert len(descendants(notebook.kernel)) == 2, "the second runtime's zygote and worker"
    notebook.run(closing)
    assert descendants(notebook.kernel) == []


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("adapter.generate('?')", "KeyboardInterrupt"),
        ("await adapter.agenerate('?')", "CancelledError"),
    ],
)
def test_interrupting_a_cell(cell: str, error: str, notebook: Notebook, provider: Provider) -> None:
    """If this failed, a cell that was stopped would go on working and paying behind one's back."""
    notebook.run(0)
    notebook.run(1)
    # ipykernel takes note of an interrupt of an awaiting cell when its loop next wakes.
    notebook.run(
        "async def tick():\n    while True: await asyncio.sleep(0.1)\nticking = asyncio.create_task(tick())"
    )
    provider.reply = lambda _: hanging()
    assert notebook.run_interrupted(cell, provider) == error
    until(lambda: provider.disconnects == 1 and provider.in_flight == 0)
    provider.reply = lambda _: echo()
    assert notebook.run("adapter.generate('again').response") == "'again'"


def test_a_killed_kernel_leaves_nothing(notebook: Notebook) -> None:
    """If this failed, each restart of a kernel would leave workers behind."""
    notebook.run(0)
    notebook.run(1)
    family = descendants(notebook.kernel)
    assert family
    os.kill(notebook.kernel, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in family))
