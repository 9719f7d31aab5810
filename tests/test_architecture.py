"""The house stays as docs/architecture.md draws it: the table there is read, and every import is held against it."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "trimtab"
DOCS = [*sorted((REPOSITORY / "docs").glob("*.md")), *sorted(REPOSITORY.glob("*.md"))]
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
EVERYBODY_MAY_IMPORT = "common"
FACADE = "trimtab"  # the package's own __init__: the Python API


def table() -> dict[str, tuple[set[str], bool]]:
    """Room -> (rooms it may import, whether it is only planned), in the order of the table."""
    rooms: dict[str, tuple[set[str], bool]] = {}
    for room, purpose, may in re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", ARCHITECTURE.read_text(), re.MULTILINE):
        allowed = set(rooms) if may == "every room above" else set(re.findall(r"`(\w+)`", may))
        rooms[room] = (allowed, purpose.startswith("*planned:*"))
    return rooms


def rooms_of(package: Path) -> set[str]:
    """The files and folders on the package's top floor, its facade included."""
    files = {path.stem for path in package.glob("*.py") if path.stem not in ("__init__", "__main__")}
    return files | {path.parent.name for path in package.glob("*/*.py")} | {FACADE}


def imports(path: Path, package: Path, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    """Dotted names of ours that a file imports, relative ones made absolute; ``from a import b`` gives ``a.b``."""
    here = (package.name, *path.relative_to(package).with_suffix("").parts)
    found = set()
    for node in nodes or ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level] if node.level else ()
            base = [*above, *filter(None, [node.module])]
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return {name for name in found if name.split(".")[0] == package.name}


def arrows(package: Path) -> dict[tuple[str, str], str]:
    """(room, imported room) -> a file that does it, lazy imports inside functions included."""
    rooms, out = rooms_of(package), {}
    for path in sorted(package.rglob("*.py")):
        top = path.relative_to(package).parts[0].removesuffix(".py")
        room = {"__init__": FACADE, "__main__": "cli"}.get(top, top)
        for name in imports(path, package):
            target = [*name.split("."), ""][1]
            if target != "__version__":
                out[room, target if target in rooms else FACADE] = str(path.relative_to(package.parent))
    return {(room, target): path for (room, target), path in out.items() if room != target}


def forbidden(package: Path, allowed: dict[str, set[str]]) -> list[str]:
    return [
        f"{path}: {room} may not import {target}"
        for (room, target), path in arrows(package).items()
        if target != EVERYBODY_MAY_IMPORT and target not in allowed.get(room, set())
    ]


def executed_on_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes outside functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            waiting.extend(ast.iter_child_nodes(node))


def module_graph(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of ours that importing it imports."""
    files = {}
    for path in package.rglob("*.py"):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for module, path in files.items():
        names = imports(path, package, executed_on_import(ast.parse(path.read_text())))
        graph[module] = {name if name in files else name.rpartition(".")[0] for name in names} - {module, package.name}
    return graph


def test_the_table_lists_every_room_and_says_which_are_planned() -> None:
    documented, present = table(), rooms_of(PACKAGE)
    assert present - set(documented) == set(), "rooms without a row in docs/architecture.md"
    planned = {room for room, (_, planned) in documented.items() if planned}
    assert set(documented) - planned - present == set(), "rows without code that do not say *planned:*"
    assert planned & present == set(), "rows that say *planned:* though the room has code"


def test_the_table_has_no_cycle() -> None:
    above: set[str] = set()
    for room, (allowed, _) in table().items():
        assert allowed <= above, f"{room} may import {allowed - above}, which stand below it or nowhere"
        above.add(room)


def test_nothing_imports_what_the_table_forbids() -> None:
    assert forbidden(PACKAGE, {room: allowed for room, (allowed, _) in table().items()}) == []


def test_nothing_imports_the_command_line_or_the_facade() -> None:
    assert {room for room, target in arrows(PACKAGE) if target in ("cli", FACADE)} <= {FACADE, "cli"}


def test_modules_import_each_other_without_a_cycle() -> None:
    graphlib.TopologicalSorter(module_graph(PACKAGE)).prepare()


def test_every_file_says_what_it_is_for() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert [str(path) for path in files if not ast.get_docstring(ast.parse(path.read_text()))] == []


@pytest.mark.parametrize("page", DOCS, ids=[page.name for page in DOCS])
def test_files_and_names_that_docs_mention_exist(page: Path) -> None:
    missing = []
    for path, name in re.findall(r"`((?:trimtab|tests|docs)/[\w./-]+?)(?:::(\w+))?`", page.read_text()):
        file = REPOSITORY / path
        if not file.exists():
            missing.append(path)
        elif name and not re.search(rf"^(?:\s*(?:def|class) )?{name}\b", file.read_text(), re.MULTILINE):
            missing.append(f"{path}::{name}")
    assert missing == []


def write_house(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "house"


@pytest.mark.parametrize(
    "line",
    [
        "import house.cellar",
        "import house.cellar.wine as w",
        "from house import cellar",
        "from house.cellar import wine",
        "from .. import cellar",
        "from ..cellar.wine import red",
        "def late():\n    from house.cellar import wine",
    ],
)
def test_a_forbidden_arrow_is_found_however_it_is_written(tmp_path: Path, line: str) -> None:
    empty = dict.fromkeys(["__init__.py", "cellar/__init__.py", "cellar/wine.py"], "")
    house = write_house(tmp_path, {**empty, "roof/tiles.py": line})
    assert forbidden(house, {"roof": set()}) == ["house/roof/tiles.py: roof may not import cellar"]
    assert forbidden(house, {"roof": {"cellar"}}) == []


def test_importing_the_facade_is_an_arrow_except_for_the_version(tmp_path: Path) -> None:
    files = {"__init__.py": "", "roof.py": "from house import __version__", "attic.py": "import house"}
    house = write_house(tmp_path, files)
    assert arrows(house) == {("attic", FACADE): "house/attic.py"}


def test_a_cycle_of_modules_is_found_and_a_late_import_is_none(tmp_path: Path) -> None:
    late = "def f():\n    from house import a\n"
    house = write_house(tmp_path, {"__init__.py": "", "a.py": "from house.b import f\n", "b.py": late})
    graphlib.TopologicalSorter(module_graph(house)).prepare()
    (house / "b.py").write_text("if True:\n    from house import a\n")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(module_graph(house)).prepare()
