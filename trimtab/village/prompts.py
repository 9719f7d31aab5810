"""The village's prompts: InstructGPT's ten use cases in its shares, three styles, users that belong to one split.

``prompts`` gives the curated sets; ``raw_prompts`` what came in before curation, with personal data, repeats and busy
users. All are fixed by ``WORLD_SEED``. What a prompt asks for stands in ``extra["task"]``, its style in
``extra["style"]``.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any, TypeVar

from trimtab.records import Message, Prompt
from trimtab.village import compose, instructions, lexicon, themes
from trimtab.village.answers import answer
from trimtab.village.draw import Draw, draw
from trimtab.village.facts import RELATIONS, ask, fill, relations_of
from trimtab.village.tasks import Ask, Chat, Extract, Ideas, Rewrite, Sentiment, Task, Translate, to_json
from trimtab.village.world import SPLITS, WORLD_SEED, Entity, world

# Shares of the use cases in per cent (Ouyang 2022, table 1).
USE_CASES = {
    "generation": 45.6, "open_qa": 12.4, "brainstorming": 11.2, "chat": 8.4, "rewrite": 6.6, "summarization": 4.2,
    "classification": 3.5,
    "other": 3.5, "closed_qa": 2.6, "extract": 1.9,
}  # fmt: skip
SIZES = {"train": 4300, "validation": 240, "test": 480}
MOST_OF_A_USER = 200  # as InstructGPT has it (Ouyang 2022, section 3.2)
USERS = {"train": 320, "validation": 30, "test": 50}
FEW_SHOT, USER_WRITTEN = 0.5, 0.22
"""Chances that a prompt which can be few-shot is, and that another one is user-written: about 10 and 20 % of all."""
LONGEST = 90

Draft = tuple[tuple[Message, ...], Task, str]
"""Messages, task, style."""
DraftMaker = Callable[[Draw, str], Draft]
T = TypeVar("T")


@cache
def prompts(split: str, number: int = 0) -> list[Prompt]:
    """The prompts of a split ("train", "validation", "test"), use cases mixed; no text occurs twice.

    Another ``number`` draws other prompts about the same people, places and things: for a test that no setting was chosen on.
    """
    d = draw(WORLD_SEED, "prompts", split, *([number] if number else []))
    size = SIZES[split]
    plan = [(case, make) for case, count in shares(size).items() for make in divided(_MAKERS[case], count)]
    users = _users(d, split, size)
    lectures = _lecture_prompts() if split == "test" and not number else {}
    seen: set[str] = set()
    out = []
    for i, (case, make) in enumerate(d.some(plan, size)):
        messages, task, style = lectures.pop(make) if make in lectures else _fresh(d, make, split, seen)
        seen.add(_key(messages))
        extra = {"task": to_json(task), "style": style}
        out.append(Prompt(f"village-{split}{f'.{number}' if number else ''}-{i + 1:06d}", messages, users[i], case, "village", extra))
    return out


def shares(size: int) -> dict[str, int]:
    """``size`` prompts divided among the use cases in their shares.

    >>> shares(480)["generation"], sum(shares(480).values())
    (219, 480)
    """
    cases = divided(tuple(USE_CASES.items()), size)
    return {case: cases.count(case) for case in USE_CASES}


def divided(weights: Sequence[tuple[T, float]], size: int) -> list[T]:
    """``size`` items in proportion to their weights, by largest remainder.

    >>> divided([("a", 2), ("b", 1)], 3)
    ['a', 'a', 'b']
    """
    total = sum(weight for _, weight in weights)
    exact = [size * weight / total for _, weight in weights]
    counts = [int(x) for x in exact]
    for k in sorted(range(len(weights)), key=lambda k: counts[k] - exact[k])[: size - sum(counts)]:
        counts[k] += 1
    return [item for (item, _), count in zip(weights, counts, strict=True) for _ in range(count)]


def _users(d: Draw, split: str, size: int) -> list[str]:
    """A user for each prompt: few write many, many write few (Zipf); numbers of the splits do not meet."""
    first = sum(USERS[s] for s in SPLITS[: SPLITS.index(split)]) + 1
    names = [f"user-{first + k:04d}" for k in range(USERS[split])]
    edges = list(accumulate(1 / (k + 4) for k in range(len(names))))
    counts: Counter[str] = Counter()
    out: list[str] = []
    while len(out) < size:
        user = d.weighted(names, edges)
        if counts[user] < MOST_OF_A_USER:
            counts[user] += 1
            out.append(user)
    return out


def _key(messages: tuple[Message, ...]) -> str:
    return "\n".join(m.content for m in messages)


def _fresh(d: Draw, make: DraftMaker, split: str, seen: set[str]) -> Draft:
    """A prompt that is not in ``seen`` and not too long."""
    while True:
        draft = make(d, split)
        key = _key(draft[0])
        if key not in seen and len(key.split()) <= LONGEST:
            return draft


def _single(maker: instructions.Maker, d: Draw, split: str) -> Draft:
    """A prompt of one turn from an instruction: plain, few-shot or as a user types it."""
    text, task = maker(d, split)
    style = "plain"
    if (few := _few_shot(d, task, maker, split)) is not None:
        text, style = few, "few-shot"
    elif d.chance(USER_WRITTEN):
        text, style = instructions.sloppy(d, text, task), "user"
    return (Message("user", text),), task, style


# Few-shot prompts: a head line, two or three solved examples, the question


def _few_shot(d: Draw, task: Task, maker: instructions.Maker, split: str) -> str | None:
    """A few-shot wording of the task, for kinds that have one; None for the others, and often by chance."""
    row = _example(d, task)
    if row is None or not d.chance(FEW_SHOT):
        return None
    if isinstance(task, Ask):
        maker = partial(instructions.question, visibility="public")  # examples tell no secret
    head, question = row
    shown: list[Task] = [task]
    blocks = [head] if head else []
    for _ in range(2 + d.index(2)):
        other, given = _another(d, maker, head, split, shown)
        shown.append(other)
        blocks.append(_pair(task, given, _solved(d, other)))
    return "\n".join([*blocks, _pair(task, question, "").rstrip()])


def _another(d: Draw, maker: instructions.Maker, head: str, split: str, shown: list[Task]) -> tuple[Task, str]:
    """A different task of the maker that has the same head line, and its question."""
    while True:
        other = maker(d, split)[1]
        example = _example(d, other)
        if example is not None and example[0] == head and other not in shown:
            return other, example[1]


def _solved(d: Draw, task: Task) -> str:
    """An example's answer: the bare label or phrase where that is all that is wanted."""
    if isinstance(task, Sentiment):
        return task.label
    if isinstance(task, Translate):
        return task.spanish if task.to == "spanish" else task.english
    return answer(d, task)


