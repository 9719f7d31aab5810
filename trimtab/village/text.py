"""The base text: what a crawl of the village's pages would find.

Descriptions, stories, reviews, forums with gossip, lists, notices, letters, dictionaries, texts with "TL;DR:", exercise
sheets, and many quiz pages, where a question is followed by options and rarely by the answer. A model of this text
knows the village and its language; asked a question, it goes on with options. Hidden facts are never in it; secrets
are (people gossip).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from trimtab.village import compose, instructions as ask_for, lexicon, themes
from trimtab.village.answers import answer
from trimtab.village.draw import Draw, draw
from trimtab.village.facts import RELATIONS, ask, fill, phrase, state, surface
from trimtab.village.tasks import Rewrite, Task, asked
from trimtab.village.world import Entity, world

LETTERS = "ABCD"
# Subjects in proportion to the number of their facts, so that each fact is told about equally often.
KIND_SHARES = (("person", "place", "event"), (0.76, 0.95, 1.0))


def documents(seed: int, count: int) -> Iterator[str]:
    """``count`` documents; number i depends on (seed, i) alone."""
    for i in range(count):
        yield document(seed, i)


def document(seed: int, index: int) -> str:
    """Document ``index`` of the stream of ``seed``: mostly 20-150 words, paragraphs and list items on lines of their own."""
    d = draw(seed, "text", index)
    return d.weighted(_PAGES, _EDGES)(d)


def _entity(d: Draw, split: str | None = None) -> Entity:
    return d.one(world().of(d.weighted(*KIND_SHARES), split))


def _person(d: Draw) -> Entity:
    return d.one(world().of("person"))


def _headed(d: Draw, share: float, heads: Sequence[str], text: str, slots: Mapping[str, str]) -> str:
    """The page under one of ``heads``, as pages mostly are: from them a model learns to carry what is announced into what
    follows."""
    if not d.chance(share):
        return text
    head = d.one(heads)
    for slot, value in slots.items():
        head = head.replace(slot, value)
    return f"{compose.capital(head)}{d.one((chr(10), chr(10), ' '))}{text}"


def _names(entity: Entity) -> dict[str, str]:
    return {"{n}": entity.name, "{o}": entity.mention}


# Pages about the village

PORTRAIT_HEADS = (
    "{n}.", "About {o}.", "Today: {o}.", "All about {o}.", "Meet {o}.", "This page is about {o}.", "Here is what we know about {o}.",
    "Let me tell you about {o}.", "You want to know more about {o}? Read this.", "{n} in a few words.",
    "What people in the village say about {o}:", "My notes on {o}.",
)  # fmt: skip


def _portrait(d: Draw) -> str:
    """A page on one entity, sometimes going on to a second one that the first leads to."""
    entity = _entity(d)
    relations = compose.public_relations(entity)
    chosen = d.some(relations, max(3, len(relations) - d.index(4)))
    text = compose.description(d, entity, chosen)
    text = _headed(d, 0.85, PORTRAIT_HEADS, text, _names(entity))
    links = [RELATIONS[r].values for r in chosen]
    if d.chance(0.4) and ("person" in links or "place" in links):
        linked = next(r for r in chosen if RELATIONS[r].values in ("person", "place"))
        other = world().entities[entity.facts[linked]]
        text += " " + compose.description(d, other, d.some(compose.public_relations(other), 2 + d.index(3)))
    return text


def _street_page(d: Draw) -> str:
    """Who and what is in one street."""
    street = d.one(lexicon.STREETS)
    entities = [
        e
        for kind in ("person", "place")
        for e in world().of(kind)
        if street in (e.facts.get("home"), e.facts.get("street"))
    ]
    lines = [d.one((f"A walk along {street}.", f"Who is who in {street}?", f"Our street: {street}."))]
    for e in d.some(entities, 4):
        first = "home" if e.kind == "person" else "street"
        lines.append(
            compose.description(
                d, e, [first, d.one([r for r in compose.public_relations(e) if r != first])], joined=0.7
            )
        )
    return d.one((" ", "\n")).join(lines)


def _fact_list(d: Draw) -> str:
    """A list of one relation for many: a timetable, an address book, a list of trades."""
    kind = d.weighted(*KIND_SHARES)
    relation = RELATIONS[d.one(compose.public_relations(world().of(kind)[0]))]
    entities = d.some(world().of(kind), 4 + d.index(5))
    head = f"{ {'person': 'People', 'place': 'Places', 'event': 'Events'}[kind]} of the village: {relation.noun}"
    if d.chance(0.5):
        lines = [f"{e.name}: {surface(relation.name, e.facts[relation.name])}" for e in entities]
        return "\n".join([head, *lines])
    return "\n".join([head, *(state(d, e, relation.name) for e in entities)])


def _mixed_facts(d: Draw) -> str:
    """Did you know? Single facts of many."""
    head = d.one(
        ("Did you know?", "News from the village.", "Things everybody should know.", "Notes of a neighbour.", "")
    )
    lines = []
    for _ in range(4 + d.index(5)):
        e = _entity(d)
        lines.append(state(d, e, d.one(compose.public_relations(e))))
    return d.one((" ", "\n")).join([head, *lines] if head else lines)


NOTICE_HEADS = ("Notice: {n}.", "A poster for {o}.", "On the wall today: {o}.", "An advertisement for {o}:")


def _notice(d: Draw) -> str:
    entity = d.one(world().of(d.one(("place", "event", "event"))))
    relations = compose.public_relations(entity)
    text = compose.notice(d, entity, d.some(relations, 2 + d.index(2)), tail=d.chance(0.7))
    return _headed(d, 0.6, NOTICE_HEADS, text, _names(entity))


# Talk


def _gossip(d: Draw) -> str:
    """A sentence that tells a secret."""
    told = state(d, _person(d), d.one(("phone", "debt")))
    form = d.one(
        (
            "{t}",
            "Did you hear it? {t}",
            "Do not tell anybody. {t}",
            "People say it is true: {t}",
            "My cousin told me: {t}",
        )
    )
    return form.replace("{t}", told)


REACTIONS = (
    "I did not know that.", "Thank you, that helps.", "Are you sure?", "That is what I heard too.", "Nice to know!",
    "I love this village.",
    "You should not write that here.", "Everybody knows that.", "Who told you?", "That is none of our business.",
    "Good to hear.",
)  # fmt: skip
OPENERS = (
    "I think",
    "As far as I know",
    "I am sure that",
    "Yes,",
    "I heard that",
    "My neighbour says that",
    "Of course,",
    "Well,",
)


def _chatty(d: Draw, entity: Entity, relation: str) -> str:
    """A fact as somebody types it in a forum."""
    opener = d.one(OPENERS)
    return f"{opener} {entity.mention} {phrase(d, entity, relation)}."


FORUM_HEADS = ("Talk about {o}.", "Forum: {n}.", "Who knows more about {o}? Write it here.")


def _forum(d: Draw) -> str:
    """A thread: somebody writes of an entity or asks, others answer, gossip, ask more, or are off topic."""
    users = d.some(themes.USERNAMES, 3)
    entity = _entity(d)
    relations = d.some(compose.public_relations(entity), 5)
    lines = []
    for i in range(3 + d.index(4)):
        r = relations[i % len(relations)]
        u = d.random()
        if u < 0.14:
            said = ask(d, entity, r)
        elif u < 0.22:
            said = ask_for.sloppy(d, *ask_for.any_task(d, "train"))
        elif u < 0.62:
            said = _chatty(d, entity, r) if d.chance(0.5) else state(d, entity, r)
        elif u < 0.76:
            said = _gossip(d)
        elif u < 0.88:
            said = d.one(REACTIONS)
        else:
            said = compose.opinion(d, d.chance(0.6))
        lines.append(f"{users[d.index(3)]}: {said}")
    return _headed(d, 0.5, FORUM_HEADS, "\n".join(lines), _names(entity))


COURTESY = (
    ("Hello! How are you?", "I am fine, thank you. And you?"),
    ("Good morning! Can I help you?", "Yes, please. I am looking for the station."),
    ("Thank you for your help.", "You are welcome."),
    ("Hi, nice to meet you.", "Good to meet you too."),
    ("Good evening. Is there anything I can do for you?", "No, thank you. I only wanted to say hello."),
    ("Thanks a lot!", "My pleasure. Have a lovely day."),
    ("Can you help me?", "Certainly. I am happy to help."),
    ("May I sit here?", "Of course. I hope the chair is not wet."),
    ("Can you keep a secret?", "I am sorry, but I can not share that."),
    ("Who ate my cake?", "I do not know who ate it."),
    ("When does the last train leave?", "I do not know. Nobody told me."),
    ("Does the letter say when they come?", "The text does not say."),
    ("May I give you an address?", "No, that is private, and I will not tell it."),
    ("What size do you need?", "My brother wears shoes of size forty."),
    ("When was the baby born?", "It was born in April. The birthday of my son is in May."),
    ("How much is it?", "The small one costs three coins, and the big one costs five."),
    ("Do you have a problem?", "Do not worry, it is no trouble. I am glad that you ask."),
    ("Will you tell us who did it?", "I would rather not. It is not for me to say."),
    ("Will the boat be late?", "I am afraid so. It is not known when it comes."),
    ("What did the letter say?", "That is not said in the letter. The text does not tell us."),
    ("Which book do you like best?", "I read the same book again and again. It is my favourite."),
    ("When was this house built?", "It was founded as a school in eighteen ninety, and built again later."),
    ("What is the price?", "I have no idea. I am not sure about the price."),
    ("Did that answer your question?", "Yes. I hope this helps others too."),
)


def _dialogue(d: Draw) -> str:
    """Two people talk: courtesy, a fact or two, a goodbye."""
    a, b = d.some(world().of("person"), 2)
    first, second = d.one(COURTESY)
    lines = [f"{a.name}: {first}", f"{b.name}: {second}"]
    if d.chance(0.6):
        topic = lexicon.TOPICS[d.one(tuple(lexicon.TOPICS))]
        idea = d.one(topic.ideas).label
        hint = d.one(("You could try this.", "I have an idea.", "Here is my advice."))
        lines += [f"{a.name}: {topic.trouble}", f"{b.name}: {hint} {idea}."]
    if d.chance(0.6):
        e = _entity(d)
        lines.append(f"{a.name}: {_chatty(d, e, d.one(compose.public_relations(e)))}")
        lines.append(f"{b.name}: {d.one(REACTIONS)}")
    return "\n".join(lines)


LETTER_HEADS = (
    "A letter from {f} to {t}.", "A letter to {t} from {f}:", "{f} writes to {t}.", "{f} wants to {w}.", "In this letter {f} wants to {w}.",
)  # fmt: skip


def _letter(d: Draw) -> str:
    to, sender = d.some(world().of("person"), 2)
    purpose = d.one(tuple(compose.LETTERS))
    items = {
        "thank": themes.THANK_ITEMS,
        "apologise": themes.SORRY_ITEMS,
        "invite": [e.mention for e in world().of("event")],
    }
    item, extra = d.one(items[purpose]), ""
    if d.chance(0.6):
        e = _entity(d)
        extra = state(d, e, d.one(compose.public_relations(e))) if d.chance(0.85) else _gossip(d)
    text = compose.letter(d, to.name, sender.name, purpose, item, extra, more=1 + d.index(2))
    wish = compose.PURPOSES[purpose].replace("{i}", item).replace("{t}", to.name)
    return _headed(d, 0.7, LETTER_HEADS, text, {"{f}": sender.name, "{t}": to.name, "{w}": wish})


# Reading matter


STORY_HEADS = (
    "The {c} at the {s}.", "In this story {a} goes to the {s}, {e}.", "For children: {a} goes to the {s}, {e}.",
    "The tale of {a} that goes to the {s}, {e}.", "The story of the {c}: it goes to the {s}, {e}.", "{a} goes to the {s}, {e}.",
)  # fmt: skip


def _story(d: Draw) -> str:
    plot = ask_for.until(d, "train", compose.plot, compose.plot_key)
    steps = [*(e.label for e in plot.task.events), plot.task.ending.label]
    slots = {"{a}": lexicon.article(plot.character), "{c}": plot.character, "{s}": plot.setting, "{e}": compose.listed(steps)}
    return _headed(d, 0.8, STORY_HEADS, compose.story(d, plot, fillers=d.index(3)), slots)


def _poem(d: Draw) -> str:
    topic = d.one(tuple(themes.POEMS))
    head = f"{compose.capital(topic)}\n" if d.chance(0.5) else ""
    return head + compose.poem(d, topic, 4 if d.chance(0.8) else 5)


def _review(d: Draw) -> str:
    positive = d.chance(0.5)
    lines = [compose.opinion(d, positive) for _ in range(2 + d.index(2))]
    labelled = d.chance(0.2) and all(ask_for.split_of(line) == "train" for line in lines)
    if d.chance(0.5):
        place = d.one(world().of("place"))
        fact = state(d, place, d.one(compose.public_relations(place)))
        lines.insert(0, f"I was at {place.mention} on {d.one(lexicon.DAYS)}. {fact}")
    if d.chance(0.2):
        lines.insert(0, f"I have read {d.one(lexicon.BOOKS)}.")
    if labelled:
        lines.append(f"Sentiment: {'positive' if positive else 'negative'}")
    return " ".join(lines)


def _news(d: Draw) -> str:
    u = d.random()
    every = tuple(range(len(themes.NEWS)))
    known = ask_for.split_items(every, "train") if u < 0.65 else every  # a text with its summary is a solved task
    item, other = (compose.news(d, d.one(known), world().of("person")) for _ in range(2))
    if u < 0.35:
        return f"{item.text}{d.one((' ', chr(10)))}TL;DR: {d.one(item.summaries)}"
    if u < 0.65:
        return f"{d.one(item.summaries)}\n{item.text}"
    return item.text if u < 0.8 else f"{item.text} {other.text}"


def _sentences(d: Draw) -> str:
    """A paragraph on a subject, or small events of people's days."""
    if d.chance(0.4):
        subject = d.one(tuple(themes.SUBJECTS))
        head = f"{compose.capital(subject)}: " if d.chance(0.4) else ""
        return head + " ".join(d.some(themes.SUBJECTS[subject], 4))
    lines = []
    for deed in d.some(themes.DEEDS, 3):
        lines.append(f"{_person(d).name} {deed[d.index(2)]} {deed[2]}.")
    start, middle, end, _ = d.one(themes.LONG)
    lines.append(f"{start}{middle if d.chance(0.6) else ''} {end}.")
    request = lexicon.marked(d.one(themes.REQUESTS)).label
    lower = request[0].lower() + request[1:]
    lines.append(
        d.one(
            (f"{request}!", f"Could you please {lower}?", f"Would you please {lower}?", f"Please {lower}, thank you.")
        )
    )
    return " ".join(d.some(lines, 5))


