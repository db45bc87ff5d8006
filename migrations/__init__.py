"""Alembic migrations. A package, so that they travel in the wheel; `core.migrate` runs them."""
