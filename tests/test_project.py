"""The project files agree with each other: imports are declared, dependencies pinned, data files shipped."""

import ast
import re
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "trimtab"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
MODULE_OF = {"pyyaml": "yaml", "argon2-cffi": "argon2", "markdown-it-py": "markdown_it"}  # modules called otherwise than their distribution
CARRIED = {"markupsafe", "triton"}  # part of Jinja2's own interface; comes with torch for GPUs


def name(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement)[0].lower()


def module(distribution: str) -> str:
    return MODULE_OF.get(distribution, distribution.replace("-", "_"))


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))


def test_every_imported_package_is_declared() -> None:
    declared = {name(d) for group in (PROJECT["project"]["dependencies"], *EXTRAS.values()) for d in group}
    known = {module(d) for d in declared} | set(sys.stdlib_module_names) | CARRIED | {"trimtab"}
    foreign = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                foreign |= {(alias.name.split(".")[0], path.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                foreign.add(((node.module or "").split(".")[0], path.name))
    assert {(m, path) for m, path in foreign if m not in known} == set()


def test_every_dependency_that_tests_install_is_pinned() -> None:
    needed = {name(d) for d in [*PROJECT["project"]["dependencies"], *EXTRAS["dev"]]}
    assert needed - set(pins()) == set()
    assert pins()["torch"] == "2.13.0"


def test_no_file_names_a_package_index() -> None:
    for file in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run"):
        assert not re.search(r"https?://|index-url|find-links", (REPOSITORY / file).read_text()), file


def test_every_file_that_is_no_code_is_shipped() -> None:
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, found in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in found
    ]
    shipped = {path for pattern in patterns for path in REPOSITORY.glob(pattern)}
    others = {p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts}
    assert others - shipped == set()


def test_every_room_with_code_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert {str(folder) for folder in folders if not (folder / "__init__.py").exists()} == set()


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    documents = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    links = [(d, link) for d in documents for link in re.findall(r"\]\(([^)#:]+)\)", d.read_text(encoding="utf-8"))]
    assert len(links) > 5
    assert [f"{d.name}: {link}" for d, link in links if not (d.parent / link).exists()] == []
