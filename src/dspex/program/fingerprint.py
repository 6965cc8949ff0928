"""One short name for a program: equal specs have equal fingerprints, in every process and Python version."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from dspex.program.spec import ProgramSpec

# Keys are sorted, and MessagePack keeps apart what Python holds equal: True, 1 and 1.0 are three values.
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")


def fingerprint(spec: ProgramSpec) -> bytes:
    """The first 16 bytes by which workers remember built programs: BLAKE2b over canonical MessagePack.

    It is no secret and proves nothing; it only tells programs apart.

    Raises:
        TypeError: An option holds something that is not plain data; checked options never do.
    """
    return hashlib.blake2b(_ENCODER.encode(spec), digest_size=16).digest()
