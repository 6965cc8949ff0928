"""Values of every kind, for hypothesis to draw."""

from __future__ import annotations

from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.values import (
    Bits,
    Box,
    Color,
    FrozenModel,
    Level,
    Mood,
    Perm,
    Point,
    Slotted,
    Solid,
    Tagged,
    model,
)

#: Health checks that values of many parts fail, and may.
SLOW_OK = [HealthCheck.too_slow, HealthCheck.data_too_large]

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]
LIMITS = [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, -(2**64), 255, -128]

folds = st.integers(0, 1)
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
fixed = st.one_of(offsets.map(timezone), st.builds(timezone, offsets, st.text(max_size=5)))
zones = st.one_of(st.none(), fixed, st.sampled_from(ZONES).map(ZoneInfo))
moments = st.one_of(st.datetimes(timezones=zones), st.times(timezones=zones))
integers = st.one_of(st.integers(), st.sampled_from(LIMITS), st.integers(-(2**300), 2**300))
flags = st.one_of(st.integers(0, 7).map(Perm), st.integers(-300, 300).map(Bits))
leaves = st.one_of(
    st.one_of(st.none(), st.booleans(), integers, st.floats(), st.text(), st.binary(), st.complex_numbers()),
    st.builds(lambda moment, fold: moment.replace(fold=fold), moments, folds),
    st.one_of(st.dates(), st.timedeltas(), st.decimals(allow_nan=False), st.uuids()),
    st.one_of(st.sampled_from([*Color, *Level, *Mood]), flags),
)
keys = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Tagged, inner),
        st.builds(FrozenModel, number=st.integers()),
    ),
    max_leaves=4,
)
dtypes = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    npst.complex_number_dtypes(endianness="?"),
    npst.datetime64_dtypes(endianness="?"),
    npst.timedelta64_dtypes(endianness="?"),
    npst.byte_string_dtypes(max_len=5),
    npst.unicode_string_dtypes(endianness="?", max_len=5),
)
arrays = npst.arrays(dtypes, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
extras = st.text(max_size=5).filter(lambda name: name not in {"name", "theName", "child", "tags"})
values = st.recursive(
    st.one_of(leaves, st.decimals()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(), keys), inner, max_size=4),
        st.one_of(st.sets(keys, max_size=4), st.frozensets(keys, max_size=4)),
        st.one_of(st.builds(Solid, inner, inner, inner), st.builds(Slotted, inner, inner, inner)),
        st.builds(Tagged, inner, inner),
        st.builds(lambda name, more: model(name, **more), inner, st.dictionaries(extras, inner, max_size=3)),
        st.builds(Box, content=inner),
    ),
    max_leaves=20,
)