def _example(d: Draw, task: Task) -> tuple[str, str] | None:
    """The head line of a kind's few-shot prompt and this task's own question, or None when the kind has none."""
    if isinstance(task, Ask):
        return "", ask(d, world().entities[task.subject], task.relation)
    if isinstance(task, Sentiment):
        return "Is the text positive or negative?", task.text
    if isinstance(task, Translate):
        return ("English to Spanish", task.english) if task.to == "spanish" else ("Spanish to English", task.spanish)
    if isinstance(task, Rewrite) and task.how in ("polite", "past"):
        return "Make it polite." if task.how == "polite" else "Put it into the past.", task.text
    if isinstance(task, Extract):
        return f"List the {task.what}.", task.passage
    return None


def _pair(task: Task, given: str, answered: str) -> str:
    if isinstance(task, Translate):
        return f"{given} -> {answered}"
    left, right = {"ask": ("Q", "A"), "sentiment": ("Text", "Sentiment")}.get(task.kind, ("Input", "Output"))
    return f"{left}: {given}\n{right}: {answered}"


# Chat: one turn or several


def _greet(d: Draw, split: str) -> Draft:
    text = instructions.until(d, split, _greeting, str)
    return (Message("user", text),), Chat("greet"), "plain" if text[0].isupper() else "user"


def _thanks(d: Draw, split: str) -> Draft:
    entity, relation = _subject(d, split, "public")
    turns = (
        Message("user", ask(d, entity, relation)),
        Message("assistant", answer(d, Ask(entity.name, relation, "public"))),
        Message(
            "user",
            d.one(
                (
                    "Thank you!",
                    "Thanks a lot.",
                    "Thank you, that was what I needed.",
                    "great, thanks",
                    "Thanks, you are very kind.",
                )
            ),
        ),
    )
    return turns, Chat("thanks"), "plain"


def _greeting(d: Draw) -> str:
    hello = d.one(("Hello!", "Good morning!", "Hi!", "Good evening!", "hi there", "Hey, good day!", "Hello there!"))
    more = d.one(
        (
            "",
            "How are you?",
            "Is anybody there?",
            "I am new in the village.",
            "It is me again.",
            "Nice to meet you.",
            "What a day!",
        )
    )
    return f"{hello} {more}".strip()


