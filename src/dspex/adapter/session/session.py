"""The session."""

from __future__ import annotations

from dspex.adapter.session.conversation import Conversation
from dspex.adapter.session.programs import Programs
from dspex.adapter.session.variables import Variables


class Session(Variables, Programs, Conversation):
    """What belongs together over several calls, in the store: programs, turns, variables.

    ``adapter.session("user-42")`` gives one. It may be used from any thread.
    """
