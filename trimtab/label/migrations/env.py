"""Alembic's entry: runs the steps on the connection that ``store.migrate`` hands over, inside its transaction."""

from alembic import context

from trimtab.label.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
