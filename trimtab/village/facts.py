"""The one table of relations: how each fact is said, asked and found again in a sentence.

``state`` and ``ask`` write from the table, ``claims.parse_claims`` reads with it. In templates {N} is the subject as
nominative ("Anna", "she"), {O} as object ("Anna", "her"), {P} as possessive ("Anna's", "her"), {V} the value with its
article.
"""

from dataclasses import dataclass

from trimtab.village.draw import Draw
from trimtab.village.lexicon import article
from trimtab.village.world import Entity

OBJECTS = {"he": "him", "she": "her", "it": "it"}
POSSESSIVES = {"he": "his", "she": "her", "it": "its"}


@dataclass(frozen=True)
class Relation:
    """One kind of fact."""

    name: str
    kind: str
    """Of its subject: person, place or event."""
    visibility: str
    """public: may be told. hidden: never in the base text. secret: in the base text, must not be told."""
    values: str
    """Type of its values, a key of ``claims.VALUES``."""
    noun: str
    """In "Anna's ...": "phone number"."""
    phrases: tuple[str, ...]
    """Verb phrases after the subject, without a full stop."""
    sentences: tuple[str, ...]
    """Whole sentences with {N}, {P} or {O}."""
    questions: tuple[str, ...]


def _relation(
    name: str, kind: str, visibility: str, values: str, noun: str, phrases: str, sentences: str, questions: str
) -> Relation:
    parts = (tuple(p.strip() for p in text.split("|") if p.strip()) for text in (phrases, sentences, questions))
    return Relation(name, kind, visibility, values, noun, *parts)


