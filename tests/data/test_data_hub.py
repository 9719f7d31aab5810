"""Data sets of the hub: real loading code against a stand-in for the hub, and one line where it cannot be reached."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hub_stand_in import hub

from trimtab.common.errors import UserError
from trimtab.data.files.hub import HubName, parse_hub
from trimtab.data.files.opening import must_be_file

ROWS = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b", "score": float("nan")} for i in range(3)]

# In a process of its own: the hub's address is read from the environment when its client is imported.
READ = """
import json, sys
from trimtab.common.errors import UserError
from trimtab.data.files import read_rows
from trimtab.data.formats import read
for name in sys.argv[1:]:
    try:
        found = read(name, None)
        print(json.dumps([str(found.account), [r.prompt.id if hasattr(r, "prompt") else r.id for r in found.records]]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def asked(address: str, home: Path, *names: str, **variables: str) -> list[Any]:
    """What is read of each name, or the line with which it is refused."""
    online = {name: "0" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")}
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), **online, **variables}
    done = subprocess.run([sys.executable, "-c", READ, *names], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hub:acme/pairs", HubName("acme/pairs")),
        ("hub:gsm8k", HubName("gsm8k")),
        ("hub:acme/pairs:test", HubName("acme/pairs", split="test")),
        ("hub:acme/pairs:main:train", HubName("acme/pairs", config="main", split="train")),
        ("hub:acme/pairs@v1.0:main:test", HubName("acme/pairs", "v1.0", "main", "test")),
    ],
)
def test_names(text: str, name: HubName) -> None:
    assert parse_hub(text) == name


@pytest.mark.parametrize("text", ["hub:", "hub:a/b/c", "hub:acme/pairs:a:b:c", "hub:../x", "hub:acme/pairs@"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="write hub:owner/name"):
        parse_hub(text)


def test_a_name_without_the_prefix_is_a_file_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no such file; a data set of the hub is written hub:acme/pairs"):
        must_be_file("acme/pairs")
    with pytest.raises(UserError, match="no such file$"):
        must_be_file("acme/pairs.jsonl")


def test_reading(tmp_path: Path) -> None:
    """Splits, configs, JSON and Parquet; what is not there is said in a line, and so is a hub that is not."""
    pairs, sets = tmp_path / "hub/acme/pairs", tmp_path / "hub/acme/sets"
    pairs.mkdir(parents=True)
    sets.mkdir()
    for name, rows in (("train", ROWS), ("test", ROWS[:1])):
        (pairs / f"{name}.jsonl").write_text("".join(json.dumps({**row, "score": None}) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sets / "easy.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "q"}]), sets / "hard.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files:\n  - split: dev\n    path: {name}.parquet\n" for name in ("easy", "hard"))
    (sets / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with hub(tmp_path / "hub") as address:
        names = ("acme/pairs", "acme/pairs:test", "acme/sets:easy", "acme/sets:hard:dev", "acme/sets", "acme/pairs:nosplit", "acme/nothing")
        found = asked(address, tmp_path / "home", *(f"hub:{name}" for name in names))
    account = "3 rows (trl-preference 3), 3 kept with 3 comparisons"
    assert found[0] == [account, ["pairs[0]", "pairs[1]", "pairs[2]"]]
    assert found[1] == ["1 row (trl-preference 1), 1 kept with 1 comparison", ["pairs:test[0]"]]
    assert found[2] == [account, ["sets:easy[0]", "sets:easy[1]", "sets:easy[2]"]]
    assert found[3] == ["1 row (trl-prompt 1), 1 kept with 1 prompt", ["sets:hard:dev[0]"]]
    assert "hub:acme/sets: Config name is missing" in found[4] and "easy" in found[4]
    assert "hub:acme/pairs:nosplit: Bad split: nosplit" in found[5]
    assert found[6].startswith("hub:acme/nothing: is not on the hub, or private")
    (nobody,) = asked(address, tmp_path / "home", "hub:acme/pairs")  # the stand-in is gone
    assert nobody.startswith("hub:acme/pairs: the hub cannot be reached (") and "hf download acme/pairs" in nobody
    (offline,) = asked(address, tmp_path / "home2", "hub:acme/pairs", HF_DATASETS_OFFLINE="1")
    assert offline.startswith("hub:acme/pairs: the hub cannot be reached (")
