"""The soak, for those who look for it among the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(45 * 60)]

ROOT = Path(__file__).parents[2]


def test_half_an_hour_of_load_and_faults_grows_nothing() -> None:
    """If this failed, a service would lose memory, descriptors or calls, slowly."""
    ran = subprocess.run([sys.executable, "-m", "bench.soak"], cwd=ROOT, check=False)
    assert ran.returncode == 0
