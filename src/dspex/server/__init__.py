"""The HTTP face: what `dspex serve` serves. It needs the extra `server`."""