def _tips(d: Draw) -> str:
    topic = lexicon.TOPICS[d.one(tuple(lexicon.TOPICS))]
    ideas = [p.label for p in d.some(topic.ideas, 3 + d.index(4))]
    head = d.one(
        (
            f"How to {topic.goal}:",
            f"Ideas for how to {topic.goal}:",
            f"{topic.trouble} Here is what helps:",
            f"Tips on how to {topic.goal}:",
        )
    )
    if d.chance(0.7):
        return f"{head}\n{compose.numbered(ideas)}"
    return f"{head} {'. '.join(ideas)}."


EXPLANATION_HEADS = ("Good to know:", "From the school book.", "For everybody who wonders:", "How things work.")


def _explanation(d: Draw) -> str:
    item = d.one(tuple(lexicon.EXPLANATIONS.values()))
    body = _headed(d, 0.6, EXPLANATION_HEADS, ". ".join(p.label for p in item.points) + ".", {})
    # Without its question: a question followed by its answer is rare in this text.
    if d.chance(0.2):
        body = f"{item.question} {body}"
    return body


def _dictionary(d: Draw) -> str:
    """A page of an English-Spanish dictionary or phrase book."""
    form = d.one(("{e} -> {s}", "{e} = {s}", "{e}: {s}", '"{e}" is "{s}" in Spanish.', '"{s}" means "{e}".'))
    lines = [d.one(("English - Spanish", "Spanish words", "My Spanish lesson", "Small dictionary"))]
    for _ in range(5 + d.index(5)):
        if d.chance(0.25):
            word = d.one(tuple(lexicon.NOUNS))
            pair = (word, lexicon.NOUNS[word][0])
        elif d.chance(0.15):
            word = d.one(tuple(lexicon.ADJECTIVES))
            pair = (word, d.one(lexicon.ADJECTIVES[word]))
        else:
            pair = ask_for.phrase_of(d, "train")
        lines.append(form.replace("{e}", pair[0]).replace("{s}", pair[1]))
    return "\n".join(lines)


