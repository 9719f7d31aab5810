"""The data card: every number of every step, settings, versions, and hashes in and out, as JSON and as a page to read.

Nothing in it depends on when or where it was made, so that the same input gives the same card.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.common.config import dump
from trimtab.common.files import sha256, write_json, write_text
from trimtab.data.curate import page
from trimtab.data.curate.decide import Corpus, Fates
from trimtab.data.curate.labels import Labels
from trimtab.data.curate.names import short_names
from trimtab.data.curate.personal import TYPES
from trimtab.data.curate.settings import INSTRUCTGPT, CurateSettings
from trimtab.data.curate.shards import FATES, KEPT, STEPS, rules_of
from trimtab.data.curate.splits import SPLITS, Split
from trimtab.data.curate.use_cases import canonical, weights
from trimtab.data.files.hub import is_hub
from trimtab.records import JSON

PACKAGES = ("trimtab", "presidio-analyzer", "spacy", "phonenumbers", "py3langid", "datasketch", "numpy", "scipy")


@dataclass(frozen=True)
class Facts:
    """All that the steps have found out: ``at`` is each clean prompt's split, ``tests`` the number of evaluation prompts."""

    files: Mapping[str, str]
    out: Path
    settings: CurateSettings
    reports: Sequence[Mapping[str, Any]]
    corpus: Corpus
    fates: Fates
    users: JSON
    labels: Labels
    split: Split
    at: NDArray[np.int8]
    tests: int
    renamed: int

    def total(self, name: str) -> Counter[str]:
        """The shards' counts under ``name``, added."""
        return sum((Counter(report[name]) for report in self.reports), Counter())


def write(facts: Facts) -> JSON:
    """Writes ``card.json`` and ``card.md`` beside the prompts; returns the card."""
    card = build(facts)
    write_json(facts.out / "card.json", card)
    write_text(facts.out / "card.md", page.render(card))
    return card


def build(facts: Facts) -> JSON:
    """The card as JSON."""
    sources, names = facts.total("sources"), short_names(facts.files)
    kept = int(facts.fates.kept.sum())
    kept_of = _named(facts.corpus.source[facts.fates.kept], facts.corpus.sources)
    return {
        "rows": sources.total(), "kept": kept, "left_out": sources.total() - kept,
        "inputs": [{**_hashed(file), "file": names[file], "source": tag} for file, tag in facts.files.items()],
        "answered": facts.total("others")["rows with answers"],
        "steps": steps(facts, sources),
        "sources": {name: {"rows": n, "kept": kept_of.get(name, 0)} for name, n in sorted(sources.items())},
        "personal": personal_data(facts),
        "duplicates": duplicates(facts),
        "evaluation": {
            "files": [_hashed(file) for file in facts.settings.evaluation.files],
            "prompts": facts.tests, "ngram": facts.settings.evaluation.ngram, "left_out": _fates(facts)["evaluation"],
        },
        "users": users(facts),
        "use_cases": mix(facts),
        "languages": dict(sorted(facts.total("languages").items(), key=lambda item: (-item[1], item[0]))),
        "splits": {name: of_split(facts, name) for name in SPLITS},
        "linked": {"parts": facts.split.parts, "largest": facts.split.largest, "shares_reachable": facts.split.reachable},
        "outputs": {f"{name}.jsonl": sha256(facts.out / f"{name}.jsonl") for name in (*SPLITS, "left_out")},
        "settings": settings(facts.settings, names), "versions": versions(),
    }  # fmt: skip


def settings(given: CurateSettings, names: Mapping[str, str]) -> JSON:
    """The settings, with files by their names: where they lie is no part of what was done."""
    out = dump(given)
    out["sources"] = {names.get(file, _name(file)): tag for file, tag in given.sources.items()}
    out["evaluation"]["files"] = [_name(file) for file in given.evaluation.files]
    out["personal"]["key_file"] = _name(given.personal.key_file)
    out["use_cases"]["examples"] = [_name(file) for file in given.use_cases.examples]
    return out


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def steps(facts: Facts, sources: Mapping[str, int]) -> list[JSON]:
    """What each step left out, in order, in all and by source."""
    left: dict[str, Counter[str]] = {step: Counter() for step in STEPS}
    for report in facts.reports:
        for step, counts in report["left"].items():
            left[step].update(counts)
    for number, fate in enumerate(FATES):
        if fate != KEPT:
            found = np.bincount(facts.corpus.source[facts.fates.fate == number], minlength=len(facts.corpus.sources))
            left[fate].update({name: int(n) for name, n in zip(facts.corpus.sources, found, strict=True) if n})
    rows, out = sum(sources.values()), []
    for step in STEPS:
        gone = left[step].total()
        out.append({"step": step, "in": rows, "left_out": gone, "out": rows - gone, "by_source": dict(sorted(left[step].items()))})
        rows -= gone
    return out


