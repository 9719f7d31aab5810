"""The labelling app's tests, where the packages of its extra are installed; elsewhere the reason why not is printed."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

NEEDED = ("sqlalchemy", "alembic", "argon2", "nh3", "markdown_it", "fastapi", "uvicorn", "multipart", "httpx2")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

if MISSING:
    collect_ignore_glob = ["test_*.py"]
    sys.stderr.write(f"tests/label: left out, {', '.join(MISSING)} missing (pip install -e '.[dev]')\n")
else:
    from label_fixtures import lite, lite_place, place, postgres_url, started, store  # noqa: F401