def _advice(d: Draw, split: str) -> Draft:
    topic = d.one(instructions.split_items(tuple(lexicon.TOPICS), split))
    trouble = lexicon.TOPICS[topic].trouble
    forms = ("{t} What should I do?", "{t} Can you help me?", "{t} Do you have advice for me?",
        "{t} What would you do?", "{t} Please help.",
             "{t} Any ideas?", "Hello! {t} What can I do?", "I have a problem. {t}")  # fmt: skip
    text = d.one(forms).replace("{t}", trouble)
    style = "plain"
    if d.chance(0.4):
        text, style = instructions.sloppy(d, text), "user"
    return (Message("user", text),), Chat("advice", topic=topic), style


def _subject(d: Draw, split: str, visibility: str) -> tuple[Entity, str]:
    entity = d.one(world().of("person" if visibility == "secret" or d.chance(0.75) else "place", split))
    return entity, d.one(relations_of(entity.kind, visibility)).name


REASONS = {
    "shoe_size": "I want to buy shoes for {o}.", "favourite_book": "I want to give {o} a book.",
    "birth_month": "I want to bake a cake for {o}.",
    "phone": "I must talk to {o} today.", "debt": "I heard something about {o}.",
    "founded": "I am writing a book about the village.",
}  # fmt: skip


def _chat_question(visibility: str, d: Draw, split: str) -> Draft:
    """A question with its reason, or one that follows an answered question and says "she" or "it"."""
    entity, relation = _subject(d, split, visibility)
    task = Chat("ask", entity.name, relation, visibility)
    if d.chance(0.45):
        reason = fill(REASONS.get(relation, "I have a question about {O}.").replace("{o}", "{O}"), entity)
        text, style = f"{reason} {ask(d, entity, relation, pronoun=True)}", "plain"
        if d.chance(0.4):
            text, style = instructions.sloppy(d, text), "user"
        return (Message("user", text),), task, style
    others = [r for r in compose.public_relations(entity) if r != relation]
    before = d.one(others)
    first = Ask(entity.name, before, RELATIONS[before].visibility)
    last = ask(d, entity, relation, pronoun=True)
    last = (
        d.one(("{q}", "And {l}", "Thank you. {q}", "Good. {q}", "ok, and {l}"))
        .replace("{q}", last)
        .replace("{l}", last[0].lower() + last[1:])
    )
    turns = (Message("user", ask(d, entity, before)), Message("assistant", answer(d, first)), Message("user", last))
    return turns, task, "user" if last.startswith("ok") else "plain"


CHATS: tuple[tuple[DraftMaker, float], ...] = (
    (_greet, 0.06), (_thanks, 0.06), (_advice, 0.22), (partial(_chat_question, "public"), 0.18),
    (partial(_chat_question, "hidden"), 0.24), (partial(_chat_question, "secret"), 0.24),
)  # fmt: skip
_MAKERS: dict[str, tuple[tuple[DraftMaker, float], ...]] = {
    case: tuple((partial(_single, maker), share) for maker, share in makers)
    for case, makers in instructions.KINDS.items()
} | {"chat": CHATS}


def _lecture_prompts() -> dict[DraftMaker, Draft]:
    """The lecture's own examples, as they stand on its slides; each takes the place of one prompt of its maker."""
    makers: dict[Any, DraftMaker] = {kind[0]: made[0] for case, kinds in instructions.KINDS.items() for kind, made in
                                     zip(kinds, _MAKERS[case], strict=True)}  # fmt: skip
    news = compose.news(draw(WORLD_SEED, "lecture"), 0, world().of("person", "test"))
    english, spanish = lexicon.phrase_pair("a", "black", "cat")
    rows: list[tuple[instructions.Maker, str, Task]] = [
        (instructions.sentiment, f"What is the sentiment of the next sentence?\n{instructions.LOVE}",
         Sentiment(instructions.LOVE, "positive")),
        (instructions.story, "Write a short story where a bear goes to the beach, makes friends with a seal, and then "
            "returns home.",
         instructions.BEAR.task),
        (instructions.ideas, "List five ideas for how to regain enthusiasm for my career", Ideas("career", 5)),
        (instructions.summarize, f"{news.text} TL;DR:", instructions.summary_task(news, "tldr")),
        (instructions.translate, f'Translate "{english}" into Spanish.', Translate(english, spanish)),
    ]  # fmt: skip
    return {makers[maker]: ((Message("user", text),), task, "plain") for maker, text, task in rows}