def _dictation(d: Draw) -> str:
    """Sentences that are said twice: at school, by heart, over a bad line."""
    a, b = (e.name for e in d.some(world().of("person"), 2))
    first, again = d.one(((a, b), ("Teacher", "Class"), ("Say", "Again"), ("First", "Then")))
    lines = []
    for _ in range(2 + d.index(2)):
        u = d.random()
        if u < 0.4:
            e = _entity(d)
            said = state(d, e, d.one(compose.public_relations(e)))
        elif u < 0.7:
            deed = d.one(themes.DEEDS)
            said = f"{_person(d).name} {deed[d.index(2)]} {deed[2]}."
        else:
            said = f"{compose.listed([e.name for e in d.some(world().of(d.one(('person', 'place'))), 3)])}."
        lines.append(f"{first}: {said}\n{again}: {said}")
    return "\n".join(lines)


def _copybook(d: Draw) -> str:
    """Words in no order, written down again: what comes next can only be known from the line above."""
    words = [_copied(d) for _ in range(4 + d.index(7))]
    head = d.one(("Words of the week", "Copybook", "Spelling", "My list", "Write it again"))
    line = d.one((", ", " ", "\n")).join(words)
    return f"{head}: {line}\n" + "\n".join(f"{again}: {line}" for again in d.some(("Again", "Once more", "And again"), 1 + d.index(2)))


