"""What reviewers say of labels, and the answers that they put in the place of the labelers'."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "adjudications",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_adjudications_task_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_adjudications_user_id"),
        sa.PrimaryKeyConstraint("task_id", name="pk_adjudications"),
    )
    op.create_table(
        "reviews",
        sa.Column("label_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["label_id"], ["labels.id"], name="fk_reviews_label_id"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_reviews_user_id"),
        sa.PrimaryKeyConstraint("label_id", name="pk_reviews"),
    )


def downgrade() -> None:
    """One step down."""
    op.drop_table("reviews")
    op.drop_table("adjudications")
