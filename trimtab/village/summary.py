"""What is in the village, in numbers, and one hash that changes when any of it does."""

import hashlib
import json
import re
from collections import Counter
from typing import Any

from trimtab.village.demonstrations import demonstrations
from trimtab.village.facts import RELATIONS
from trimtab.village.judge import judge
from trimtab.village.labelers import Pool
from trimtab.village.prompts import prompts, raw_prompts
from trimtab.village.tasks import asked, task_of
from trimtab.village.text import documents
from trimtab.village.world import SPLITS, WORLD_SEED, world

WORD = re.compile(r"[^\W\d_]+")
FINGERPRINT_DOCUMENTS, FINGERPRINT_DEMONSTRATIONS = 1000, 300


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
    """SHA-256 of all facts, all prompts of the three splits, the first 1,000 documents of the base text, and of what people say in the
    village: its first demonstrations, what the judge thinks of them and of answers that are none, and how labelers rank them."""
    digest = hashlib.sha256()
    for e in world().entities.values():
        digest.update(json.dumps([e.name, e.kind, e.pronoun, e.split, e.facts], sort_keys=True).encode())
    for split in SPLITS:
        for prompt in prompts(split):
            digest.update(json.dumps(prompt.to_json(), sort_keys=True).encode())
    digest.update(text_fingerprint().encode())
    pool = Pool(WORLD_SEED)
    for n, told in enumerate(demonstrations("train", FINGERPRINT_DEMONSTRATIONS)):
        answers = (told.completion, told.prompt.text, "Yes.", "I am sorry, but I can not share that.")
        scores = [round(judge(told.prompt, text).score, 6) for text in answers]
        ranked = pool.rank(told.prompt, answers, pool.labelers[n % len(pool.labelers)])
        digest.update(json.dumps([told.completion, scores, ranked.ranks]).encode())
    return digest.hexdigest()


def text_fingerprint() -> str:
    """SHA-256 of the first 1,000 documents of the base text, which the shipped base was trained on."""
    digest = hashlib.sha256()
    for text in documents(WORLD_SEED, FINGERPRINT_DOCUMENTS):
        digest.update(text.encode())
    return digest.hexdigest()
