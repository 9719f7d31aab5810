"""Every command of the README and its Python, run for real in a tiny form; and that each verb is shown there."""

import re
import shlex
from pathlib import Path

import pytest

from trimtab.cli import main

README = Path(__file__).resolve().parents[2] / "README.md"
# What makes a command small: the README's own options win only where they are about names and files.
TINY = {
    "sft": ["steps=2", "batch_size=4", "threads=1"],
    "reward": ["steps=2", "batch_size=4", "threads=1"],
    "dpo": ["steps=2", "batch_size=4", "threads=1"],
    "ppo": ["steps=2", "batch_size=4", "minibatch_size=2", "max_tokens=8", "threads=1"],
    "grpo": ["steps=2", "batch_size=4", "minibatch_size=2", "max_tokens=8", "threads=1"],
    "sample": ["max_tokens=8"],
    "doctor": ["skip=broken characters"],  # after two steps a model writes any byte
    "curate": ["workers=1"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("trimtab ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture(scope="module")
def place(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "world").symlink_to(workshop / "world")
    (folder / "DIR").symlink_to(workshop / "base")
    return folder


def test_the_readme_shows_the_loop_in_order() -> None:
    verbs = [words[0] for words in commands()]
    assert [v for v in verbs if v in ("sft", "sample", "rank", "reward", "dpo", "ppo")] == [
        "sft", "sample", "rank", "reward", "dpo", "ppo",
    ]  # fmt: skip


def test_every_command_and_the_python_tour_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    for words in commands():
        if words[0] in ("village", "run", "label"):  # the world is the fixture's; recipes and the app have tests of their own
            continue
        status = main([*words, *TINY.get(words[0], [])])
        said = capsys.readouterr()
        assert status == 0, (words, said.out, said.err)
    (tour,) = blocks("python")
    exec(compile(tour, "README.md", "exec"), {})  # noqa: S102 - our own README
    printed = capsys.readouterr().out
    assert "tensor([" in printed