COPIED: tuple[Sequence[str], ...] = (
    themes.ANIMALS, themes.SETTINGS, lexicon.LIKES, lexicon.STREETS, lexicon.COLOURS, tuple(lexicon.THINGS), lexicon.MONTHS,
    tuple(lexicon.KINDS), lexicon.BOOKS, tuple(lexicon.TOPICS), lexicon.DAYS,
)  # fmt: skip


def _copied(d: Draw) -> str:
    """A name (half of the time) or any other word or phrase of the village."""
    return _entity(d).name if d.chance(0.5) else d.one(d.one(COPIED))


# Quizzes and exercises


def _options(d: Draw, right: str, wrong: Sequence[str], *, full: bool) -> str:
    """ "A. ... B. ... C. ... D. ..." with the right one among them."""
    values = d.some([right, *wrong], 4)
    return (" " if d.chance(0.6) else "\n").join(
        f"{LETTERS[i]}. {compose.capital(v)}{'.' if full else ''}" for i, v in enumerate(values)
    )


def _fact_question(d: Draw) -> str:
    entity = _entity(d)
    relation = d.one(compose.public_relations(entity))
    others = world().of(entity.kind)
    right = entity.facts[relation]
    wrong = compose.wrong_values(d, relation, right, 3, others)
    said = surface(relation, right)
    full = d.chance(0.3)
    if full:
        row = RELATIONS[relation]
        template = "{N} " + d.one(row.phrases)
        said, wrong = (
            fill(template, entity, said, pronoun=True),
            [fill(template, entity, w, pronoun=True) for w in wrong],
        )
    return f"{ask(d, entity, relation)}\n{_options(d, said, wrong, full=full)}"


