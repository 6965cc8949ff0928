"""A session, as its users have it."""
