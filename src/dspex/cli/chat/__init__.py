"""``dspex chat``: a conversation on a terminal, or a line at a time through a pipe."""
