"""What runs in the worker processes. Only this room imports DSPy; the supervisor only starts it."""
