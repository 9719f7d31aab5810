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


class Config(Settings):
    """Settings of ``trimtab village``."""

    out: str = Field("village", description="folder to write to")
    documents: int = Field(0, ge=0, description="documents of base text to write (about 90 tokens each); 0 = none")
    demonstrations: int = Field(1500, ge=1, description="demonstrations to write")
    seed: int = Field(0, description="seed of the base text; the world itself is always the same")


def run(config: Config) -> Path:
    """Writes prompts.{train,validation,test}.jsonl, demonstrations.jsonl and, on demand, text.jsonl; returns the folder."""
    from trimtab.village import demonstrations, documents, prompts

    if config.out.endswith(FILES):
        raise UserError(f"out={config.out}: the world is a folder of files; write a folder's name")
    with open_output(config.out, "village", config, "prompts.train.jsonl") as out:
        folder = out.path.parent
        if not out.done:
            for split in ("train", "validation", "test"):
                write_records(folder / f"prompts.{split}.jsonl", prompts(split))
            write_records(folder / "demonstrations.jsonl", demonstrations("train", config.demonstrations))
            write_records(folder / "demonstrations.validation.jsonl", demonstrations("validation", 200))
            if config.documents:
                with Progress("base text", config.documents, "documents") as bar:
                    lines = []
                    for document in documents(config.seed, config.documents):
                        lines.append(json.dumps({"text": document}, ensure_ascii=False) + "\n")
                        bar.advance()
                write_text(folder / "text.jsonl", "".join(lines))
    return folder
