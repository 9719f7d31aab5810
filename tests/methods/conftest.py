"""A tiny policy to start from, made once for all tests of methods; nothing writes into its folder."""

from pathlib import Path

import pytest
from tiny_models import save_tiny_policy

pytest.register_assert_rewrite("online_methods")  # so that what fails there shows its values


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("start") / "policy")