def personal_data(facts: Facts) -> JSON:
    """Per type: what was done, how many pieces in how many prompts. Counts only."""
    rules, prompts, pieces = rules_of(facts.settings), facts.total("prompts"), facts.total("pieces")
    others = facts.total("others")
    types = {kind: {"action": rules.of(kind), "prompts": prompts[kind], "pieces": pieces[kind]} for kind in TYPES if kind in rules.wanted}
    return {
        "types": types, "left_as_it_is": [kind for kind in TYPES if rules.of(kind) == "keep"], "model": rules.model or None,
        "prompts": others["prompts with personal data"], "ids_replaced": others["ids renamed"], "users_replaced": others["users renamed"],
    }  # fmt: skip


def duplicates(facts: Facts) -> JSON:
    """What each rule left out, and the groups that duplicates make among the prompts that are kept."""
    fates, sizes = _fates(facts), np.unique(facts.fates.group[facts.fates.kept], return_counts=True)[1]
    return {
        **{kind: fates[kind] for kind in ("exact", "prefix", "near")},
        "groups_of_several_kept": int((sizes > 1).sum()), "largest_group_kept": int(sizes.max(initial=0)), "ids_made_unique": facts.renamed,
    }  # fmt: skip


def users(facts: Facts) -> JSON:
    """Users before the limit, and prompts that name none or several."""
    others = facts.total("others")
    return {
        **facts.users, "limit": facts.settings.users.most, "left_out": _fates(facts)["cap"],
        "prompts_without_a_user": others["prompts without a user"], "rule_without_a_user": facts.settings.users.missing,
        "prompts_of_several_users": others["prompts of several users"], "exempt_sources": list(facts.settings.users.exempt),
    }  # fmt: skip


def mix(facts: Facts) -> JSON:
    """Prompts, share and target share of each use case among those kept, the weights that would give the target, the classifier."""
    kept, labels, quality = facts.fates.kept, facts.labels, facts.labels.quality
    counts = {name: int((labels.case[kept] == k).sum()) for k, name in enumerate(labels.names)}
    target = {canonical(name): share for name, share in facts.settings.use_cases.target.items()}
    total, wanted, factor = sum(counts.values()), sum(target.values()), weights(counts, target)
    table = {
        name: {
            "prompts": counts.get(name, 0), "share": _ratio(counts.get(name, 0), total),
            "target": _ratio(target.get(name, 0.0), wanted), "weight": round(factor.get(name, 0.0), 4),
        }
        for name in [*target, *(name for name in counts if name not in target)]
    }  # fmt: skip
    own = int(labels.own[kept].sum())
    others = int(kept.sum()) - own
    return {
        "table": table, "target_is_instructgpt": target == INSTRUCTGPT,
        "mix": facts.settings.use_cases.mix, "left_out": _fates(facts)["mix"],
        "labelled": own, "predicted": others if quality else 0, "unknown": 0 if quality else others,
        "example_files": [_hashed(file) for file in facts.settings.use_cases.examples],
        "classifier": None if quality is None else {
            "examples": labels.examples, "by_user": quality.by_user,
            "accuracy": quality.accuracy.to_json(), "most_frequent": quality.most_frequent.to_json(),
            "sure_of_labelled": round(quality.sure, 4), "sure_of_predicted": round(labels.sure, 4),
            "recall": {name: found.to_json() for name, found in quality.recall.items()},
            "precision": {name: found.to_json() for name, found in quality.precision.items()},
        },
    }  # fmt: skip


def of_split(facts: Facts, name: str) -> JSON:
    """A split's prompts, its share and target, users, use cases, and the words of its prompts."""
    rows = facts.at == SPLITS.index(name)
    shares = facts.settings.split
    target = getattr(shares, name) / (shares.train + shares.validation + shares.test)
    counts = np.diff(facts.corpus.user_starts)
    mine = facts.corpus.users[np.repeat(rows, counts)]
    length, case = facts.corpus.words[rows], facts.labels.case[rows]
    return {
        "prompts": int(rows.sum()), "share": _ratio(int(rows.sum()), int(facts.fates.kept.sum())), "target": round(target, 6),
        "users": len(np.unique(mine)), "without_a_user": int((counts[rows] == 0).sum()),
        "by_source": _named(facts.corpus.source[rows], facts.corpus.sources),
        "use_cases": _named(case[case >= 0], facts.labels.names),
        "words": {
            "mean": round(float(length.mean()), 2) if len(length) else None,
            **{f"p{q}": int(np.percentile(length, q, method="lower")) if len(length) else None for q in (0, 25, 50, 75, 95, 100)},
        },
    }  # fmt: skip


def _name(file: str) -> str:
    """A file without its folders; of a data set of the hub all that names it."""
    return file if is_hub(file) else Path(file).name


def _hashed(file: str) -> JSON:
    """Name and SHA-256; a data set of the hub has none: its revision says what it is."""
    return {"file": _name(file), "sha256": None if is_hub(file) else sha256(file)}


def _fates(facts: Facts) -> Mapping[str, int]:
    counts = np.bincount(facts.fates.fate, minlength=len(FATES))
    return {name: int(n) for name, n in zip(FATES, counts, strict=True)}


def _named(codes: NDArray[np.int64], names: Sequence[str]) -> dict[str, int]:
    return {names[k]: int(n) for k, n in enumerate(np.bincount(codes, minlength=len(names))) if n}


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


