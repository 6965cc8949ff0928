"""Commands that run the one after them as a container would, where the system allows that."""

from __future__ import annotations

import subprocess

import pytest

# As the first process of its own, which the kernel treats unlike others.
AS_FIRST = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
_ALL_READ_ONLY = """
cut -d' ' -f5 /proc/self/mountinfo | sort -u | while read -r point; do
    case $point in
        /proc* | /sys*) ;;
        *) mount -o remount,bind,ro "$point" 2>/dev/null ;;
    esac
done
touch /tmp/written 2>/dev/null && exit 77
exec unshare --user --map-user=10001 env -u HOME -u TMPDIR -u USER "$@"
"""
# The same with nowhere to write, for a user that has no home and no name.
READ_ONLY = [*AS_FIRST, "--mount", "sh", "-c", _ALL_READ_ONLY, "sh"]


def need(command: list[str]) -> None:
    """Skip the test where the system refuses such a command."""
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `unshare`")
    if tried.returncode != 0:
        pytest.skip(f"this system makes no namespaces: {tried.stderr.strip() or tried.returncode}")