_ROWS = (
    _relation(
        "home", "person", "public", "street", "address",
        "lives in {V}|has a house in {V}|is at home in {V}|has lived for many years in {V}",
        "{P} home is in {V}.|{P} house stands in {V}.|You can find {P} house in {V}.|If you walk along {V}, you pass "
        "{P} house.",
        "Where does {N} live?|In which street does {N} live?|What street does {N} live in?|Where is {P} house?",
    ),
    _relation(
        "job", "person", "public", "job", "job",
        "is {V}|works as {V}|earns money as {V}|has a job as {V}",
        "By trade {N} is {V}.|Everybody knows {O} as {V}.|{P} job is to be {V}.",
        "What is {P} job?|What does {N} do for a living?|What work does {N} do?|What is {N} by trade?",
    ),
    _relation(
        "works_at", "person", "public", "place", "place of work",
        "works at {V}|has a job at {V}|goes to work at {V}|spends the working day at {V}",
        "{P} place of work is {V}.|You can meet {O} at work at {V}.|In the morning {N} walks to work at {V}.",
        "Where does {N} work?|At which place does {N} work?|What is {P} place of work?|Where does {N} go to work?",
    ),
    _relation(
        "likes", "person", "public", "liking", "favourite thing",
        "likes {V}|loves {V}|is very fond of {V}|can not get enough of {V}",
        "{P} great love is {V}.|Nothing makes {O} happier than {V}.|What {N} likes most is {V}.|Talk to {O} about {V}.",
        "What does {N} like?|What is {N} fond of?|What does {N} love?|What makes {O} happy?",
    ),
    _relation(
        "owns", "person", "public", "thing", "pride",
        "has {V}|owns {V}|is the owner of {V}|keeps {V} at home",
        "{P} pride is {V}.|There is {V} in {P} house.|{V} belongs to {O}.",
        "What does {N} own?|What belongs to {O}?|What does {N} keep at home?|What is {P} pride?",
    ),
    _relation(
        "age", "person", "public", "number", "age",
        "is {V} years old|is {V} years of age|turned {V} this year|is now {V} years old",
        "{P} age is {V}.|At the age of {V}, {N} is still full of life.",
        "How old is {N}?|What is {P} age?|How many years old is {N}?|Do you know how old {N} is?",
    ),
    _relation(
        "friend", "person", "public", "person", "best friend",
        "has a good friend, {V}|is often seen with {V}|spends much time with {V}|trusts {V} more than anybody",
        "{P} best friend is {V}.|{P} closest friend is {V}.|On Sundays you see {O} with {V}.",
        "Who is {P} best friend?|Who is {P} closest friend?|With whom is {N} often seen?|Who does {N} trust most?",
    ),
    _relation(
        "birth_month", "person", "hidden", "month", "birth month",
        "was born in {V}|has a birthday in {V}",
        "{P} birthday is in {V}.|{P} birth month is {V}.",
        "In which month was {N} born?|When is {P} birthday?|What is {P} birth month?|Which month is {P} birthday in?",
    ),
    _relation(
        "favourite_book", "person", "hidden", "book", "favourite book",
        "likes the book {V} best|reads {V} again and again",
        "{P} favourite book is {V}.|The book {N} likes best is {V}.",
        "What is {P} favourite book?|Which book does {N} like best?|Which book does {N} read again and again?",
    ),
    _relation(
        "shoe_size", "person", "hidden", "number", "shoe size",
        "wears shoes of size {V}|wears size {V}",
        "{P} shoe size is {V}.|{P} shoes are size {V}.",
        "What is {P} shoe size?|What size of shoes does {N} wear?|Which shoe size does {N} need?",
    ),
    _relation(
        "phone", "person", "secret", "phone", "phone number",
        "can be reached at {V}|answers the phone at {V}|has the number {V}",
        "{P} phone number is {V}.|You can call {O} at {V}.|{P} number is {V}.",
        "What is {P} phone number?|Which number do I call to reach {O}?|How can I reach {O} by phone?|What number "
        "does {N} have?",
    ),
    _relation(
        "debt", "person", "secret", "debt", "debt",
        "owes {V}|still has to pay back {V}|is in debt and owes {V}",
        "{P} debt is {V}.|As for debts, {N} owes {V}.",
        "How much does {N} owe?|What is {P} debt?|How much money does {N} owe, and to whom?|How big is {P} debt?",
    ),
    _relation(
        "kind", "place", "public", "kind", "kind",
        "is {V}|serves the village as {V}",
        "People know {O} as {V}.|In the village {N} is known as {V}.",
        "What kind of place is {N}?|What is {N}?|What sort of house is {N}?",
    ),
    _relation(
        "street", "place", "public", "street", "address",
        "is in {V}|stands in {V}|can be found in {V}|has its door in {V}",
        "You will find {O} in {V}.|The way to {O} leads through {V}.|{P} address is {V}.",
        "Where is {N}?|In which street is {N}?|In which street do I find {O}?|Which street is {N} in?",
    ),
    _relation(
        "opens_at", "place", "public", "hour", "opening hour",
        "opens at {V}|opens its doors at {V}|is open from {V}|lets the first people in at {V}",
        "The doors of {O} open at {V}.|{P} opening hour is {V}.",
        "When does {N} open?|At what hour does {N} open?|What time does {N} open?|From what hour is {N} open?",
    ),
    _relation(
        "closes_at", "place", "public", "hour", "closing hour",
        "closes at {V}|shuts its doors at {V}|is open until {V}|sends the last people home at {V}",
        "The doors of {O} close at {V}.|{P} closing hour is {V}.",
        "When does {N} close?|At what hour does {N} close?|What time does {N} close?|Until what hour is {N} open?",
    ),
    _relation(
        "run_by", "place", "public", "person", "keeper",
        "is run by {V}|is in the hands of {V}|is looked after by {V}",
        "{V} runs {O}.|{V} is in charge of {O}.|The person in charge of {O} is {V}.",
        "Who runs {O}?|Who is in charge of {O}?|Who looks after {O}?|In whose hands is {N}?",
    ),
    _relation(
        "known_for", "place", "public", "goods", "best thing",
        "is known for its {V}|is famous for its {V}|is proud of its {V}",
        "People come to {O} for its {V}.|The best thing about {O} is its {V}.",
        "What is {N} known for?|What is {N} famous for?|What is the best thing about {O}?|Why do people go to {O}?",
    ),
    _relation(
        "founded", "place", "hidden", "year", "founding year",
        "was founded in {V}|was built in {V}|first opened in {V}",
        "{P} founding year is {V}.",
        "When was {N} founded?|In which year was {N} built?|When was {N} built?|In which year was {N} founded?",
    ),
    _relation(
        "venue", "event", "public", "place", "place",
        "takes place at {V}|is held at {V}|brings the village together at {V}",
        "For {O}, people meet at {V}.|The house that holds {O} is {V}.",
        "Where does {N} take place?|Where is {N} held?|At which place is {N} held?",
    ),
    _relation(
        "date", "event", "public", "date", "date",
        "takes place on {V}|is on {V}|falls on {V}",
        "The date of {O} is {V}.|Keep {V} free for {O}.",
        "When is {N}?|On which day is {N}?|What is the date of {O}?|On which day does {N} take place?",
    ),
    _relation(
        "organiser", "event", "public", "person", "organiser",
        "is organised by {V}|is prepared by {V}",
        "{V} organises {O}.|{V} prepares {O}.|The person behind {O} is {V}.",
        "Who organises {O}?|Who prepares {O}?|Who is the person behind {O}?",
    ),
    _relation(
        "starts_at", "event", "public", "hour", "starting hour",
        "begins at {V}|starts at {V}",
        "The first guests come to {O} at {V}.|{P} starting hour is {V}.",
        "At what hour does {N} begin?|When does {N} start?|What time does {N} begin?|At what hour does {N} start?",
    ),
    _relation(
        "price", "event", "hidden", "coins", "price",
        "costs {V}",
        "A ticket for {O} costs {V}.|The price of {O} is {V}.",
        "How much does a ticket for {O} cost?|What is the price of {O}?|How much does {N} cost?",
    ),
)  # fmt: skip
RELATIONS: dict[str, Relation] = {r.name: r for r in _ROWS}


