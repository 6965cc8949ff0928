"""``dspex batch``: a file of rows through one program."""
