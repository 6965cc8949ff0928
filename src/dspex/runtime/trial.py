"""A program that is built once in a worker, before any call runs it: so that one which cannot be is known."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from dspex.errors import DspexError
from dspex.pool.work import Work
from dspex.program import signature
from dspex.program.importpath import is_path
from dspex.runtime.call import DEFAULT_SIGNATURE, PoolFor, Programs, Question
from dspex.runtime.modules import Modules
from dspex.runtime.specify import specify
from dspex.wire.payloads import take


async def build(
    question: Question,
    programs: Programs,
    modules: Modules,
    pool_for: PoolFor,
    allow_modules: Collection[str],
) -> list[str]:
    """Build the program that a question names, with its arguments and its state, within the question's time.

    A worker that other calls share keeps it; the others build it at their first call.

    Args:
        question: The question; its state has been read.
        programs: The runtime's encoded programs.
        modules: What is known of the user's own.
        pool_for: The pool whose workers run it.
        allow_modules: Where tools by import path may come from.

    Returns:
        The names of its predictors.

    Raises:
        DspexError: Whatever is wrong with it, with ``request_id`` set.
    """
    try:
        users = None
        if is_path(question.module):
            question.path()
            deadline = question.deadline
            users = await modules.describe(question.module, partial(pool_for, isolated=True), deadline)
        wanted = DEFAULT_SIGNATURE if question.signature is None else question.signature
        named = specify(question, None if users is not None else signature.of(wanted), users, allow_modules)
        encoded, fingerprint = programs.encoded(named.spec)
        work = Work("build", _NOTHING, question.deadline, encoded, fingerprint, repeatable=True)
        done = await pool_for(isolated=not named.shared).execute(work)
        built: list[str] = take(done.value)
    except DspexError as error:
        raise error.for_request(question.request_id)  # noqa: B904 (it is the same error)
    return built


_NOTHING = b"\xc0"
