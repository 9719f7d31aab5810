"""Alembic's migrations of the labelling database."""
