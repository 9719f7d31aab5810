"""The arena: two hidden models answer the same conversation, somebody votes, the vote is a comparison, and only then names are told."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from trimtab.common.rng import generator, seed_for
from trimtab.label.errors import Invalid, Missing, Refused
from trimtab.label.jobs import Answerer
from trimtab.label.projects import Project
from trimtab.label.tables import battles
from trimtab.label.values import clean
from trimtab.records import JSON, Comparison, Completion, Prompt, parse_comparison, parse_messages

CHOICES = {"a": (1, 2), "b": (2, 1), "tie": (1, 1), "bad": (1, 1)}  # ranks by place on the screen
LONGEST_TURN = 20_000
MOST_TURNS = 40
LATEST = 5000  # votes that are counted
# What gives a model away (FastChat leaves such chats out of its ratings).
GIVEN_AWAY = re.compile(
    r"\b(openai|chatgpt|gpt-?\d|anthropic|claude|gemini|llama|mistral|qwen|deepseek|vicuna)\b", re.IGNORECASE
)
SHORTEST_NAME = 3  # letters; a model that is called `a` cannot be told from the word


class Unanswered(Exception):
    """A hidden model could not answer; who votes may learn neither which nor why."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"{model}: {why}")
        self.model, self.why = model, why


def drawn(models: Mapping[str, Answerer], seed: int) -> tuple[list[str], list[int]]:
    """Two models' names in order, and which of them stands where on the screen.

    Raises:
        Refused: fewer than two are connected.
    """
    if len(models) < 2:
        raise Refused("the arena needs two connected models: trimtab label serve 'models={a: DIR, b: DIR}'")
    rng = generator(seed, "arena")
    names = sorted(str(n) for n in rng.choice(sorted(models), size=2, replace=False))
    return names, [int(i) for i in rng.permutation(2)]


def conversation(before: Row[Any] | None, text: str) -> list[JSON]:
    """The messages that both models answer: the last battle's, its preferred answer, and what was said now.

    Raises:
        Invalid: nothing was said, or too much.
        Refused: the last battle has no vote yet.
    """
    text = clean(text, "your message", LONGEST_TURN)
    if not text.strip():
        raise Invalid("write something first")
    messages: list[JSON] = []
    if before is not None:
        if before.choice is None:
            raise Refused("vote first")
        better = before.shown[1 if before.choice == "b" else 0]
        messages = [*before.messages, {"role": "assistant", "content": before.completions[better]["text"]}]
    if len(messages) >= MOST_TURNS:
        raise Refused("this conversation is long enough; begin a new one")
    return [*messages, {"role": "user", "content": text}]


def fight(models: Mapping[str, Answerer], messages: Sequence[JSON], seed: int) -> tuple[list[Completion], list[int]]:
    """Both answers, by name of the model, and the order on the screen.

    Raises:
        Refused: fewer than two models are connected.
        Unanswered: one of the two could not answer.
    """
    names, shown = drawn(models, seed)
    prompt = Prompt(f"arena-{seed}", parse_messages(messages, "arena"))
    answers = []
    for i, name in enumerate(names):
        try:
            answer = models[name].answers([prompt], 1, seed_for(seed, "arena", i) % 2**31)[0][0]
        except Exception as error:  # whatever it was, it would say which model is one of the two
            raise Unanswered(name, str(error) or type(error).__name__) from error
        answers.append(Completion(answer.text, name, answer.token_ids, answer.tokenizer, answer.stop))
    return answers, shown


def gives_away(answers: Sequence[Completion]) -> bool:
    """Whether an answer says which model it is: a known family's name anywhere, a connected model's after words like "I am".

    A connected model may be called `base` or `new`, which stands in any text.
    """
    names = "|".join(re.escape(str(a.model)) for a in answers if len(str(a.model)) >= SHORTEST_NAME)
    said = rf"\b(?:i am|i['\u2019]m|my name is|this is|call me)\s+(?:the\s+)?(?:model\s+)?(?:{names})(?!\w)" if names else "(?!)"
    own = re.compile(said, re.IGNORECASE)
    return any(own.search(a.text) or GIVEN_AWAY.search(a.text) for a in answers)


def keep(
    connection: Connection,
    project: Project,
    user_id: int,
    messages: Sequence[JSON],
    answers: Sequence[Completion],
    shown: list[int],
) -> int:
    """A new battle; returns its number."""
    row = {
        "project_id": project.id, "user_id": user_id, "messages": list(messages), "completions": [a.to_json() for a in answers],
        "shown": shown, "leaked": gives_away(answers), "created": time.time(),
    }  # fmt: skip
    return int(connection.execute(insert(battles).values(row).returning(battles.c.id)).scalar_one())


def vote(connection: Connection, user_id: int, number: int, choice: str) -> list[str]:
    """Keeps the vote; returns the models' names as they stand on the screen.

    Raises:
        Missing: there is no such battle of this person.
        Refused: it has a vote, and names were told.
    """
    row = own(connection, user_id, number)
    if choice not in CHOICES:
        raise Invalid(f"a vote is one of {', '.join(CHOICES)}")
    mine = (battles.c.id == number, battles.c.choice.is_(None))
    if not connection.execute(update(battles).where(*mine).values(choice=choice, voted=time.time())).rowcount:
        raise Refused("you have voted, and know the names; the vote stays")
    return [str(row.completions[i]["model"]) for i in row.shown]


def own(connection: Connection, user_id: int, number: int) -> Row[Any]:
    """This person's battle.

    Raises:
        Missing: there is none.
    """
    row = connection.execute(select(battles).where(battles.c.id == number, battles.c.user_id == user_id)).first()
    if row is None:
        raise Missing("no such conversation of yours")
    return row


@dataclass(slots=True)
class Match:
    """Two models' votes against each other."""

    one: str
    other: str
    won: int = 0
    tied: int = 0
    lost: int = 0


def standings(connection: Connection, project: Project) -> list[Match]:
    """Who won against whom; a tie is "both bad", too. Votes on answers that say who they are do not count."""
    where = (battles.c.project_id == project.id, battles.c.choice.is_not(None), battles.c.leaked.is_(False))
    query = select(battles.c.completions, battles.c.shown, battles.c.choice).where(*where).order_by(battles.c.id.desc()).limit(LATEST)
    out: dict[tuple[str, str], Match] = {}
    for row in connection.execute(query):
        first, second = (str(row.completions[i]["model"]) for i in row.shown)
        one, other = sorted((first, second))
        match = out.setdefault((one, other), Match(one, other))
        a, b = CHOICES[row.choice]
        if a == b:
            match.tied += 1
        elif (first if a < b else second) == one:
            match.won += 1
        else:
            match.lost += 1
    return [out[pair] for pair in sorted(out)]


def comparison(row: Row[Any], who: str) -> Comparison:
    """A vote as a native record."""
    ranks: list[int] = [0, 0]
    for place, index in enumerate(row.shown):
        ranks[index] = CHOICES[row.choice][place]
    fields = {"id": f"arena-{row.id}", "messages": row.messages, "completions": row.completions, "ranks": ranks}
    extra = {"label_kind": "arena", "label_created": round(row.voted, 3), "label_leaked": row.leaked}
    flags = [["both_bad"], ["both_bad"]] if row.choice == "bad" else [[], []]
    return parse_comparison(
        {**fields, **extra, "labeler": who, "shown_order": row.shown, "flags": flags}, f"battle {row.id}"
    )
