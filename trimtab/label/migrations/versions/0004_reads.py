"""Who has read which thread how far; facts about the database itself."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "reads",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("upto", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_reads_project_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_reads_user_id"),
        sa.PrimaryKeyConstraint("user_id", "project_id", "task_id", name="pk_reads"),
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_facts"),
    )


def downgrade() -> None:
    """One step down."""
    op.drop_table("facts")
    op.drop_table("reads")
