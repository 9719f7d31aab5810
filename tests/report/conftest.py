"""Fixtures of the report's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_folder import write_recipe, write_run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with few figures, for tests that write pages of their own."""
    return write_recipe(tmp_path / "village", ("sft", "dpo"))


@pytest.fixture
def make_run() -> Callable[..., Path]:
    return write_run
