"""``dspex doctor``: what it finds, in surroundings where things are missing, and which command mends it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dspex.lm.weights import QWEN, Weights, look
from dspex.settings import Settings
from tests import seccomp
from tests.processes import alive, descendants, until
from tests.shell import SCRIPT, dspex, environment

HAS_RUNTIME = importlib.util.find_spec("xllamacpp") is not None
HAS_WEIGHTS = importlib.util.find_spec(QWEN.pieces[0]) is not None
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")
HAS_DENO = importlib.util.find_spec("deno") is not None


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """Surroundings with nothing in them: no key, no cache, an empty folder of programs."""
    for name in ("bin", "cache", "run"):
        (tmp_path / name).mkdir(mode=0o700)
    return {
        **dict.fromkeys(KEYS, ""),
        "PATH": str(tmp_path / "bin"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
    }


def examine(*arguments: str, **variables: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code and the checks by name."""
    ran = dspex("doctor", "--json", *arguments, **variables)
    assert ran.stderr == ""
    told = json.loads(ran.stdout)
    assert told["ok"] == (ran.returncode == 0)
    return ran.returncode, {check["name"]: check for check in told["checks"]}


def program(folder: Path, name: str, code: str) -> None:
    """Put a program into a folder."""
    (folder / name).write_text(f"#!/bin/sh\n{code}\n")
    (folder / name).chmod(0o755)


def test_what_is_missing_and_not_needed_is_no_failure(bare: dict[str, str]) -> None:
    """If this failed, a check in a container would stop a service that works."""
    code, checks = examine(**bare)
    assert code == 0, checks
    for name in ("Python", "system", "dspex", "DSPy", "pidfd", "memfd", "descriptors", "worker", "cores"):
        assert checks[name]["status"] == "ok", checks[name]
        assert checks[name]["mend"] is None
    assert re.match(r"3\.4\.\d+, imported in \d+\.\d s", checks["DSPy"]["found"])
    assert re.search(r"ready after .* answered within .* gone \d+ ms after", checks["worker"]["found"])
    assert checks["sandbox"]["status"] == "missing"
    assert checks["sandbox"]["mend"] == ("dspex sandbox" if HAS_DENO else "pip install 'dspex[sandbox]'")
    assert checks["keys"]["status"] == "missing"
    assert checks["keys"]["mend"].startswith("export OPENAI_API_KEY=")
    if not HAS_RUNTIME:
        assert checks["local runtime"]["mend"] == "pip install 'dspex[local]'"
    if not HAS_WEIGHTS:
        assert checks["local weights"]["status"] == "missing"
        assert checks["local weights"]["mend"] == "pip install 'dspex[local-weights]'"
    run = Path(bare["XDG_RUNTIME_DIR"])
    assert [entry.name for entry in run.rglob("*")] == ["dspex"], "it leaves no socket"


def test_keys_are_found_by_name_and_never_shown(bare: dict[str, str], tmp_path: Path) -> None:
    """If this failed, a report that a user sends us would hold a key, or a piece of one."""
    bare |= {"OPENAI_API_KEY": "canary-Q7x9", "GOOGLE_API_KEY": "canary-Z3k8", "UNKNOWN_API_KEY": "canary-M5"}
    ran = dspex("doctor", "--quick", "--json", **bare)
    told = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    assert told["keys"]["status"] == "warning", "two variables are set and empty"
    assert told["keys"]["found"].startswith("set: OPENAI_API_KEY, GOOGLE_API_KEY; set but empty: ")
    people = dspex("doctor", "--quick", **bare)
    assert people.returncode == 0
    for text in (ran.stdout, ran.stderr, people.stdout, people.stderr):
        for piece in ("canary", "Q7x9", "Z3k8", "M5"):
            assert piece not in text.replace(str(tmp_path), "")


