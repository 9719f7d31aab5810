"""``trimtab eval winrate``: answers of several models to the same prompts, side by side, by a judge.

A judge that no model was trained on is called gold; where a reward model judges, results and report say proxy.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from trimtab.common.config import Settings
from trimtab.common.errors import UserError
from trimtab.common.files import write_json, write_text
from trimtab.common.progress import Progress
from trimtab.data.encode import comparison_trees
from trimtab.data.formats import read_comparisons, refuse_shared_ids
from trimtab.data.template import Renderer
from trimtab.evaluation.reward_quality import calibration, labeler_agreement, longest_baseline, pair_accuracy
from trimtab.evaluation.table import build_results, render_table
from trimtab.feedback.protocol import details_of
from trimtab.feedback.reward_model import RewardModel, reward_folder
from trimtab.models.load import load_policy, load_tokenizer, max_positions, model_folder
from trimtab.records import Comparison, Completion
from trimtab.training.folder import RunFolder
from trimtab.verbs.feedback import resolve_feedback
from trimtab.verbs.score import sums


class Config(Settings):
    """Settings of ``trimtab eval winrate``."""

    answers: dict[str, str] = Field(
        {}, description="name of each model -> file of its answers; ranked answers count by their best"
    )
    titles: dict[str, str] = Field({}, description="name -> what the table calls it")
    models: dict[str, str] = Field({}, description="name -> model folder, for the KL to the reference")
    reference: str = Field("", description="reference of the KL, a model folder")
    baseline: str = Field("sft", description="the model that the others' wins are counted against")
    judge: str = Field("village", description="who judges: village, or reward:DIR")
    reward: str = Field("", description="reward model whose scores stand beside the judge's")
    held_out: str = Field("", description="held-out rankings to measure the reward model on")
    agreement: str = Field(
        "", description="rankings of the same items by several labelers, to measure how far they agree"
    )
    out: str = Field("evaluation", description="folder of results.json and samples.jsonl")
    seed: int = Field(0, description="seed of the bootstrap")


def run(config: Config) -> Path:
    """Judges every answer, writes samples.jsonl and results.json, prints the table; returns the folder.

    Raises:
        UserError: files are missing, or do not answer the same prompts.
    """
    if config.baseline not in config.answers:
        raise UserError(
            f"baseline={config.baseline} is not among the answers ({', '.join(config.answers) or 'none given'})"
        )
    folder = RunFolder(config.out)
    files = [*config.answers.values(), config.held_out, config.agreement]
    models = [model_folder(m) for m in (*config.models.values(), config.reference, config.reward) if m]
    judge = reward_folder(config.judge)
    parents = [*models, judge] if judge else models
    if not folder.begin("eval", config.model_dump(), inputs=[f for f in files if f], parents=parents):
        print(f"{folder.path}: already done; delete it to run again")
        return folder.path
    with folder.running():
        results = evaluate(config, folder)
        write_json(folder.path / "results.json", results)
        folder.end("done")
    print(render_table(results))
    return folder.path


def evaluate(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Judges every answer; writes samples.jsonl and returns what goes to results.json."""
    answers: dict[str, dict[str, Comparison]] = {}
    for name, path in config.answers.items():
        read = read_comparisons(path)
        refuse_shared_ids((c.prompt for c in read), path)
        answers[name] = {c.prompt.id: c for c in read}
    ids = list(answers[config.baseline])
    for name, found in answers.items():
        if found.keys() != answers[config.baseline].keys():
            raise UserError(
                f"{config.answers[name]}: answers other prompts than {config.answers[config.baseline]}; sample both from the same file"
            )
    rows = []
    judge = resolve_feedback(config.judge)
    reward = RewardModel(config.reward) if config.reward else None
    with Progress("judge", len(answers) * len(ids), "answers") as bar:
        for name, found in answers.items():
            items = [found[i] for i in ids]
            chosen = [best(c) for c in items]
            gold = judge.score([c.prompt for c in items], [[c] for c in chosen])
            proxy = reward.score([c.prompt for c in items], [[c] for c in chosen]) if reward else None
            kls = log_ratios(name, items, chosen, config)
            for i, (item, answer, (score,), kl) in enumerate(zip(items, chosen, gold, kls, strict=True)):
                asked = {"id": item.prompt.id, "prompt": item.prompt.text, "use_case": item.prompt.use_case}
                said = {"model": name, "completion": answer.text, "words": len(answer.text.split())}
                scores = {"gold": score, "reward": proxy[i][0] if proxy else None}
                rows.append({**asked, **said, **scores, **details_of(judge, item.prompt, answer.text), **kl})
            bar.advance(len(items), gold=sum(s for (s,) in gold) / len(gold))
    best_of = {name: max(sum(r is not None for r in c.ranks) for c in found.values()) for name, found in answers.items()}
    results = build_results(
        rows, list(answers), config.baseline, config.titles, judge=config.judge, seed=config.seed, best_of=best_of
    )
    results["source"] = judge.source
    if reward and config.held_out:
        results["reward_model"] = reward_quality(reward, config)
    write_text(folder.path / "samples.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return results


def best(item: Comparison) -> Completion:
    """The best-ranked answer, or the first where nobody ranked them."""
    ranked = [(rank, i) for i, rank in enumerate(item.ranks) if rank is not None]
    return item.completions[min(ranked)[1] if ranked else 0]


def log_ratios(
    name: str, items: list[Comparison], chosen: list[Completion], config: Config
) -> list[dict[str, float | None]]:
    """log pi(y|x) and log pi_ref(y|x) of each answer; None for models that are not given (their answers are not their samples)."""
    if name not in config.models or not config.reference:
        return [{"logprob": None, "reference_logprob": None}] * len(items)
    records = [Comparison(item.prompt, (answer,), (None,)) for item, answer in zip(items, chosen, strict=True)]
    said = {}
    for kind, source in (("logprob", config.models[name]), ("reference_logprob", config.reference)):
        policy = load_policy(source)
        trees, _ = comparison_trees(records, Renderer(load_tokenizer(source)), max_positions(policy))
        said[kind] = {tree.key: row[0] for tree, row in zip(trees, sums(policy, trees, 8192), strict=True)}
    return [{kind: values.get(item.prompt.id) for kind, values in said.items()} for item in items]


def reward_quality(reward: RewardModel, config: Config) -> Mapping[str, Any]:
    """The reward model on held-out rankings, against the labelers' own agreement and against preferring the longest answer."""
    read = read_comparisons(config.held_out)
    fitting = [(c, tree) for c in read if (tree := reward.tree(c.prompt, c.completions)).longest <= reward.longest]
    items, trees = [c for c, _ in fitting], [tree for _, tree in fitting]
    if len(items) < len(read):
        print(f"{config.held_out}: {len(read) - len(items)} of {len(read)} rankings are longer than the reward model reads, left out")
    scores = reward.score_trees(trees)
    out: dict[str, Any] = {
        "accuracy": pair_accuracy(scores, items, seed=config.seed).to_json(),
        "longest": longest_baseline(items, seed=config.seed).to_json(),
        "calibration": calibration(scores, items, scale=reward.calibration.scale, seed=config.seed).to_json(),
        "pairs": sum(len(c.pairs()) for c in items),
    }
    if config.agreement:
        out["labeler_agreement"] = labeler_agreement(read_comparisons(config.agreement), seed=config.seed).to_json()
    return out
