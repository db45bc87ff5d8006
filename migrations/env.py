"""Alembic environment. The service passes its connection; the `alembic` command opens one from the settings."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from core.tables import Base


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite cannot alter most things: batch mode rebuilds the table instead.
        render_as_batch=True,
        transactional_ddl=True,
        compare_type=True,
        compare_server_default=True,
        user_module_prefix="tables.",
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    given = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    from core.database import Database
    from core.migrate import connected
    from core.settings import load_settings

    with connected(Database(load_settings().database_url)) as connection:
        run(connection)


main()
