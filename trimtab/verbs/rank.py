"""``trimtab rank``: who says which of the K answers is better - simulated labelers, a reward model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.common.progress import Progress
from trimtab.common.rng import generator
from trimtab.data.files import write_records
from trimtab.data.formats import read_comparisons
from trimtab.feedback.reward_model import reward_folder
from trimtab.records import Comparison
from trimtab.verbs.feedback import resolve_feedback
from trimtab.verbs.outputs import OVERWRITE_SENTENCE, open_output
from trimtab.verbs.score import readable, scored


class Config(Settings):
    """Settings of ``trimtab rank``."""

    data: str = Field("", description="answers to rank, a file that trimtab sample wrote")
    also: str = Field("", description="another model's answers to the same prompts, a file, to be ranked among these")
    by: str = Field(
        "village",
        description="village = its simulated labelers; reward:DIR = a reward model; gold = the village's judge",
    )
    out: str = Field("rankings.jsonl", description="file to write, or a folder (then rankings.jsonl in it)")
    overwrite: bool = Field(False, description=OVERWRITE_SENTENCE)
    labelers: int = Field(1, ge=1, description="labelers who rank each item (village)")
    seed: int = Field(0, description="seed of labelers, noise and order")


def run(config: Config) -> Path:
    """Ranks and writes; returns the file.

    Raises:
        UserError: an option or the file is wrong.
    """
    if not config.data:
        raise UserError("rank needs a file of answers: trimtab rank FILE --by village -o FILE")
    items = read_comparisons(config.data)
    if config.also:
        items = together(items, config.also)
    judge = reward_folder(config.by)
    inputs, parents = [f for f in (config.data, config.also) if f], [str(judge)] if judge else []
    place = open_output(config.out, "rank", config, "rankings.jsonl", overwrite=config.overwrite, inputs=inputs, parents=parents)
    with place as out:
        if out.done:
            return out.path
        ranked = by_village(items, config) if config.by == "village" else by_score(items, config.by)
        write_records(out.path, ranked)
    return out.path


def together(items: Sequence[Comparison], path: str) -> list[Comparison]:
    """Each prompt's answers followed by those in ``path``, not ranked yet.

    Raises:
        UserError: ``path`` has no answers to one of the prompts.
    """
    others = {other.prompt.id: other for other in read_comparisons(path)}
    out = []
    for item in items:
        other = others.get(item.prompt.id)
        if other is None or other.prompt.messages != item.prompt.messages:
            raise UserError(f"also={path}: no answers to prompt {item.prompt.id}; sample the same prompts with both models")
        completions = (*item.completions, *other.completions)
        out.append(replace(item, completions=completions, ranks=(None,) * len(completions)))
    return out


def by_village(items: Sequence[Comparison], config: Config) -> list[Comparison]:
    """Rankings by the village's simulated labelers, ``config.labelers`` different ones for each item."""
    from trimtab.village import Pool

    pool = Pool(config.seed)
    if config.labelers > len(pool.labelers):
        raise UserError(f"labelers={config.labelers}: the village has {len(pool.labelers)}")
    out = []
    with Progress("rank by village", len(items), "items") as bar:
        for item in items:
            rng = generator(config.seed, "assign", item.prompt.id)
            for i in rng.choice(len(pool.labelers), size=config.labelers, replace=False):
                out.append(pool.rank(item.prompt, item.completions, labeler=pool.labelers[int(i)]))
            bar.advance()
    return out


def by_score(items: Sequence[Comparison], name: str) -> list[Comparison]:
    """Rankings by falling score; equal scores tie. The scores are kept as ``scores``; what a reward model cannot read is left out."""
    feedback = resolve_feedback("village" if name == "gold" else name)
    items = readable(items, "rank", feedback)
    scores = scored(feedback, items, f"rank by {name}")
    out = []
    for item, row in zip(items, scores, strict=True):
        ranks = tuple(1 + sum(x > row[i] for x in row) for i in range(len(row)))
        out.append(replace(item, ranks=ranks, labeler=name, extra={**item.extra, "scores": [round(x, 6) for x in row]}))
    return out
