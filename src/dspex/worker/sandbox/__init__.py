"""Where code that a model wrote is run, by the protocol that DSPy's modules have for it."""
