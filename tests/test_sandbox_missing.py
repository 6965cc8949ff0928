"""What is not installed, or not allowed, is said before a model is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dspex
from tests.provider import Provider, fields

SCRIPT = """
import sys, dspex
settings = dspex.Settings(file=False, allow_local_interpreter=sys.argv[3] == "allowed")
with dspex.Runtime(dspex.LM("openai/x", base_url=sys.argv[1], api_key="k"),
                   pools={"general": dspex.PoolOptions(workers=1)}, settings=settings) as runtime:
    try:
        made = runtime.adapter().generate(
            "q", module="ProgramOfThought", signature="question -> answer", sandbox=sys.argv[2])
    except dspex.DspexError as error:
        print(error.code, error.message)
    else:
        print(made.answer, made.trajectory)
"""


def run(provider: Provider, hidden: str, sandbox: str, folder: Path, allowed: str = "") -> str:
    """What comes of a call where some packages are not installed, as far as its process and workers know."""
    for name in hidden.split():
        (folder / f"{name}.py").write_text("raise ModuleNotFoundError(name=__name__)\n")
    hide = (
        "import sys, importlib.util as u\n"
        "found = u.find_spec\n"
        f"hidden = {hidden.split()!r}\n"
        "u.find_spec = lambda name, package=None: None if name in hidden else found(name, package)\n"
    )
    (folder / "sitecustomize.py").write_text(hide)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, provider.base_url, sandbox, allowed],
        env={"PATH": "", "HOME": str(folder), "PYTHONPATH": f"{folder}:{':'.join(filter(None, sys.path))}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    ("hidden", "sandbox", "said"),
    [
        ("pydantic_monty deno", "auto", "dspex[sandbox]"),
        ("pydantic_monty", "monty", "dspex[sandbox]"),
        ("deno", "deno", "dspex[deno]"),
        ("", "deno", "dspex sandbox"),
        ("pydantic_monty", "auto", "dspex sandbox"),
    ],
)
def test_what_is_missing_is_named(hidden: str, sandbox: str, said: str, tmp_path: Path) -> None:
    """If this failed, a user would pay for code that nothing can run, or not know what to install."""
    with Provider() as provider:
        told = run(provider, hidden, sandbox, tmp_path)
        assert told.startswith("sandbox_missing ")
        assert said in told
        assert not provider.requests


def test_the_users_own_rights_need_the_operators_word(tmp_path: Path) -> None:
    """If this failed, whoever may call could run generated code with all that the service may do."""
    code = "```python\nimport os\nSUBMIT({'answer': os.getpid() > 1})\n```"
    with Provider(lambda _: fields(reasoning="so", generated_code=code, answer="done")) as provider:
        refused = run(provider, "", "local", tmp_path)
        assert refused.startswith("not_allowed ")
        assert "allow_local_interpreter" in refused
        assert not provider.requests
        assert '"answer": true' in run(provider, "", "local", tmp_path, "allowed")


def test_a_module_that_writes_no_code_takes_no_sandbox() -> None:
    """If this failed, somebody would believe that what he runs is boxed in."""
    with Provider() as provider:
        lm = dspex.LM("openai/x", base_url=provider.base_url)
        with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=1)}) as runtime:
            with pytest.raises(dspex.InvalidOption, match="runs no code"):
                runtime.adapter().generate("q", sandbox="monty")
            with pytest.raises(dspex.InvalidOption, match="sandbox is one of"):
                runtime.adapter().generate("q", module="ProgramOfThought", sandbox="docker")  # type: ignore[arg-type]
            assert not provider.requests
