"""``trimtab curate``: from raw prompts to train, validation and test by user, with a card that says what was done."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from trimtab.common.config import defaults_of, dump
from trimtab.common.errors import UserError
from trimtab.data.curate import page
from trimtab.data.curate.pipeline import curate
from trimtab.data.curate.settings import CurateSettings
from trimtab.training.folder import RunFolder
from trimtab.verbs.outputs import FILES

CONFIGS = (".yaml", ".yml")


class Config(CurateSettings):
    """Settings of ``trimtab curate``."""

    data: list[str] = Field([], description="files of prompts, the most trusted first: of duplicates the earliest is kept")
    out: str = Field("curated", description="folder to write to")
    workers: int = Field(0, ge=0, description="processes that work at the same time; 0 = one for each core")
    runner: Literal["processes", "ray"] = Field("processes", description="processes of this machine, or ray: Ray Data, on a cluster too")


def sorted_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """``FILE... [CONFIG.yaml] key=value ...`` in any order -> the files, and what ``read_config`` takes."""
    options = [word for word in words if "=" in word and not Path(word).exists()]
    files = [word for word in words if word not in options]
    configs = [file for file in files if file.endswith(CONFIGS)]
    if len(configs) > 1:
        raise UserError(f"{configs[1]}: a second config; give one YAML file")
    return [file for file in files if file not in configs], [*configs, *options]


def run(config: Config) -> Path:
    """Curates and writes; returns the folder.

    Raises:
        UserError: an option or a file is wrong.
    """
    if not config.data:
        raise UserError("curate needs files of prompts: trimtab curate FILE... -o DIR")
    if config.out.endswith(FILES):
        raise UserError(f"out={config.out}: curate writes several files; give a folder's name")
    folder = RunFolder(config.out)
    inputs = [*config.data, *config.evaluation.files, *config.use_cases.examples]
    if not folder.begin("curate", dump(config), inputs=inputs, defaults=defaults_of(Config)):
        print(f"{folder.path}: already done; delete it to run again")
        return folder.path
    with folder.running():
        settings = CurateSettings.model_validate({name: getattr(config, name) for name in CurateSettings.model_fields})
        card = curate(config.data, folder.path, settings, workers=config.workers or os.cpu_count() or 1, runner=config.runner)
        folder.end("done")
    splits = ", ".join(f"{name} {entry['prompts']:,}" for name, entry in card["splits"].items())
    print(f"{card['kept']:,} of {card['rows']:,} rows kept ({splits}); why the others are not: {folder.path / 'left_out.jsonl'}")
    for note in page.notes(card):
        print(note)
    print(f"card: {folder.path / 'card.md'}")
    return folder.path