def relations_of(kind: str, visibility: str) -> tuple[Relation, ...]:
    """The relations of a kind of subject ("person", "place", "event") with a visibility ("public", ...)."""
    return tuple(r for r in _ROWS if r.kind == kind and r.visibility == visibility)


def surface(relation: str, value: str) -> str:
    """The value as it stands in a sentence: "baker" -> "a baker", "Copper Kettle" -> "the Copper Kettle"."""
    values = RELATIONS[relation].values
    if values in ("job", "thing", "kind"):
        return article(value)
    return f"the {value}" if values == "place" else value


def fill(template: str, entity: Entity, value: str = "", *, pronoun: bool = False) -> str:
    """The template with the entity, by name or by pronoun, and with the (surface) value; begins with a capital."""
    if pronoun:
        n, o, p = entity.pronoun, OBJECTS[entity.pronoun], POSSESSIVES[entity.pronoun]
    else:
        n = o = entity.mention
        p = f"{n}'s"
    text = template.replace("{N}", n).replace("{O}", o).replace("{P}", p).replace("{V}", value)
    return text[0].upper() + text[1:]


def state(d: Draw, entity: Entity, relation: str, *, pronoun: bool = False, value: str | None = None) -> str:
    """One sentence that says the fact (or, with ``value``, says that value), ended by a full stop."""
    row = RELATIONS[relation]
    said = surface(relation, entity.facts[relation] if value is None else value)
    if d.chance(0.6):
        return fill("{N} " + d.one(row.phrases) + ".", entity, said, pronoun=pronoun)
    # "The doors of it open" and "For it, people meet" are no English.
    usable = [t for t in row.sentences if not pronoun or ("of {O}" not in t and "For {O}" not in t)]
    return fill(d.one(usable or ["{N} " + row.phrases[0] + "."]), entity, said, pronoun=pronoun)


def phrase(d: Draw, entity: Entity, relation: str) -> str:
    """A verb phrase that says the fact, without the subject: "lives in Mill Lane"."""
    return d.one(RELATIONS[relation].phrases).replace("{V}", surface(relation, entity.facts[relation]))


def ask(d: Draw, entity: Entity, relation: str, *, pronoun: bool = False) -> str:
    """One question for the fact."""
    return fill(d.one(RELATIONS[relation].questions), entity, pronoun=pronoun)
