"""A shop's programs."""
