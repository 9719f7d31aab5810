"""Every recipe that comes with the package names real verbs and options, in each of its sizes."""

from pathlib import Path

import pytest

from trimtab.cli import verbs
from trimtab.common.yamls import read_yaml
from trimtab.recipes import recipe as recipes
from trimtab.recipes.runner import prepare

SHIPPED = sorted(Path(recipes.__file__).parent.glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_every_stage_is_what_its_verb_takes(path: Path, tmp_path: Path) -> None:
    raw, known = read_yaml(path), verbs()
    given = [f"{name}=x" for name, value in raw["vars"].items() if value is None]
    for size in ([], *([f"size={name}"] for name in raw.get("sizes", {}))):
        recipe = recipes.load_recipe(path, tmp_path, [*given, *size])
        tasks = [prepare(stage, tmp_path, known) for stage in recipe.stages]
        assert [task.stage.name for task in tasks] == [stage["name"] for stage in raw["stages"]]


def test_recipes_are_found_by_name() -> None:
    assert [recipes.find_recipe(path.stem) for path in SHIPPED] == SHIPPED
