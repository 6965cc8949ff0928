"""For tests of programs that use dspex."""
