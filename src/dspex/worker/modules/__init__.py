"""How each family of DSPy's modules is built from a spec, and what it tells."""
