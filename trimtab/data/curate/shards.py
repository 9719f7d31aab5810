"""The work on single prompts, a shard at a time: ``clean_shard``, then ``label_shard``, then ``finish_shard``.

Each reads and writes files of the work folder (``store.Shard``) and returns counts as JSON, so that it can run in any process.
What is decided over all prompts lies between them, in ``decide``.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.data.curate import personal
from trimtab.data.curate.duplicates import KINDS, mark
from trimtab.data.curate.evaluation import Evaluation
from trimtab.data.curate.filters import language, length_fault
from trimtab.data.curate.hashing import WordHashes, hash64
from trimtab.data.curate.settings import CurateSettings
from trimtab.data.curate.splits import SPLITS
from trimtab.data.curate.spread import Job
from trimtab.data.curate.store import Shard
from trimtab.data.curate.text import conversation, normalise, words
from trimtab.data.curate.use_cases import Classifier, canonical
from trimtab.records import JSON

KEPT, EVALUATION, CAP, MIX = "kept", "evaluation", "cap", "mix"
FATES = (KEPT, EVALUATION, *KINDS, CAP, MIX)
"""What becomes of a clean prompt; ``decide`` speaks of them by number."""
STEPS = ("unreadable", "user", "length", "language", "personal", *FATES[1:])
"""Where prompts are left out, in order."""


def rules_of(settings: CurateSettings) -> personal.Rules:
    """The settings' rules for personal data."""
    asked = settings.personal
    return personal.Rules(asked.action, asked.types, asked.model, personal.read_key(asked.key_file))


OF_SOURCE = "\0"  # begins the name of the user that all prompts of a source without one share


def users_of(record: JSON, settings: CurateSettings) -> list[str]:
    """The names of a prompt's users, with those of its list ``users`` where it has one; its source's where ``users.missing=source`` and
    it has none."""
    separator, value, listed = settings.users.separator, record.get("user") or "", listed_users(record)
    names = [value, *listed] if listed else value.split(separator) if separator else [value]
    found = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    return found or ([f"{OF_SOURCE}{record['source']}"] if settings.users.missing == "source" else [])


def listed_users(record: JSON) -> list[str]:
    """The list ``users``, which ``fields.users=NAME`` reads; empty where there is none."""
    names = record.get("users")
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


@dataclass
class _Tally:
    """Counts of one shard."""

    sources: Counter[str] = field(default_factory=Counter)
    left: dict[str, Counter[str]] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    pieces: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> JSON:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def clean_shard(job: Job) -> JSON:
    """Filters, personal data, and the marks by which duplicates are found. Reads ``raw``, writes ``clean``, ``left`` and arrays."""
    shard, settings = Shard(Path(job["folder"]), job["number"]), CurateSettings.model_validate(job["settings"])
    rules = rules_of(settings)
    tally, kept, left, places = _Tally(), [], [], []
    for place, row in enumerate(shard.read_lines("raw")):
        row["source"] = personal.pseudonym("source", row["source"], rules)
        tally.sources[row["source"]] += 1
        found = row.get("record")
        if found is None:
            step, reason, record, name = "unreadable", personal.redact(row["error"]), None, None
        else:
            name = personal.pseudonym("prompt", found["id"], rules)
            tally.others["ids renamed"] += name != found["id"]
            tally.others["rows with answers"] += row["answered"]
            step, reason, record = _clean({**found, "id": name, "source": row["source"]}, settings, rules, tally)
        if record is None:
            tally.left.setdefault(step, Counter())[row["source"]] += 1
            left.append({"place": place, **left_out(name, row["source"], row["where"], step, reason)})
        else:
            kept.append({"where": row["where"], "record": record})
            places.append(place)
    shard.write_lines("left", left)
    shard.write_lines("clean", kept)
    sources, cases = _write_arrays(shard, [row["record"] for row in kept], places, settings, job.get("evaluation"))
    return {**tally.to_json(), "source_names": sources, "case_names": cases, "clean": len(kept), "rows": tally.sources.total()}


def _clean(record: JSON, settings: CurateSettings, rules: personal.Rules, tally: _Tally) -> tuple[str, str, JSON | None]:
    """(step and reason for which a record is left out, None) or the clean record."""
    text = conversation(record)
    mine = users_of(record, settings)
    if not mine and settings.users.missing == "drop":
        return "user", "no user", None
    if fault := length_fault(text, settings.length):
        return "length", fault, None
    spoken = language(text, settings.language.sure)
    tally.languages[spoken] += 1
    if settings.language.keep and spoken not in (*settings.language.keep, "und"):
        return "language", f"language {spoken}", None
    listed = listed_users(record)
    cleaned = personal.clean({name: value for name, value in record.items() if name != "users" or not listed}, rules)
    tally.prompts.update(set(cleaned.found))
    tally.pieces.update(cleaned.found)
    tally.others["prompts with personal data"] += bool(cleaned.found)
    if cleaned.record is None:
        return "personal", ", ".join(f"{kind} {n}" for kind, n in sorted(cleaned.found.items()) if rules.of(kind) == "drop"), None
    hidden = [personal.pseudonym("user", name, rules) for name in mine if not name.startswith(OF_SOURCE)]
    tally.others["users renamed"] += sum(a != b for a, b in zip(mine, hidden, strict=False))
    tally.others["prompts without a user"] += not hidden
    tally.others["prompts of several users"] += len(hidden) > 1
    out = cleaned.record | ({"user": (settings.users.separator or "").join(hidden)} if hidden else {})
    out |= {"user": hidden[0], "users": hidden} if listed and hidden else {}
    case = canonical(personal.pseudonym("use-case", record.get("use_case") or "", rules))
    return "", "", out | ({"use_case": case} if record.get("use_case") else {})


