"""``trimtab village``: the embedded world as the files that every other verb reads."""

import json
from pathlib import Path

from pydantic import Field

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.common.files import write_text
from trimtab.common.progress import Progress
from trimtab.data.files import write_records
from trimtab.verbs.outputs import FILES, open_output

# Prompts of the train split kept back: about the people and places of the training prompts, but never trained on.
HELD_OUT = 300


class Config(Settings):
    """Settings of ``trimtab village``."""

    out: str = Field("village", description="folder to write to")
    documents: int = Field(0, ge=0, description="documents of base text to write (about 90 tokens each); 0 = none")
    demonstrations: int = Field(1500, ge=1, description="demonstrations to write")
    raw: bool = Field(False, description="also the prompts as their users sent them, with personal data and near-duplicates")
    test_draw: int = Field(0, ge=0, description="another number draws other test prompts about the same people, places and things")
    seed: int = Field(0, description="seed of the base text; the world itself is always the same")


def run(config: Config) -> Path:
    """Writes prompts.{train,held_out,validation,test}.jsonl, demonstrations.jsonl and, on demand, prompts.raw.jsonl and text.jsonl;
    returns the folder."""
    from trimtab.village import demonstrations, documents, prompts, raw_prompts

    if config.out.endswith(FILES):
        raise UserError(f"out={config.out}: the world is a folder of files; write a folder's name")
    if config.demonstrations > (most := len(prompts("train")) - HELD_OUT):
        raise UserError(f"demonstrations={config.demonstrations}: the village has {most} prompts to train on")
    with open_output(config.out, "village", config, "prompts.train.jsonl") as out:
        folder = out.path.parent
        if not out.done:
            train = prompts("train")
            write_records(folder / "prompts.train.jsonl", train[:-HELD_OUT])
            write_records(folder / "prompts.held_out.jsonl", train[-HELD_OUT:])
            write_records(folder / "prompts.validation.jsonl", prompts("validation"))
            write_records(folder / "prompts.test.jsonl", prompts("test", config.test_draw))
            write_records(folder / "demonstrations.jsonl", demonstrations("train", config.demonstrations))
            write_records(folder / "demonstrations.validation.jsonl", demonstrations("validation", 200))
            if config.raw:
                write_records(folder / "prompts.raw.jsonl", raw_prompts())
            if config.documents:
                with Progress("base text", config.documents, "documents") as bar:
                    lines = []
                    for document in documents(config.seed, config.documents):
                        lines.append(json.dumps({"text": document}, ensure_ascii=False) + "\n")
                        bar.advance()
                write_text(folder / "text.jsonl", "".join(lines))
    return folder