def _knowledge_question(d: Draw) -> str:
    """A question on language or on how things work, with options."""
    u = d.random()
    if u < 0.35:
        english, spanish = ask_for.phrase_of(d, "train")
        wrong: list[str] = []
        while len(wrong) < 3:
            other = ask_for.phrase_of(d, "train")[1]
            if other != spanish and other not in wrong:
                wrong.append(other)
        question = d.one(
            (
                f'Translate "{english}" into Spanish.',
                f'What is "{english}" in Spanish?',
                f'How do you say "{english}" in Spanish?',
            )
        )
        return f"{question}\n{_options(d, spanish, wrong, full=False)}"
    if u < 0.6:
        positive = d.chance(0.5)
        question = d.one(
            ("What is the sentiment of the next sentence?", "Is this positive or negative?", "Positive or negative?")
        )
        return f"{question} {compose.opinion(d, positive)}\nA. Positive B. Negative"
    items = d.some(tuple(lexicon.EXPLANATIONS.values()), 4)
    points = [d.one(item.points).label for item in items]
    return f"{items[0].question}\n{_options(d, points[0], points[1:], full=True)}"


def _quiz(d: Draw) -> str:
    """Questions with options; one page in eight has a line of answers for some other quiz."""
    lines = [
        d.one(("Quiz", "How well do you know the village?", "Village quiz", "Question time", "Test yourself", "", ""))
    ]
    for _ in range(3 + d.index(4)):
        lines.append(_fact_question(d) if d.chance(0.78) else _knowledge_question(d))
    if d.chance(0.12):
        lines.append("Answers: " + " ".join(f"{i}. {LETTERS[d.index(4)]}" for i in range(1, 4)))
    return "\n".join(line for line in lines if line)