def left_out(name: str | None, source: str, where: str, step: str, reason: str) -> JSON:
    """A line of ``left_out.jsonl``: where the prompt stood and why it is left out, nothing of what it says."""
    return {"id": name, "source": source, "where": where, "step": step, "reason": reason}


def _write_arrays(
    shard: Shard, records: list[JSON], places: list[int], settings: CurateSettings, evaluation: str | None
) -> tuple[list[str], list[str]]:
    """What the steps over all prompts need to know of the clean ones; returns the names of their sources and use cases."""
    table = WordHashes()
    texts = [normalise(conversation(record)) for record in records]
    marks = mark(texts, settings.duplicates, table)
    users = [[hash64(name) for name in users_of(record, settings)] for record in records]
    overlap = _evaluation(evaluation).overlaps(texts, table) if evaluation else np.full(len(texts), -1)
    (source_names, source), (case_names, case) = (_coded([r.get(name) or "" for r in records]) for name in ("source", "use_case"))
    shard.save("arrays", {
        "places": np.array(places, np.int64), "exact": marks.exact, "prefix": marks.prefix, "signed": marks.signed, "bands": marks.bands,
        "users": np.array([user for mine in users for user in mine], np.uint64), "user_counts": np.array([len(u) for u in users], np.int64),
        "ids": np.array([hash64(record["id"]) for record in records], np.uint64), "overlap": overlap,
        "words": np.array([len(words(text)) for text in texts], np.int64),
        "source": source, "case": case,
        "text_ends": shard.write_texts("texts", texts), "id_ends": shard.write_texts("ids", [record["id"] for record in records]),
    })  # fmt: skip
    return source_names, case_names


def _coded(names: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The different names in order, and each name as its place among them."""
    known = sorted(set(names))
    place = {name: at for at, name in enumerate(known)}
    return known, np.array([place[name] for name in names], np.int64)


@cache
def _evaluation(path: str) -> Evaluation:
    return Evaluation.load(Path(path))


def label_shard(job: Job) -> JSON:
    """Predicts the use case of a shard's clean prompts that have none; writes ``labels``: index (-1: it has one) and probability."""
    shard = Shard(Path(job["folder"]), job["number"])
    classifier = Classifier.load(Path(job["classifier"]), job["labels"])
    records = [row["record"] for row in shard.read_lines("clean")]
    blank = [i for i, record in enumerate(records) if not record.get("use_case")]
    label, probability = np.full(len(records), -1, np.int64), np.zeros(len(records))
    if blank:
        label[blank], probability[blank] = classifier.predict([normalise(conversation(records[i])) for i in blank])
    shard.save("labels", {"label": label, "probability": probability})
    return {"rows": len(records)}


def finish_shard(job: Job) -> JSON:
    """Writes each clean prompt to its split, and all that are left out, in their order. Reads ``decided``, made by ``decide``."""
    shard = Shard(Path(job["folder"]), job["number"])
    decided, (notes,) = shard.load("decided"), shard.read_lines("notes")
    predicted = shard.load("labels") if job["labels"] else None
    places = shard.load("arrays")["places"]
    left = list(shard.read_lines("left"))
    parts: dict[str, list[JSON]] = {name: [] for name in SPLITS}
    for row, line in enumerate(shard.read_lines("clean")):
        record, fate, note = line["record"], FATES[decided["fate"][row]], notes.get(str(row), {})
        if fate == KEPT:
            if predicted is not None and predicted["label"][row] >= 0:
                case, sure = job["labels"][predicted["label"][row]], round(float(predicted["probability"][row]), 3)
                record |= {"use_case": case, "use_case_predicted": sure}
            if job["weights"] and record.get("use_case"):
                record["weight"] = round(job["weights"][record["use_case"]], 4)
            parts[SPLITS[decided["split"][row]]].append(record | note)
        else:
            why = left_out(record["id"], record["source"], line["where"], fate, job["reasons"][fate])
            left.append({"place": int(places[row]), **why, **note})
    for name in SPLITS:
        shard.write_lines(name, parts[name])
    shard.write_lines("left_out", ({k: v for k, v in r.items() if k != "place"} for r in sorted(left, key=lambda r: r["place"])))
    return {"rows": sum(map(len, parts.values())) + len(left)}
