"""Alembic's migrations: how older tables become those of this version."""
