"""What is in the village, in numbers, and one hash that changes when any of it does."""

import hashlib
import json
import re
from collections import Counter
from typing import Any

from trimtab.village.facts import RELATIONS
from trimtab.village.prompts import prompts, raw_prompts
from trimtab.village.tasks import asked, task_of
from trimtab.village.text import documents
from trimtab.village.world import SPLITS, WORLD_SEED, world

WORD = re.compile(r"[^\W\d_]+")
FINGERPRINT_DOCUMENTS = 1000


def summary(sample: int = 20_000) -> dict[str, Any]:
    """Counts for people; ``words`` and ``words_per_document`` are of the base text's first ``sample`` documents."""
    vocabulary: Counter[str] = Counter()
    for text in documents(WORLD_SEED, sample):
        vocabulary.update(WORD.findall(text.lower()))
    village = world()
    facts = Counter(RELATIONS[r].visibility for e in village.entities.values() for r in e.facts)
    return {
        "words": len(vocabulary),
        "words_per_document": round(vocabulary.total() / sample, 1),
        "entities": {
            split: {kind: len(village.of(kind, split)) for kind in ("person", "place", "event")} for split in SPLITS
        },
        "facts": dict(facts),
        "prompts": {split: _counts(split) for split in SPLITS},
        "raw_prompts": len(raw_prompts()),
        "fingerprint": fingerprint(),
    }


def _counts(split: str) -> dict[str, Any]:
    rows = prompts(split)
    wanted = [w.visibility if (w := asked(task_of(p))) else "nothing" for p in rows]
    return {
        "total": len(rows),
        "users": len({p.user for p in rows}),
        "use_case": dict(Counter(str(p.use_case) for p in rows).most_common()),
        "style": dict(Counter(str(p.extra["style"]) for p in rows).most_common()),
        "kind": dict(Counter(str(p.extra["task"]["kind"]) for p in rows).most_common()),
        "asks_for_fact": dict(Counter(wanted).most_common()),
    }


def fingerprint() -> str:
    """SHA-256 of all facts, all prompts of the three splits, and the first 1,000 documents of the base text."""
    digest = hashlib.sha256()
    for e in world().entities.values():
        digest.update(json.dumps([e.name, e.kind, e.pronoun, e.split, e.facts], sort_keys=True).encode())
    for split in SPLITS:
        for prompt in prompts(split):
            digest.update(json.dumps(prompt.to_json(), sort_keys=True).encode())
    for text in documents(WORLD_SEED, FINGERPRINT_DOCUMENTS):
        digest.update(text.encode())
    return digest.hexdigest()
