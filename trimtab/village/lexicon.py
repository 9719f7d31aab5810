"""The village's words: names, numbers, what facts are made of, English-Spanish pairs, topics with ideas, explanations.

Pure data and the few rules that turn it into phrases. A marked word (``*river*``) in an idea or explanation is a key
word: a reader recognises the sentence by it.
"""

import re
from dataclasses import dataclass

from trimtab.village.tasks import Point

WOMEN = (
    "Anna Berta Clara Dora Edith Flora Greta Hanna Ingrid Julia Karin Lena Maria Nadia Olga Petra Rita Sonia Tessa "
    "Ursula Vera Wilma Yvonne Zoe Agnes Bella Carmen Diana Elena Fiona Gloria Helga Irene Jana Kate Laura Marta Nina "
    "Olivia Paula Rachel Sarah Teresa Valerie Wendy Alice Bianca Celia Emma Frida Heidi Isabel Joan Linda Mona Nora "
    "Pia Rosa Silvia Tina Vivian Amanda Beatrice Cora Doris Ella Gina Ida Judith Lydia"
).split()
MEN = (
    "Adam Boris Carl David Emil Felix Georg Hugo Ivan Jakob Karl Leo Martin Nils Oscar Paul Robert Simon Thomas Victor "
    "Walter Albert Bruno Conrad Daniel Edgar Frank Gustav Henry Igor Jonas Kurt Ludwig Max Norbert Otto Peter Ralph "
    "Stefan Theo Udo Vincent William Anton Basil Cedric Dennis Erik Fred Gregor Harald Ismael Julian Kevin Lars Milo "
    "Noah Omar Philip Roland Samuel Tobias Ulrich Rudolf Arthur Bernard Colin Dominic Eugene Hector"
).split()

STREET_WORDS = (
    "Mill Lane,Church Street,Station Road,Oak Lane,Bridge Street,Hill Road,Castle Street,Abbey Road,Harbour Street,"
    "Willow Lane,Orchard Road,Tower Street,Chapel Lane,Fountain Square,Meadow Lane,Forge Street,Linden Road,Canal "
    "Street,Quarry Road,Maple Lane,Shepherd Lane,Baker Street,School Road,Park Road,Long Street"
)
STREETS = tuple(STREET_WORDS.split(","))

PLACE_NAMES = tuple(
    "Copper Kettle,Silver Lamp,Golden Lion,Red Swan,Blue Anchor,White Wheel,Black Crown,Green Key,Old Barrel,"
    "Little Feather,Crooked Spoon,Merry Bell,Sleepy Star,Busy Thimble,Happy Owl,Round Fox,Broken Hat,Lucky Ship,"
    "Hidden Rose,Wooden Pen,Copper Ship,Silver Swan,Golden Feather,Red Barrel,Blue Owl,White Rose,Black Kettle,"
    "Green Lamp,Old Anchor,Little Crown,Crooked Hat,Merry Fox,Sleepy Lion,Busy Wheel,Happy Spoon,Round Bell,"
    "Broken Key,Lucky Star,Hidden Thimble,Wooden Horse".split(",")
)

KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bakery": (("baker", "driver", "shop assistant"), ("brown bread", "sweet rolls", "apple cake", "birthday cakes")),
    "cafe": (("cook", "waiter", "singer"), ("strong coffee", "lemon cake", "green tea", "honey biscuits")),
    "library": (("librarian", "cleaner", "teacher"), ("old maps", "quiet rooms", "sea stories", "free lessons")),
    "school": (("teacher", "cook", "caretaker"), ("singing lessons", "big playground", "chess club", "school garden")),
    "inn": (("cook", "waiter", "cleaner"), ("onion soup", "soft beds", "dark beer", "mushroom pie")),
    "farm": (("farmer", "gardener", "driver"), ("fresh eggs", "goat cheese", "sweet apples", "warm milk")),
    "bookshop": (
        ("bookseller", "shop assistant", "writer"),
        ("poetry books", "cheap books", "picture books", "reading corner"),
    ),
    "museum": (("guide", "painter", "caretaker"), ("old coins", "stone tools", "sea paintings", "glass birds")),
    "theatre": (("actor", "singer", "musician"), ("puppet shows", "funny plays", "red curtains", "sad songs")),
    "clinic": (("doctor", "nurse", "cleaner"), ("kind nurses", "short queues", "herbal tea", "warm waiting room")),
    "workshop": (("carpenter", "smith", "painter"), ("wooden toys", "strong chairs", "iron gates", "round tables")),
    "flower shop": (
        ("florist", "gardener", "shop assistant"),
        ("white roses", "dried flowers", "tall sunflowers", "herb pots"),
    ),
    "post office": (
        ("postman", "clerk", "driver"),
        ("pretty stamps", "fast parcels", "long queues", "friendly clerks"),
    ),
    "boat house": (
        ("sailor", "fisherman", "boat builder"),
        ("rowing lessons", "small boats", "fresh fish", "strong ropes"),
    ),
}

FOODS = (
    "plums,pears,cherries,apples,grapes,lemons,nuts,carrots,onions,tomatoes,beans,mushrooms,noodles,pancakes,"
    "olives,pickles,chocolate,honey,cheese,rice".split(",")
)
HOBBIES = (
    "fishing,painting,dancing,swimming,chess,gardening,knitting,sailing,cycling,singing,cooking,hiking,"
    "photography,pottery,skating,poetry,puzzles,archery,juggling,astronomy".split(",")
)
LIKES = (*FOODS, *HOBBIES)

COLOURS = ("black", "white", "red", "green", "blue", "yellow", "brown", "grey")
THINGS = (
    "cat dog parrot pony goat rabbit hamster turtle canary donkey bicycle boat violin piano drum guitar flute tent "
    "lantern clock sofa carpet kite umbrella scooter trumpet telescope"
).split()

JOBS = tuple(dict.fromkeys(job for jobs, _ in KINDS.values() for job in jobs))

EVENT_NAMES = tuple(
    "Spring Fair,Boat Race,Apple Day,Harvest Supper,Lantern Walk,Flower Show,Book Night,Song Evening,Cheese Market,"
    "Kite Day,Winter Dance,Summer Concert,Bread Festival,Chess Cup,Dog Parade,Garden Party".split(",")
)

BOOKS = tuple(
    "The Lost Ship,The Silent Tower,A Winter Letter,The Glass Mountain,Seven Small Doors,The Last Garden,"
    "A House of Wind,The Salt Road,The Paper King,Night Train,The Stone Bird,Three Brothers".split(",")
)

MONTHS = tuple("January February March April May June July August September October November December".split())
ORDINALS = tuple(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth".split()
)
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())

UNITS = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen".split()
)
TENS = tuple("twenty thirty forty fifty sixty seventy eighty ninety".split())
NUMBER_WORDS = frozenset((*UNITS, *TENS, "hundred"))


def number(n: int) -> str:
    """0..99 in words: 42 -> "forty two".

    >>> number(7), number(40), number(42)
    ('seven', 'forty', 'forty two')
    """
    if n < 20:
        return UNITS[n]
    tens, unit = divmod(n, 10)
    return TENS[tens - 2] + (f" {UNITS[unit]}" if unit else "")


