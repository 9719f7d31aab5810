"""``trimtab eval winrate``: answers of several models to the same prompts, side by side, by a judge.

A judge that no model was trained on is called gold; where a reward model judges, results and report say proxy.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from trimtab.common.config import Settings, defaults_of
from trimtab.common.errors import UserError
from trimtab.common.files import write_json, write_text
from trimtab.common.progress import Progress
from trimtab.data.encode import comparison_trees
from trimtab.data.formats import read_comparisons, refuse_shared_ids
from trimtab.data.template import Renderer
from trimtab.evaluation.reward_quality import calibration, labeler_agreement, longest_baseline, pair_accuracy
from trimtab.evaluation.table import build_results, render_table
from trimtab.feedback.protocol import explained
from trimtab.feedback.reward_model import RewardModel, reward_folder
from trimtab.models.load import load_policy, load_tokenizer, max_positions, model_folders
from trimtab.records import Comparison, Completion
from trimtab.training.folder import RunFolder
from trimtab.verbs.feedback import resolve_feedback
from trimtab.verbs.score import readable, sums


class Config(Settings):
    """Settings of ``trimtab eval winrate``."""

    answers: dict[str, str] = Field(
        {}, description="name of each model -> file of its answers, one or more to each prompt; of ranked ones only the best counts"
    )
    titles: dict[str, str] = Field({}, description="name -> what the table calls it")
    models: dict[str, str] = Field({}, description="name -> model folder, for the KL to the reference")
    reference: str = Field("", description="reference of the KL, a model folder")
    baseline: str = Field("sft", description="the model that the others' wins are counted against")
    judge: str = Field("village", description="who judges: village, or reward:DIR")
    reward: str = Field("", description="reward model whose scores stand beside the judge's")
    held_out: str = Field("", description="held-out rankings to measure the reward model on")
    held_out_new: str = Field(
        "", description="held-out rankings of prompts unlike those it was trained on, such as of new people, measured apart"
    )
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
    if (config.held_out and not config.reward) or ((config.agreement or config.held_out_new) and not config.held_out):
        missing = "held_out" if config.reward else "reward"
        raise UserError(f"{missing}= is missing: {Config.model_fields[missing].description}")
    if config.baseline not in config.answers:
        raise UserError(
            f"baseline={config.baseline} is not among the answers ({', '.join(config.answers) or 'none given'})"
        )
    folder = RunFolder(config.out)
    files = [*config.answers.values(), config.held_out, config.held_out_new, config.agreement]
    models = [folder for m in (*config.models.values(), config.reference, config.reward) if m for folder in model_folders(m)]
    judge = reward_folder(config.judge)
    parents = [*models, judge] if judge else models
    inputs = [f for f in files if f]
    if not folder.begin("eval", config.model_dump(), inputs=inputs, parents=parents, defaults=defaults_of(Config)):
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
    answers = {name: answers_by_id(path) for name, path in config.answers.items()}
    for name, found in answers.items():
        if found.keys() != answers[config.baseline].keys():
            raise UserError(
                f"{config.answers[name]}: answers other prompts than {config.answers[config.baseline]}; sample both from the same file"
            )
        refuse_shared_ids((c.prompt for c in (*answers[config.baseline].values(), *found.values())), config.answers[name])
    rows = []
    judge = resolve_feedback(config.judge)
    reward = RewardModel(config.reward) if config.reward else None
    ids = [item.prompt.id for item in readable(side_by_side(answers, config.baseline), "eval winrate", judge, reward)]
    with Progress("judge", len(answers) * len(ids), "prompts") as bar:
        for name, found in answers.items():
            items = [found[i] for i in ids]
            chosen = [counted(c) for c in items]
            said = explained(judge, [c.prompt for c in items], chosen)
            proxy = reward.score([c.prompt for c in items], chosen) if reward else None
            kls = log_ratios(name, items, chosen, config)
            for i, item in enumerate(items):
                asked = {"id": item.prompt.id, "prompt": item.prompt.text, "use_case": item.prompt.use_case}
                for k, answer in enumerate(chosen[i]):
                    given = {"model": name, "completion": answer.text, "words": len(answer.text.split())}
                    rows.append({**asked, **given, "reward": proxy[i][k] if proxy else None, **said[i][k], **kls[i][k]})
            every = [verdict["gold"] for verdicts in said for verdict in verdicts]
            bar.advance(len(items), gold=sum(every) / len(every))
    best_of = {name: max(sum(r is not None for r in c.ranks) for c in found.values()) for name, found in answers.items()}
    results = build_results(
        rows, list(answers), config.baseline, config.titles, judge=config.judge, seed=config.seed, best_of=best_of
    )
    results["source"] = judge.source
    if reward and config.held_out:
        results["reward_model"] = reward_quality(reward, config.held_out, config.seed)
        if config.held_out_new:
            results["reward_model"]["new"] = reward_quality(reward, config.held_out_new, config.seed)
        if config.agreement:
            agreed = labeler_agreement(read_comparisons(config.agreement), seed=config.seed)
            results["reward_model"]["labeler_agreement"] = agreed.to_json()
    write_text(folder.path / "samples.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return results


def side_by_side(answers: Mapping[str, Mapping[str, Comparison]], baseline: str) -> list[Comparison]:
    """Each prompt with the answers of all models that count: what one model said too long of is compared for none."""
    out = []
    for key, item in answers[baseline].items():
        every = [completion for found in answers.values() for completion in counted(found[key])]
        out.append(Comparison(item.prompt, tuple(every), (None,) * len(every)))
    return out


def answers_by_id(path: str) -> dict[str, Comparison]:
    """The answers to each prompt; a prompt that stands in several rows has all of them.

    Raises:
        UserError: two prompts have one id, or a prompt was ranked more than once: which ranking counts?
    """
    out: dict[str, Comparison] = {}
    for item in read_comparisons(path):
        before = out.setdefault(item.prompt.id, item)
        if before is item:
            continue
        refuse_shared_ids((before.prompt, item.prompt), path)
        if any(rank is not None for rank in (*before.ranks, *item.ranks)):
            raise UserError(f"{path}: prompt {item.prompt.id!r} is ranked in several rows; keep one ranking of each prompt")
        out[item.prompt.id] = Comparison(item.prompt, before.completions + item.completions, before.ranks + item.ranks)
    return out


def counted(item: Comparison) -> list[Completion]:
    """The best-ranked answer, or all where nobody ranked them."""
    ranked = [(rank, i) for i, rank in enumerate(item.ranks) if rank is not None]
    return [item.completions[min(ranked)[1]]] if ranked else list(item.completions)


def log_ratios(
    name: str, items: list[Comparison], chosen: list[list[Completion]], config: Config
) -> list[list[dict[str, float | None]]]:
    """log pi(y|x) and log pi_ref(y|x) of each answer; None for models that are not given (their answers are not their samples)."""
    out: list[list[dict[str, float | None]]] = [[{"logprob": None, "reference_logprob": None} for _ in row] for row in chosen]
    if name not in config.models or not config.reference:
        return out
    records = [Comparison(item.prompt, tuple(row), (None,) * len(row)) for item, row in zip(items, chosen, strict=True)]
    places = {item.prompt.id: i for i, item in enumerate(items)}
    for kind, source in (("logprob", config.models[name]), ("reference_logprob", config.reference)):
        policy = load_policy(source)
        trees, _ = comparison_trees(records, Renderer(load_tokenizer(source), answers=False), max_positions(policy))
        for tree, row in zip(trees, sums(policy, trees, 8192), strict=True):
            for k, value in enumerate(row):
                out[places[tree.key]][k][kind] = value
    return out


def reward_quality(reward: RewardModel, path: str, seed: int) -> dict[str, Any]:
    """The reward model on held-out rankings, against preferring the longest answer."""
    read = read_comparisons(path)
    fitting = [(c, tree) for c in read if (tree := reward.tree(c.prompt, c.completions)).longest <= reward.longest]
    items, trees = [c for c, _ in fitting], [tree for _, tree in fitting]
    if len(items) < len(read):
        print(f"{path}: {len(read) - len(items)} of {len(read)} rankings are longer than the reward model reads, left out")
    scores = reward.score_trees(trees)
    return {
        "accuracy": pair_accuracy(scores, items, seed=seed).to_json(),
        "longest": longest_baseline(items, seed=seed).to_json(),
        "calibration": calibration(scores, items, scale=reward.calibration.slope, seed=seed).to_json(),
        "calibration_error_at_1": calibration(scores, items, scale=reward.calibration.scale, seed=seed).to_json()["error"],
        "temperature": reward.calibration.temperature,
        "pairs": sum(len(c.pairs()) for c in items),
    }
