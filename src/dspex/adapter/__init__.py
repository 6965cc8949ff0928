"""The public face: runtimes, adapters, and what they answer with."""