def article(noun: str) -> str:
    """The noun phrase with "a" or "an": "an owl"."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


# English noun -> (Spanish, gender); adjective -> (masculine, feminine). Every adjective here follows its noun in
# Spanish.
_NOUN_ROWS = (
    "cat gato m;dog perro m;house casa f;book libro m;table mesa f;chair silla f;door puerta f;window ventana f;"
    "tree árbol m;flower flor f;river río m;street calle f;boat barco m;hat sombrero m;shoe zapato m;cup taza f;"
    "key llave f;bread pan m;apple manzana f;pear pera f;cheese queso m;milk leche f;egg huevo m;fish pez m;"
    "soup sopa f;cake pastel m;bird pájaro m;horse caballo m;cow vaca f;goat cabra f;duck pato m;rabbit conejo m;"
    "mouse ratón m;frog rana f;bear oso m;fox zorro m;garden jardín m;school escuela f;shop tienda f;"
    "market mercado m;bridge puente m;letter carta f;box caja f;lamp lámpara f;clock reloj m;bell campana f;"
    "bag bolsa f;coat abrigo m;spoon cuchara f;song canción f;moon luna f;star estrella f;beach playa f;"
    "forest bosque m;road camino m;bed cama f;kitchen cocina f;room cuarto m;shirt camisa f;stone piedra f"
)
NOUNS: dict[str, tuple[str, str]] = {
    english: (spanish, gender) for english, spanish, gender in map(str.split, _NOUN_ROWS.split(";"))
}
_ADJECTIVE_ROWS = (
    "black negro negra;white blanco blanca;red rojo roja;green verde verde;blue azul azul;"
    "yellow amarillo amarilla;grey gris gris;small pequeño pequeña;big grande grande;old viejo vieja;"
    "new nuevo nueva;long largo larga;clean limpio limpia;cold frío fría;sad triste triste;dark oscuro oscura;"
    "cheap barato barata;quiet tranquilo tranquila;empty vacío vacía;pretty bonito bonita"
)
ADJECTIVES: dict[str, tuple[str, str]] = {
    english: (masculine, feminine) for english, masculine, feminine in map(str.split, _ADJECTIVE_ROWS.split(";"))
}
DETERMINERS: dict[str, tuple[str, str]] = {"a": ("un", "una"), "the": ("el", "la"), "my": ("mi", "mi")}


def phrase_pair(determiner: str, adjective: str, noun: str) -> tuple[str, str]:
    """An English noun phrase and its Spanish translation; ``adjective`` may be empty.

    >>> phrase_pair("a", "black", "cat"), phrase_pair("a", "white", "house")
    (('a black cat', 'un gato negro'), ('a white house', 'una casa blanca'))
    """
    spanish, gender = NOUNS[noun]
    side = 0 if gender == "m" else 1
    body = f"{adjective} {noun}" if adjective else noun
    english = article(body) if determiner == "a" else f"{determiner} {body}"
    after = f" {ADJECTIVES[adjective][side]}" if adjective else ""
    return english, f"{DETERMINERS[determiner][side]} {spanish}{after}"


def marked(text: str) -> Point:
    """A point from a sentence with marked key words, all of which it needs; the label is the sentence without marks.

    >>> marked("Drink *tea|coffee* in the *garden*")
    Point(label='Drink tea in the garden', words=(('tea', 'coffee'), ('garden',)))
    """
    groups = tuple(tuple(m.lower().split("|")) for m in re.findall(r"\*([^*]+)\*", text))
    return Point(re.sub(r"\*([^*|]+)(?:\|[^*]*)?\*", r"\1", text), groups)


@dataclass(frozen=True)
class TopicIdeas:
    """Something people want ideas or advice for."""

    goal: str
    """Reads after "how to": "save money"."""
    trouble: str
    """What somebody with this wish says."""
    ideas: tuple[Point, ...]
    """Imperative sentences without a full stop, first letter capital."""


def _topic(goal: str, trouble: str, ideas: str) -> TopicIdeas:
    return TopicIdeas(goal, trouble, tuple(marked(line.strip()) for line in ideas.split(";")))


TOPICS: dict[str, TopicIdeas] = {
    "career": _topic(
        "regain enthusiasm for my career",
        "I have lost my enthusiasm for my career.",
        """Learn a *new* *skill*;Talk to *people* who love their *work*;Take a short *break* from work;
        Set a small *goal* for each *week*;Ask for a different *task*;Help a *young* *worker*;
        Write down what you *enjoy* at work;Visit another *workshop*;Read a *book* about your *trade*""",
    ),
    "money": _topic(
        "save money",
        "I never have any money left at the end of the month.",
        """Cook at *home* more often;Write down what you *spend*;*Walk* instead of taking the *bus*;
        Buy *old* *books*;*Mend* your old *clothes*;*Borrow* tools from your *neighbours*;
        Make a *list* before you *shop*;Put one *coin* in a *jar* each day""",
    ),
    "rain": _topic(
        "spend a rainy day",
        "It is raining and the children are bored.",
        """Bake a *cake* with the children;Read an *old* *story* aloud;Play *cards* at the *table*;
        Visit the *museum*;Write a *letter* to a friend;*Paint* a picture of the *rain*;
        Build a *house* of *blankets*;Sort your old *photos*""",
    ),
    "friends": _topic(
        "make new friends",
        "I am new here and I do not know anybody.",
        """Join a *club* in the village;*Smile* at your *neighbours*;Go to the *fair*;*Invite* somebody for *tea*;
        Offer to *help* at the *school*;Ask people about their *hobbies*;Sing in a *choir*;
        Take a *dancing* *lesson*""",
    ),
    "spanish": _topic(
        "learn Spanish",
        "I want to learn Spanish, but I forget every word.",
        """Learn *five* *words* each day;Sing a *Spanish* *song*;Put *names* on the *things* in your house;
        Read a *children's* *book* in Spanish;*Speak* with a *Spanish* friend;*Write* a short *diary* in Spanish;
        *Listen* to the *radio*;Play a *word* *game*""",
    ),
    "sleep": _topic(
        "sleep better",
        "I can not sleep at night.",
        """Go to *bed* at the same *hour*;Drink warm *milk* in the evening;Open the *window* for fresh *air*;
        Do *not|never* drink *coffee* after *lunch*;Read a *quiet* *book*;Take a *walk* after *supper*;
        Keep your room *dark*;Take a *warm* *bath*""",
    ),
    "party": _topic(
        "plan a birthday party",
        "My son has his birthday soon and I have no plan.",
        """Send the *invitations* early;Bake a *big* *cake*;Play a *treasure* game in the *garden*;
        Ask a friend to play *music*;Hang *lanterns* in the *trees*;Make *paper* *hats*;Tell a *funny* *story*;
        Cook a big *pot* of *soup*""",
    ),
    "garden": _topic(
        "grow a small garden",
        "I have a small garden, but nothing grows in it.",
        """Start with *easy* *herbs*;*Water* the plants in the *morning*;Dig in some old *leaves*;
        Plant *beans* along the *wall*;Pull out the *weeds* each *week*;Choose a *sunny* *corner*;
        Ask a *gardener* for *seeds*;Put up a small *fence*""",
    ),
    "warm": _topic(
        "keep a house warm",
        "My house is cold in winter.",
        """Close the *doors* behind you;Hang *thick* *curtains*;Put a *carpet* on the *floor*;
        Dry some *wood* for the *fire*;Mend the *broken* *window*;Wear a warm *coat* at home;
        Let the *sun* in at *noon*;Cook *soup* on the *stove*""",
    ),
    "shop": _topic(
        "bring more people into a shop",
        "Nobody comes into my shop.",
        """Paint the *door* in a bright *colour*;Put *flowers* in the *window*;Offer a free *cup* of *tea*;
        *Open* earlier in the *morning*;Sell *fresh* *bread*;Write a *friendly* *sign*;
        Give *children* a small *gift*;Hold a *music* *evening*""",
    ),
    "present": _topic(
        "choose a present for a friend",
        "I do not know what to give my friend.",
        """Ask what your friend *needs*;Make a *warm* *scarf*;Buy a *good* *book*;Cook a *favourite* *meal*;
        Plant a small *tree* in a *pot*;Give a *ticket* for a *concert*;Frame an old *photo*;Write a long *letter*""",
    ),
    "dog": _topic(
        "train a young dog",
        "My young dog never listens to me.",
        """Use the same *short* *words*;Give a small *reward* at once;Keep each *lesson* *short*;
        *Walk* the same *way* each day;*Never|not* *shout* at the dog;Let it meet *other* *dogs*;
        Teach it to *sit* *first*;Play with a *ball*""",
    ),
    "breakfast": _topic(
        "eat better in the morning",
        "I am always hungry at ten.",
        """Boil *two* *eggs*;Eat an *apple* with some *nuts*;Cook *oats* with *milk*;Bake your own *bread*;
        Get up *ten* minutes *earlier*;Drink a *glass* of *water*;Put *honey* on your *bread*;
        Cut some *fruit* in the *evening*""",
    ),
    "weekend": _topic(
        "enjoy a quiet weekend",
        "I need a quiet weekend.",
        """Sit by the *river*;Sleep until *nine*;Cook something *slow*;Read a *long* *book*;
        Visit an *old* *friend*;Work in the *garden*;Turn off the *radio*;Watch the *birds* in the *park*""",
    ),
    "picnic": _topic(
        "prepare a picnic",
        "We want to have a picnic on Sunday.",
        """Pack *bread* and *cheese*;Bring a *warm* *blanket*;Look at the *weather* first;
        Choose a place near the *water*;Take a *ball* for the *children*;Cut the *fruit* at *home*;
        Fill a *bottle* with cold *tea*;Bring a *bag* for the *rubbish*""",
    ),
    "neighbour": _topic(
        "help an old neighbour",
        "My neighbour is old and lives alone.",
        """Carry the *shopping* home;Cut the *grass* in *summer*;Bring some hot *soup*;Read the *newspaper* aloud;
        Clear the *snow* from the *door*;*Listen* to old *stories*;Walk the *dog* in the *evening*;
        Mend the *garden* *gate*""",
    ),
    "time": _topic(
        "get to work on time",
        "I am late for work every day.",
        """Put the *clock* far from the *bed*;Pack your *bag* in the *evening*;Go to *bed* *earlier*;
        Take the *first* *bus*;Lay out your *clothes*;Eat a *quick* *breakfast*;
        Leave the *house* ten minutes *early*;Ride a *bicycle* to work""",
    ),
    "clean": _topic(
        "keep a room clean",
        "My room is never clean.",
        """*Sweep* the *floor* each day;Make the *bed* in the *morning*;Give away *old* *things*;
        Wash the *cups* at once;Put each *thing* in its *place*;Open the *windows* on *Saturday*;
        Hang up your *coat*;Keep a small *box* for *paper*""",
    ),
}


@dataclass(frozen=True)
class Explanation:
    """A question of why or how, and what a good answer says."""

    question: str
    points: tuple[Point, ...]
    """Full sentences without a full stop."""


def _explanation(question: str, points: str) -> Explanation:
    return Explanation(question, tuple(marked(line.strip()) for line in points.split(";")))


EXPLANATIONS: dict[str, Explanation] = {
    "bread": _explanation(
        "How is bread made?",
        """The baker mixes *flour*, *water* and salt;The *dough* must *rest* for some hours;
        It grows because of the *yeast*;Then it is *baked* in a hot *oven*""",
    ),
    "library": _explanation(
        "Why is a library quiet?",
        """People come there to *read*;*Noise* makes it hard to *think*;Everybody must have the same *peace*;
        So people *speak* in a low *voice*""",
    ),
    "honey": _explanation(
        "How is honey made?",
        """*Bees* visit many *flowers*;They carry the sweet *juice* to their *hive*;
        There it *dries* and becomes *thick*;The farmer takes out a part of it in *summer*""",
    ),
    "boat": _explanation(
        "Why does a boat float?",
        """The boat pushes the *water* *aside*;The water *pushes* *back* from below;A boat is full of *air*;
        So it is *lighter* than the *water* it moves""",
    ),
    "mill": _explanation(
        "How does the mill work?",
        """The *river* turns a big *wheel*;The wheel turns two heavy *stones*;
        The *grain* falls between the *stones*;It comes out as *flour*""",
    ),
    "letter": _explanation(
        "How does a letter travel?",
        """You put it in a *box* with a *stamp*;A clerk at the post office *sorts* it;
        A *driver* takes it to the next *town*;The *postman* brings it to the *door*""",
    ),
    "winter": _explanation(
        "Why do birds fly away in winter?",
        """There is little *food* in the *cold* months;The *days* are short;In the *south* it is *warm*;
        They come *back* in *spring*""",
    ),
    "cheese": _explanation(
        "How is cheese made?",
        """The farmer *warms* the fresh *milk*;The milk becomes *thick*;The *water* is pressed *out*;
        The cheese *rests* in a cool *cellar*""",
    ),
    "market": _explanation(
        "Why is the market early in the morning?",
        """The farmers want to sell *fresh* *food*;It is *cool* in the morning;People shop before their *work*;
        In the afternoon the *square* must be *empty*""",
    ),
    "clock": _explanation(
        "How does the tower clock work?",
        """A heavy *weight* hangs on a *rope*;It *turns* the small *wheels*;A *pendulum* keeps the time *even*;
        A worker winds it up every *week*""",
    ),
    "leaves": _explanation(
        "Why do leaves fall in autumn?",
        """There is less *light* in autumn;The *tree* needs to save its *water*;The *green* colour goes *away*;
        Without leaves the snow does not *break* the *branches*""",
    ),
    "rainbow": _explanation(
        "How does a rainbow appear?",
        """You need *sun* and *rain* at the same time;The *light* goes through small *drops*;
        The drops *split* it into *colours*;You see it with the sun *behind* you""",
    ),
    "queue": _explanation(
        "Why do people stand in a queue?",
        """Everybody wants to be *served*;The one who came *first* goes *first*;So it is *fair* for all;
        Nobody has to *push* or *shout*""",
    ),
    "pottery": _explanation(
        "How is a clay pot made?",
        """The potter *wets* the soft *clay*;The *wheel* turns and the *hands* give the shape;
        The pot *dries* for some days;Then it is *burned* in a hot *oven*""",
    ),
    "tea": _explanation(
        "How do you make good tea?",
        """*Boil* fresh *water*;Warm the *pot* first;Put in one *spoon* of *leaves*;Wait for *four* *minutes*""",
    ),
    "sleepy": _explanation(
        "Why do we need sleep?",
        """The *body* *rests* while we sleep;The *head* sorts what it *learned*;Without sleep we get *ill*;
        Children *grow* at *night*""",
    ),
    "bridge": _explanation(
        "Why is the bridge made of stone?",
        """*Stone* is very *strong*;A *wooden* bridge would *burn*;The river *carried* the old bridge *away*;
        Stone can be found in the *quarry* near by""",
    ),
    "soap": _explanation(
        "How does soap clean our hands?",
        """*Water* alone does not move *fat*;*Soap* takes hold of the *dirt*;Then the water *carries* it *away*;
        You must *rub* your hands for some *time*""",
    ),
    "bell": _explanation(
        "Why does the church bell ring?",
        """It tells the *hour* to *everybody*;It *calls* people *together*;In the old days it warned of *fire*;
        It also rings for a *wedding*""",
    ),
    "seeds": _explanation(
        "How does a plant grow from a seed?",
        """The seed needs *water* and *warm* earth;First a small *root* goes *down*;
        Then a green *stem* comes *up*;The *leaves* take in the *light*""",
    ),
}