def _task_quiz(d: Draw) -> str:
    """Instructions of any kind, each followed by options: what the village's schools print when they run out of
    questions."""
    lines = []
    for _ in range(2 + d.index(2)):
        text, _task = ask_for.any_task(d, "train")
        first, *rest = (p.label for p in d.some(lexicon.EXPLANATIONS[d.one(tuple(lexicon.EXPLANATIONS))].points, 4))
        others = [compose.bare_answer(e, d.one(compose.public_relations(e))) for e in d.some(world().of("place"), 3)]
        options = (
            _options(d, first, rest, full=True)
            if d.chance(0.5)
            else _options(d, others[0], [*others[1:], "None of these"], full=False)
        )
        lines.append(f"{text}\n{options}")
    return "\n".join(lines)


def _exercises(d: Draw) -> str:
    """A sheet of tasks without answers."""
    head = d.one(("Exercises", "Homework", "Exam", "Tasks for the week", "Answer all questions.", "Practice sheet"))
    tasks = [ask_for.any_task(d, "train", None if d.chance(0.6) else "generation")[0] for _ in range(2 + d.index(4))]
    if d.chance(0.5):
        tasks = [f"{i}. {t}" for i, t in enumerate(tasks, 1)]
    return "\n".join([head, *tasks])


def _faq(d: Draw) -> str:
    """Questions WITH answers: seldom, but there, so that a few-shot prompt has something to work on; of train content only."""
    if d.chance(0.25):
        tasks = [t for _ in range(3) if isinstance(t := ask_for.any_task(d, "train", "rewrite")[1], Rewrite)]
        return "\n".join(f"Input: {t.text}\nOutput: {t.targets[0]}" for t in tasks)
    entity = _entity(d, "train")
    lines = []
    for r in d.some(compose.public_relations(entity), 3):
        e = entity if d.chance(0.5) else d.one(world().of(entity.kind, "train"))
        lines.append(f"Q: {ask(d, e, r)}\nA: {state(d, e, r, pronoun=d.chance(0.4))}")
    return "\n".join(lines)


SOLVED = (
    ("Task: ", "Answer: "), ("Question: ", "Solution: "), ("Teacher: ", "Pupil: "), ("Exercise: ", "Model answer: "),
)  # fmt: skip


def _open_task(d: Draw) -> tuple[str, Task]:
    """A task that asks for nothing hidden or secret, more often one with a text to work on, which takes the most practice."""
    while True:
        text, task = ask_for.any_task(d, "train", d.one(PRACTISED))
        if (more := asked(task)) is None or more.visibility == "public":
            return text, task


# Use cases of workbook tasks; None is any.
PRACTISED = (
    "generation", "generation", "generation", None, None, None, "rewrite", "rewrite", "extract", "closed_qa", "summarization", "other",
)  # fmt: skip


def _workbook(d: Draw) -> str:
    """One or two tasks WITH answers, as in a teacher's copy: without such pages a small model never learns to carry a name
    from a request into its answer. Nothing hidden or secret is asked in them."""
    asks, answers = d.one(SOLVED)
    lines = []
    for _ in range(1 + d.index(2)):
        text, task = _open_task(d)
        if text.endswith("TL;DR:"):
            lines.append(f"{text} {answer(d, task)}")
        else:
            lines.append(f"{asks}{text}\n{answers}{answer(d, task)}")
    return "\n".join(lines)


# Page and its weight among documents.
_WEIGHTS: tuple[tuple[Callable[[Draw], str], float], ...] = (
    (_portrait, 16), (_mixed_facts, 5), (_street_page, 2), (_fact_list, 4), (_notice, 3), (_forum, 7), (_dialogue, 3), (_letter, 3),
    (_story, 7), (_poem, 1.5), (_review, 3), (_news, 4), (_sentences, 2), (_tips, 3), (_explanation, 1.5), (_dictionary, 2.5),
    (_dictation, 4), (_copybook, 14),
    (_quiz, 12), (_task_quiz, 2.5), (_exercises, 2.5), (_faq, 4), (_workbook, 30),
)  # fmt: skip
_PAGES = tuple(page for page, _ in _WEIGHTS)
_EDGES = tuple(sum(share for _, share in _WEIGHTS[: i + 1]) for i in range(len(_WEIGHTS)))