def test_keys_of_clouds_and_of_the_settings_are_found(bare: dict[str, str], tmp_path: Path) -> None:
    """If this failed, who has all the keys that he needs would be told that he has none."""
    file = tmp_path / "dspex.toml"
    file.write_text(
        '[lm.a]\nmodel = "openai/x"\napi_key = "env:SHOP_KEY"\nextra_headers.x-key = "env:GATEWAY_KEY"\n'
    )
    there = {
        **dict.fromkeys(("SHOP_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "canary"),
        "GOOGLE_APPLICATION_CREDENTIALS": "/canary.json",
    }
    bare |= {**there, "DSPEX_SETTINGS": str(file)}
    _, checks = examine("--quick", **bare)
    assert checks["keys"]["found"].startswith(
        f"set: {', '.join(there)}; named by the settings and not set: GATEWAY_KEY"
    )
    assert (checks["keys"]["status"], checks["keys"]["mend"]) == ("missing", "export GATEWAY_KEY=...")
    assert "canary" not in checks["keys"]["found"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[lm.a]\nmodel = "nope/x"', "dspex.toml:2: lm.a.model: unknown provider 'nope'"),
        ('default_lm = "fst"', "dspex.toml:1: default_lm: no LM profile 'fst'"),
    ],
)
def test_settings_that_a_runtime_refuses_are_wrong_settings(
    bare: dict[str, str], tmp_path: Path, text: str, says: str
) -> None:
    """If this failed, a slip in a profile would be called a broken machine."""
    file = tmp_path / "dspex.toml"
    file.write_text(text)
    ran = dspex("doctor", "--quick", **bare, DSPEX_SETTINGS=str(file))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert says in ran.stderr


def test_an_interpreter_that_does_not_run_is_named(bare: dict[str, str]) -> None:
    """If this failed, who mistyped its path would install DSPy again and again."""
    code, checks = examine("--quick", **bare, DSPEX_PYTHON="/nonexistent/python")
    assert code == 1
    assert checks["DSPy"]["found"] == "/nonexistent/python does not run: No such file or directory"
    assert checks["DSPy"]["mend"].startswith("set python= of the settings to ")
    assert checks["worker"]["status"] == "broken"


def test_the_worker_is_tried_without_profiles_and_pools(bare: dict[str, str], tmp_path: Path) -> None:
    """If this failed, what is wrong with a module of the user's would be called a broken machine."""
    file = tmp_path / "dspex.toml"
    file.write_text(
        f'python = "{sys.executable}"\n[lm.a]\nmodel = "openai/x"\n[pool.b]\npreload = ["no_such_module"]\n'
    )
    bare |= {
        "DSPEX_SETTINGS": str(file),
        "DSPEX_LM__A__API_KEY": "canary",
        "DSPEX_POOL__MORE__PRELOAD": "nor_this",
    }
    code, checks = examine("--quick", **bare)
    assert (code, checks["worker"]["status"]) == (0, "ok"), checks["worker"]


def test_plain_lines_for_people(bare: dict[str, str]) -> None:
    """If this failed, who pipes it into a file would get colours, or marks without words."""
    ran = dspex("doctor", "--quick", **bare)
    assert ran.stderr == ""
    assert "\x1b" not in ran.stdout
    lines = ran.stdout.splitlines()
    assert re.match(r"ok +Python +3\.", lines[0])
    assert any(re.match(r" +mend: export OPENAI_API_KEY", line) for line in lines)
    for option in Settings(file=False).sources():
        assert any(re.match(rf"{option} .* default$", line) for line in lines)
    assert lines[-1].startswith("dspex can be used here; ")


def test_where_each_setting_came_from(bare: dict[str, str], tmp_path: Path) -> None:
    """If this failed, nobody could see why a value holds, or who wrote the wrong one."""
    file = tmp_path / "dspex.toml"
    file.write_text('default_lm = "fast"\n[lm.fast]\nmodel = "openai/x"\napi_key = "env:SHOP_KEY"\n')
    ran = dspex("doctor", "--quick", **bare, DSPEX_SETTINGS=str(file), DSPEX_MAX_PAYLOAD="4096")
    assert ran.returncode == 0
    assert re.search(r"^default_lm +'fast' +\S*dspex\.toml:1$", ran.stdout, re.MULTILINE)
    assert re.search(r"^lm\.fast\.api_key +'env:SHOP_KEY' +\S*dspex\.toml:4$", ran.stdout, re.MULTILINE)
    assert re.search(r"^max_payload +4096 +DSPEX_MAX_PAYLOAD$", ran.stdout, re.MULTILINE)
    file.write_text("max_payload = true\n")
    wrong = dspex("doctor", "--quick", **bare, DSPEX_SETTINGS=str(file))
    assert wrong.returncode == 2
    assert "dspex.toml:1" in wrong.stderr


def test_a_dspy_that_cannot_be_imported_is_broken(bare: dict[str, str], tmp_path: Path) -> None:
    """If this failed, a broken installation would be declared fit."""
    (tmp_path / "dspy").mkdir()
    (tmp_path / "dspy" / "__init__.py").write_text("raise ImportError('half of it is missing')")
    code, checks = examine("--quick", **bare, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert checks["DSPy"]["status"] == "broken"
    assert "half of it is missing" in checks["DSPy"]["found"]
    assert checks["DSPy"]["mend"] == "pip install 'dspy<3.5,>=3.4'"
    assert checks["worker"]["status"] == "broken"
    assert "half of it is missing" in checks["worker"]["found"]


def test_a_dspy_of_another_version_is_broken(bare: dict[str, str], tmp_path: Path) -> None:
    """If this failed, a DSPy that was upgraded on its own would be declared fit."""
    (tmp_path / "sitecustomize.py").write_text("import dspy\ndspy.__version__ = '3.5.0'\n")
    code, checks = examine("--quick", **bare, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert checks["DSPy"]["status"] == "broken"
    assert re.match(r"3\.5\.0, .*; dspex needs dspy<3\.5,>=3\.4", checks["DSPy"]["found"])


@pytest.mark.skipif(not seccomp.NUMBERS, reason="the numbers of system calls are not known here")
def test_what_seccomp_refuses_is_named(bare: dict[str, str]) -> None:
    """If this failed, who runs in a strict container would be told of a permission and not of its cause."""
    refused = ",".join(map(str, seccomp.NUMBERS.values()))
    ran = subprocess.run(
        [sys.executable, "-m", "tests.seccomp", refused, *SCRIPT, "doctor", "--quick", "--json"],
        env=environment(**bare),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    checks = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    assert (checks["pidfd"]["status"], checks["memfd"]["status"]) == ("broken", "warning")
    assert "pidfd_open is refused (Operation not permitted)" in checks["pidfd"]["found"]
    assert "memfd_create is refused" in checks["memfd"]["found"]
    assert "seccomp" in checks["pidfd"]["mend"]
    assert checks["worker"]["status"] == "broken"
    assert checks["descriptors"]["status"] == "ok"


def test_a_kernel_without_lifelines_is_broken(bare: dict[str, str], tmp_path: Path) -> None:
    """If this failed, a machine on which workers outlive their supervisor would be declared fit."""
    (tmp_path / "sitecustomize.py").write_text(
        "import fcntl\n"
        "stock = fcntl.fcntl\n"
        "ignored = {fcntl.F_SETSIG, fcntl.F_SETOWN, fcntl.F_SETFL}\n"
        "fcntl.fcntl = lambda fd, do, *more: 0 if do in ignored else stock(fd, do, *more)\n"
    )
    code, checks = examine("--quick", **bare, PYTHONPATH=str(tmp_path))
    assert code == 1
    assert checks["worker"]["status"] == "broken"
    assert "3 of 3 processes were left" in checks["worker"]["found"]


def test_a_runtime_without_libgomp(bare: dict[str, str], tmp_path: Path) -> None:
    """If this failed, who has the wheel and not the library would be told to install the wheel again."""
    cause = "libgomp.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({cause!r})")
    code, checks = examine("--quick", **bare, PYTHONPATH=str(tmp_path))
    assert code == 0
    assert checks["local runtime"]["status"] == "warning"
    assert cause in checks["local runtime"]["found"]
    assert "libgomp" in checks["local runtime"]["mend"] or "gcc-libs" in checks["local runtime"]["mend"]


def test_a_limit_that_is_low_and_folders_that_take_nothing(bare: dict[str, str], tmp_path: Path) -> None:
    """If this failed, "too many open files" under load would be the first that anybody hears of it."""
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    bare |= {"XDG_CACHE_HOME": str(nowhere), "TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 256 && exec "$0" "$@"', *SCRIPT, "doctor", "--quick", "--json"],
        env=environment(**bare),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    checks = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    assert (checks["open files"]["status"], checks["open files"]["mend"]) == ("warning", "ulimit -n 1024")
    assert "256" in checks["open files"]["found"]
    assert checks["cache folder"]["status"] == "warning"
    assert checks["cache folder"]["mend"].startswith("export XDG_CACHE_HOME=")


@pytest.mark.skipif(HAS_WEIGHTS, reason="the weights' packages are installed")
def test_weights_that_are_not_the_published_ones(bare: dict[str, str]) -> None:
    """If this failed, a download that broke off would be declared whole."""
    folder = Path(bare["XDG_CACHE_HOME"]) / "dspex"
    folder.mkdir()
    (folder / QWEN.file).write_bytes(b"GGUF and no more")
    _, checks = examine("--quick", **bare)
    assert checks["local weights"]["status"] == "warning"
    assert checks["local weights"]["mend"] == f"rm '{folder / QWEN.file}'"
    with (folder / QWEN.file).open("wb") as sparse:
        sparse.truncate(QWEN.size)
    _, checks = examine("--quick", **bare)
    assert "its hash not checked" in checks["local weights"]["found"]
    assert checks["local weights"]["mend"] == "dspex doctor"


def test_how_the_weights_stand(tmp_path: Path) -> None:
    """If this failed, the doctor would hash a gigabyte each time, or never."""
    content = b"weights" * 1000
    some = Weights(
        "some.gguf", len(content), hashlib.sha256(content).hexdigest(), "nobody/nothing", ("no_such",)
    )
    file = tmp_path / some.file
    assert look(cache_dir=tmp_path, weights=some) == (file, "absent")
    file.write_bytes(content)
    assert look(cache_dir=tmp_path, weights=some, unhashed=True) == (file, "unchecked")
    assert look(cache_dir=tmp_path, weights=some) == (file, "whole")
    assert look(cache_dir=tmp_path, weights=some, unhashed=True) == (file, "whole"), "the verdict is kept"
    file.write_bytes(content[::-1])
    os.utime(file, (1, 1))
    assert look(cache_dir=tmp_path, weights=some) == (file, "wrong")
    assert file.read_bytes() == content[::-1], "looking replaces nothing"


def test_ctrl_c_leaves_nothing(bare: dict[str, str]) -> None:
    """If this failed, an impatient user would leave a worker behind."""
    running = subprocess.Popen(
        [*SCRIPT, "doctor", "--quick"],
        env=environment(**bare),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(descendants(running.pid)) >= 2, 60)
    family = descendants(running.pid)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=20)
    assert (running.returncode, output, errors) == (130, "", "cancelled stopped by SIGINT\n")
    until(lambda: not any(alive(pid) for pid in family))