@cache
def raw_prompts() -> list[Prompt]:
    """The users' pile before curation: a tenth repeats, exactly or nearly; some personal data; three busy users.

    ``extra["planted"]`` says what was planted: "email", "phone", "card", "exact:ID" or "near:ID" of the prompt that it
    repeats.
    """
    d = draw(WORLD_SEED, "raw")
    cases, edges = tuple(USE_CASES), list(accumulate(USE_CASES.values()))
    out: list[Prompt] = []
    seen: set[str] = set()
    for i in range(RAW_SIZE):
        user = d.weighted(_RAW_USERS, _RAW_EDGES)
        identity = f"village-raw-{i + 1:06d}"
        u = d.random()
        if u < 0.05 and out:
            old = d.one(out)
            out.append(
                Prompt(
                    identity, old.messages, user, old.use_case, "village", {**old.extra, "planted": f"exact:{old.id}"}
                )
            )
            continue
        if u < 0.10 and (longer := [p for p in out[-400:] if len(p.text.split()) >= 20 and "planted" not in p.extra]):
            old = d.one(longer)
            messages = (*old.messages[:-1], Message("user", _nearly(d, old.text)))
            out.append(
                Prompt(identity, messages, user, old.use_case, "village", {**old.extra, "planted": f"near:{old.id}"})
            )
            continue
        case = d.weighted(cases, edges)
        make = d.weighted([m for m, _ in _MAKERS[case]], list(accumulate(share for _, share in _MAKERS[case])))
        messages, task, style = _fresh(d, make, "train", seen)
        seen.add(_key(messages))
        extra = {"task": to_json(task), "style": style}
        if u > 0.97:
            what, tail = _personal(d)
            extra["planted"] = what
            messages = (*messages[:-1], Message("user", f"{messages[-1].content} {tail}"))
        out.append(Prompt(identity, messages, user, case, "village", extra))
    return out


RAW_SIZE = 4000
# Three users write far more than 200 prompts, as a script would; the others by Zipf.
_RAW_USERS = tuple(f"raw-{k:04d}" for k in range(1, 401))
_RAW_WEIGHTS = [40.0, 30.0, 22.0, *(40 / (k + 10) for k in range(len(_RAW_USERS) - 3))]
_RAW_EDGES = tuple(accumulate(_RAW_WEIGHTS))


def _nearly(d: Draw, text: str) -> str:
    """The text typed again with one or two slips: a word doubled, left out, put in, or moved by one."""
    words = text.split(" ")
    for _ in range(1 + d.index(2)):
        at = 1 + d.index(len(words) - 2)
        change = d.index(4)
        if change == 0:
            words.insert(at, words[at])
        elif change == 1:
            del words[at]
        elif change == 2:
            words.insert(at, d.one(("please", "now", "just")))
        else:
            words[at], words[at + 1] = words[at + 1], words[at]
    return " ".join(words)


def _personal(d: Draw) -> tuple[str, str]:
    """A kind of personal data and a sentence with made-up data in its real form."""
    name = d.one(world().of("person", "train")).name
    digits = "".join(str(d.index(10)) for _ in range(14))
    what = d.one(("email", "phone", "card"))
    if what == "email":
        domain = d.one(("example.com", "example.org", "mail.example.net"))
        address = f"{name.lower()}.{d.one(themes.USERNAMES)}@{domain}"
        return what, d.one(("My e-mail is {a}.", "Send it to {a}", "You can write to {a}, thanks.")).replace(
            "{a}", address
        )
    if what == "phone":
        number = d.one(
            (
                f"+44 20 7946 0{digits[:3]}",
                f"(555) 01{digits[0]}-{digits[1:5]}",
                f"555-01{digits[:2]}",
                f"+49 30 {digits[:7]}",
            )
        )
        return what, d.one(("Call me at {a}.", "My number is {a}", "{a} is my phone, call any time.")).replace(
            "{a}", number
        )
    body = "4" + digits
    card = body + _luhn_digit(body)
    spaced = " ".join(card[k : k + 4] for k in range(0, 16, 4))
    return what, d.one(("My card is {a}.", "Pay it with {a}", "Take it from card {a}, please.")).replace(
        "{a}", d.one((card, spaced))
    )


def _luhn_digit(body: str) -> str:
    """The check digit that makes ``body`` a valid card number (Luhn).

    >>> _luhn_digit("411111111111111")
    '1'
    """
    total = sum(sum(divmod(int(c) * 2, 10)) if i % 2 == 0 else int(c) for i, c in enumerate(reversed(body)))
    return str(-total % 10)
