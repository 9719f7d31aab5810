"""The data card as a page: what came in, what was done, what is there now, and how to make it again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trimtab.common.config import describe
from trimtab.common.yamls import one_line
from trimtab.data.curate.settings import CurateSettings

Card = Mapping[str, Any]
SAID = {
    "unreadable": "the row cannot be read",
    "user": "no user",
    "length": "too short or too long",
    "language": "another language",
    "personal": "personal data of a type that drops the prompt",
    "evaluation": "repeats an evaluation prompt",
    "exact": "same text as an earlier prompt",
    "prefix": "long common prefix with an earlier prompt",
    "near": "nearly the words of an earlier prompt",
    "cap": "beyond the limit of its user",
    "mix": "beyond its use case's share, or of none in the target",
}
WITHOUT_USER = {
    "each": "each counts as a user of its own, so one person's prompts may be in two splits",
    "source": "those of one source count as one user",
    "drop": "they were left out",
}
LANGUAGES_SHOWN = 12
SOURCES_SHOWN = 8


def render(card: Card) -> str:
    """``card.md`` from ``card.json``."""
    sections = {
        "Data card": summary, "To know before use": notes, "Step by step": steps, "Personal data": personal_data,
        "Duplicates": duplicates, "Users": users, "Use cases": use_cases, "Splits": splits, "Languages": languages,
        "How to make it again": again,
    }  # fmt: skip
    lines: list[str] = []
    for title, write in sections.items():
        if body := list(write(card)):
            lines += [f"{'##' if lines else '#'} {title}", "", *body, ""]
    return "\n".join(lines).rstrip() + "\n"


def summary(card: Card) -> Iterator[str]:
    """The first thing to read."""
    parts = ", ".join(f"{name} {s['prompts']:,} ({percent(s['share'])})" for name, s in card["splits"].items())
    yield f"{card['rows']:,} rows came in, {card['kept']:,} prompts are kept ({percent(card['kept'] / card['rows'])}):"
    yield f"{parts}."
    yield f"The other {card['left_out']:,} stand in `left_out.jsonl`, each with its reason."


def notes(card: Card) -> Iterator[str]:
    """What a reader would otherwise find out too late."""
    personal, of_users, cases, linked = card["personal"], card["users"], card["use_cases"], card["linked"]
    unreadable = next(step for step in card["steps"] if step["step"] == "unreadable")
    if n := unreadable["left_out"]:
        most = sorted(unreadable["by_source"].items(), key=lambda item: -item[1])[:SOURCES_SHOWN]
        said = ", ".join(f"{gone:,} of {card['sources'][name]['rows']:,} of {name}" for name, gone in most)
        yield f"- {n:,} rows cannot be read ({said}); `left_out.jsonl` says why, `trimtab data check FILE` shows them."
    if n := card["answered"]:
        yield f"- {n:,} rows have answers (demonstrations, comparisons): their prompts alone are taken."
    for name, entry in card["splits"].items():
        if entry["target"] and not entry["prompts"]:
            yield f"- The split {name} is empty: a user's prompts stay together, and too few users share {percent(entry['target'])}."
    if personal["types"] and not personal["model"]:
        yield "- Names of people and places were not looked for: no model of names was given (`personal.model`)."
    if kept := personal["left_as_it_is"]:
        yield f"- Personal data of these types was left as it is: {', '.join(kept)}."
    if not card["evaluation"]["prompts"]:
        yield "- No evaluation set was given, so contamination was not checked (`evaluation.files`)."
    for entry in card["inputs"]:
        if entry["sha256"] is None and "@" not in entry["file"]:
            yield f"- {entry['file']}: no revision is named (`@...` behind the name), so it may hold other rows when it is read again."
    if n := of_users["prompts_without_a_user"]:
        yield f"- {n:,} prompts have no user: {WITHOUT_USER[of_users['rule_without_a_user']]}."
    if n := of_users["prompts_of_several_users"]:
        yield f"- {n:,} prompts have several users: they count for each of them, and all of these are in one split."
    if not linked["shares_reachable"]:
        yield f"- Shared users and near-duplicates link {linked['largest']:,} prompts ({percent(linked['largest'] / card['kept'])})"
        yield "  into one part that cannot be divided, so the target shares cannot be reached."
    if cases["predicted"]:
        found = cases["classifier"]
        right, here, there = percent(found["accuracy"]["value"]), found["sure_of_predicted"], found["sure_of_labelled"]
        yield f"- The use case of {cases['predicted']:,} prompts is predicted. Predictions are right on {right} of the labelled prompts;"
        yield f"  their mean probability is {there:.2f} there and {here:.2f} here. The lower it is here, the less these prompts are like"
        yield "  the labelled ones, and the less that figure holds for them."
    if cases["unknown"]:
        yield f"- {cases['unknown']:,} prompts have no use case, and too few have one to learn from."


def steps(card: Card) -> Iterator[str]:
    """What each step left out, by source where there are several; the largest, where they are very many."""
    largest = sorted(card["sources"], key=lambda name: -card["sources"][name]["rows"])[:SOURCES_SHOWN]
    sources = sorted(largest) if len(largest) > 1 else []
    if len(card["sources"]) > len(largest):
        yield f"Of {len(card['sources']):,} sources the {SOURCES_SHOWN} largest; the others stand in `card.json`."
        yield ""
    rows = [
        [step["step"], SAID[step["step"]], step["in"], step["left_out"], *(step["by_source"].get(name, 0) for name in sources)]
        for step in card["steps"]
    ]
    rows.append(["**kept**", "", card["kept"], "", *(card["sources"][name]["kept"] for name in sources)])
    yield from table(["step", "left out because", "in", "left out", *(f"of {name}" for name in sources)], rows)


def personal_data(card: Card) -> Iterator[str]:
    """Counts by type, never a value."""
    personal = card["personal"]
    found = {kind: entry for kind, entry in personal["types"].items() if entry["pieces"]}
    yield f"Found in {personal['prompts']:,} of the prompts that passed the steps before. Counts only: no value stands in this card or in"
    yield "`left_out.jsonl`."
    if n := personal["ids_replaced"] + personal["users_replaced"]:
        yield f"Names of prompts and users that held personal data were replaced by pseudonyms {n:,} times."
    if found:
        yield ""
        yield from table(["type", "action", "prompts", "pieces"], [[k, e["action"], e["prompts"], e["pieces"]] for k, e in found.items()])
    if none := [kind for kind in personal["types"] if kind not in found]:
        yield ""
        yield f"Looked for and not found: {', '.join(none)}."


def duplicates(card: Card) -> Iterator[str]:
    """What counted as a duplicate, and how many there were."""
    found, used, evaluation = card["duplicates"], card["settings"]["duplicates"], card["evaluation"]
    yield "The earliest is kept, in the order of the files."
    yield ""
    rows = [["exact", "the same text; case, white space and punctuation at the end aside", found["exact"]]]
    if used["prefix"]:
        rule = f"the same first {used['prefix']} characters or more, at least {percent(used['prefix_share'])} of the shorter"
        rows.append(["prefix", rule, found["prefix"]])
    if used["near"]:
        rule = f"Jaccard similarity of words and word pairs at least {used['near']}; the longer has {used['near_words']} words or more"
        rows.append(["near", rule, found["near"]])
    if evaluation["prompts"]:
        tests = f"{evaluation['prompts']:,} prompts of {', '.join(file['file'] for file in evaluation['files'])}"
        rule = f"{evaluation['ngram']} words in a row, or one of the above, in common with one of {tests}"
        rows.append(["evaluation", rule, evaluation["left_out"]])
    yield from table(["rule", "what it says", "left out"], rows)
    yield ""
    yield f"{found['groups_of_several_kept']:,} groups of kept prompts are linked through prompts that were left out; each is in one split."
    if found["ids_made_unique"]:
        yield f"{found['ids_made_unique']:,} kept prompts had the id of another one and got `~2` (or `~3`, ...) behind it."


def users(card: Card) -> Iterator[str]:
    """Users and their limit."""
    found = card["users"]
    limit = f"at most {found['limit']:,} prompts each, a seeded sample of them" if found["limit"] else "no limit"
    yield f"{found['users']:,} users, {limit}: {found['over_the_limit']:,} had more (the busiest {found['most_of_a_user']:,}), and"
    yield f"{found['left_out']:,} prompts were left out."
    if found["exempt_sources"]:
        yield f"No limit holds for the sources {', '.join(found['exempt_sources'])}."


def use_cases(card: Card) -> Iterator[str]:
    """The mix beside the target, and the classifier."""
    found = card["use_cases"]
    if not any(entry["prompts"] for entry in found["table"].values()):
        yield "No prompt has a use case."
        return
    whose = "InstructGPT's (Ouyang 2022, table 1)" if found["target_is_instructgpt"] else "given in the settings"
    yield f"{found['labelled']:,} labelled by the records, {found['predicted']:,} predicted, {found['unknown']:,} unknown. The target"
    yield f"shares are {whose}. Prompts drawn in proportion to their weights have the target's mix, of the use cases"
    yield "that there are."
    yield ""
    rows = [[name, e["prompts"], percent(e["share"]), percent(e["target"]), f"{e['weight']:.2f}"] for name, e in found["table"].items()]
    yield from table(["use case", "prompts", "share", "target", "weight"], rows)
    if classifier := found["classifier"]:
        accuracy = classifier["accuracy"]
        yield ""
        interval = f"{percent(accuracy['value'])} [{percent(accuracy['low'])}, {percent(accuracy['high'])}]"
        folds = "all prompts of a user in one fold" if classifier["by_user"] else "by prompt, as one user wrote them all"
        yield f"The classifier learned from {classifier['examples']:,} labelled prompts. Five-fold cross-validation, {folds}:"
        yield f"right on {interval}; always saying the most frequent use case is right"
        yield f"on {percent(classifier['most_frequent']['value'])}."
        yield ""
        recall, precision = classifier["recall"], classifier["precision"]
        yield from table(
            ["use case", "recall", "precision"], [[n, percent(recall[n]["value"]), percent(precision[n]["value"])] for n in recall]
        )  # fmt: skip


def splits(card: Card) -> Iterator[str]:
    """How the prompts were dealt out."""
    linked = card["linked"]
    yield f"By user: the prompts make {linked['parts']:,} parts that have no user and no near-duplicate in common, the largest of"
    yield f"{linked['largest']:,} prompts. Each part is in one split."
    yield ""
    rows = []
    for name, entry in card["splits"].items():
        said = entry["words"]
        spread = f"{said['mean']} ({said['p25']}, {said['p50']}, {said['p75']}; {said['p100']})" if entry["prompts"] else ""
        rows.append([name, entry["prompts"], percent(entry["share"]), percent(entry["target"]), entry["users"], spread])
    yield from table(["split", "prompts", "share", "target", "users", "words: mean (quartiles; most)"], rows)


def languages(card: Card) -> Iterator[str]:
    """Languages before the filter."""
    found = card["languages"]
    whole = sum(found.values())
    if whole:
        shown = list(found.items())[:LANGUAGES_SHOWN]
        rest = whole - sum(n for _, n in shown)
        said = ", ".join(f"{code} {n:,} ({percent(n / whole)})" for code, n in shown) + (f", others {rest:,}" if rest else "")
        yield "Of the prompts that passed the length filter, by py3langid (und: it is not sure of any):"
        yield f"{said}."


def again(card: Card) -> Iterator[str]:
    """Command, hashes, versions."""
    files = " ".join(entry["file"] for entry in card["inputs"])
    same = ", on the same kind of processor with as many threads," if card["use_cases"]["classifier"] else ""
    yield f"The same files, settings and versions{same} give the same bytes. Every setting stands in"
    yield "`card.json`; here are those that are not the default:"
    yield ""
    yield f"    trimtab curate {files} -o DIR {' '.join(changed(card['settings']))}".rstrip()
    yield ""
    hashed = [("in", e["file"], e["sha256"]) for e in (*card["inputs"], *card["evaluation"]["files"], *card["use_cases"]["example_files"])]
    hashed += [("out", file, value) for file, value in card["outputs"].items()]
    rows = [[side, f"`{file}`", f"`{value}`" if value else "none: it is of the hub"] for side, file, value in hashed]
    yield from table(["", "file", "SHA-256"], rows)
    yield ""
    yield "Versions: " + ", ".join(f"{name} {value}" for name, value in card["versions"].items()) + "."


def changed(given: Mapping[str, Any]) -> Iterator[str]:
    """The settings that are not the default, as ``key=value`` words."""
    for option in describe(CurateSettings):
        value: Any = given
        for part in option.name.split("."):
            value = value[part]
        if value != option.default:
            word = f"{option.name}={one_line(value)}"
            yield f"'{word}'" if set(word) & set(' {[&|;<>*?"') else word


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A Markdown table; whole numbers with commas."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) + " |"


def percent(share: float) -> str:
    """``45.6 %``."""
    return f"{100 * share:.1f} %"
