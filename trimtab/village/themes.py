"""What the village writes about besides its facts: stories, reviews, news, poems, letters, requests, small talk.

Pure data with {slots}; ``compose.py`` makes sentences of it. ``*marked*`` words are key words as in ``lexicon.marked``.
"""

from dataclasses import dataclass

ANIMALS = tuple(
    "bear fox rabbit mouse owl duck cat dog goat frog seal crab gull squirrel hedgehog badger swan otter".split()
)
SETTINGS = tuple("beach forest river hill lake market meadow castle farm harbour".split())

OPENINGS = (
    "One morning {a} went to the {s}.",
    "Once there was {a} who went to the {s}.",
    "One day {a} walked to the {s}.",
    "Long ago {a} made a trip to the {s}.",
    "It was summer, and {a} went to the {s}.",
    "On a quiet Sunday {a} set out for the {s}.",
)
FILLERS = (
    "The sun was warm and the wind was soft.",
    "The sky was blue and the air was fresh.",
    "It was a bright day.",
    "Nobody else was there.",
    "It was very happy.",
    "The way was long, but it did not mind.",
    "It carried a small bag with bread.",
    "It had never been there before.",
)


@dataclass(frozen=True)
class Happening:
    """Something that happens in a story: how a prompt asks for it, how it is told, and by which words it is known."""

    asked: str
    """Third person present, with {x} where it varies: "makes friends with {x}"."""
    told: tuple[str, ...]
    """Past tense; the character is "it" or {c} ("the bear")."""
    words: tuple[str, ...]
    """Alternatives of the key word; {x}'s last word is the other key."""
    things: tuple[str, ...] = ()
    """What {x} may be; empty when nothing varies."""


_A = tuple(("an " if a[0] in "aeiou" else "a ") + a for a in ANIMALS)
HAPPENINGS: dict[str, Happening] = {
    "friend": Happening(
        "makes friends with {x}",
        (
            "There it met {x}, and the two became friends.",
            "It made friends with {x} who lived there.",
            "It talked to {x} all day, and they became good friends.",
            "After a while {x} came by, and they made friends.",
        ),
        ("friend", "friends"),
        _A,
    ),
    "help": Happening(
        "helps {x}",
        (
            "It saw {x} and helped it to find the way.",
            "Then it helped {x} with a heavy bag.",
            "On the way it met {x} in trouble and helped it at once.",
        ),
        ("help", "helped", "helps"),
        tuple(f"{adjective} {a}" for adjective in ("a lost", "a tired", "a small") for a in ANIMALS),
    ),
    "find": Happening(
        "finds {x}",
        ("Under a stone it found {x}.", "In the grass it found {x}.", "It looked around and found {x} near the water."),
        ("find", "found", "finds"),
        (
            "a silver key",
            "an old map",
            "a gold ring",
            "a letter",
            "a red ball",
            "a warm hat",
            "a small bell",
            "a blue feather",
        ),
    ),
    "lose": Happening(
        "loses {x}",
        ("On the way it lost {x}.", "Suddenly it saw that it had lost {x}.", "The wind was strong, and it lost {x}."),
        ("lose", "lost", "loses"),
        ("its hat", "its basket", "its scarf", "its lunch", "its umbrella"),
    ),
    "eat": Happening(
        "eats {x}",
        ("It was hungry and ate {x}.", "It sat down and ate {x}.", "Somebody gave it {x}, and it ate everything."),
        ("ate", "eat", "eats"),
        ("sweet berries", "a warm pie", "some cake", "fresh fish", "a bowl of soup", "bread and honey"),
    ),
    "build": Happening(
        "builds {x}",
        (
            "With some wood it built {x}.",
            "It worked for hours and built {x}.",
            "It took stones and wood and built {x}.",
        ),
        ("build", "built", "builds"),
        ("a small boat", "a hut", "a bridge", "a raft", "a tower"),
    ),
    "rain": Happening(
        "gets wet in the rain",
        ("Then dark clouds came, and it got wet in the rain.", "Suddenly it began to rain, and {c} got very wet."),
        ("rain", "rained"),
    ),
    "song": Happening(
        "learns a new song",
        ("An old bird taught it a new song.", "It listened to the wind and learned a new song."),
        ("song",),
    ),
    "swim": Happening(
        "swims to an island",
        ("It jumped into the water and swam to an island.", "There was an island, and {c} swam to it."),
        ("swam", "swim", "swims"),
    ),
    "climb": Happening(
        "climbs a tall tree",
        (
            "It climbed a tall tree and looked over the land.",
            "From the top of a tall tree that it climbed, it saw the sea.",
        ),
        ("climbed", "climb", "climbs"),
    ),
}
ENDINGS: dict[str, Happening] = {
    "home": Happening(
        "returns home",
        (
            "In the evening it returned home.",
            "Then {c} went back home, tired and happy.",
            "At last it returned home and went to bed.",
            "When the sun went down, it walked home.",
        ),
        ("home",),
    ),
    "asleep": Happening(
        "falls asleep",
        (
            "At night it fell asleep under the stars.",
            "Then {c} lay down and fell asleep.",
            "It was so tired that it fell asleep.",
        ),
        ("asleep",),
    ),
    "feast": Happening(
        "has a feast",
        (
            "In the end there was a big feast.",
            "In the evening they all had a feast together.",
            "That night {c} had a great feast.",
        ),
        ("feast",),
    ),
    "tell": Happening(
        "tells everybody about the day",
        ("Later it told everybody about the day.", "In the evening {c} told everybody about its day."),
        ("told", "tells", "tell"),
    ),
    "stay": Happening(
        "stays there for ever",
        (
            "It liked the place so much that it stayed there for ever.",
            "{c} never left again and stayed there for ever.",
        ),
        ("stayed", "stays", "stay"),
    ),
}

# Reviews and sentiment. Subjects agree with "was".
REVIEWED = tuple("movie book soup room concert cake walk game show meal play song hotel coffee lesson trip".split())
GOOD = tuple(
    "wonderful lovely great excellent charming brilliant perfect pleasant delightful beautiful amazing".split()
)
BAD = tuple("awful terrible boring dull bad horrible poor disappointing unpleasant ugly dreadful".split())
PRAISE = (
    "I love this {n}!", "What a {g} {n}!", "The {n} was {g}.", "I enjoyed every minute of the {n}.",
    "This {n} made me very happy.",
    "The {n} was {g}, and I will come again.", "I can only say good things about the {n}.",
    "It was a {g} {n} from start to end.",
    "My whole family loved the {n}.", "A {g} {n}, go and see for yourself!",
)  # fmt: skip
BLAME = (
    "I hate this {n}!", "What a {b} {n}!", "The {n} was {b}.", "I was bored by the {n}.",
    "This {n} made me very angry.",
    "The {n} was {b}, and I will not come again.", "I can not say one good thing about the {n}.",
    "It was a {b} {n} from start to end.", "My whole family hated the {n}.", "A {b} {n}, do not waste your money!",
)  # fmt: skip

# Sentences of one subject each; a text to classify is two of them.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "weather": (
        "It will rain until noon.", "A cold wind blows from the north.", "The snow will melt next week.",
        "Thick fog lies over the river.", "Tomorrow will be warm and sunny.", "The storm broke two old trees.",
    ),
    "food": (
        "Cut the onions and fry them in butter.", "The soup needs more salt.", "Bake the cake for one hour.",
        "Serve the fish with rice and lemon.", "Fresh bread smells best in the morning.",
        "Boil the eggs for six minutes.",
    ),
    "animals": (
        "The hen sat on seven eggs.", "Our cat sleeps on the warm stove.", "Horses need grass and clean water.",
        "The dog barked at the postman.", "A swan built its nest by the lake.", "Bees fly from flower to flower.",
    ),
    "travel": (
        "The train leaves the station at noon.", "We packed our bags and bought two tickets.",
        "The ship sails to the island.",
        "The bus was full of tourists.", "Our hotel had a view of the sea.", "They crossed the mountains on foot.",
    ),
    "music": (
        "The choir sang three old songs.", "She plays the piano every evening.", "The drum was too loud.",
        "The band needs a new violin.", "He wrote a song about the moon.", "The audience clapped after the concert.",
    ),
    "sport": (
        "Our team won the match by two goals.", "The runner was the first to cross the line.",
        "They train in the hall every week.",
        "The player kicked the ball over the fence.", "The race was long and hard.",
        "The trainer gave everybody new shirts.",
    ),
}  # fmt: skip

POEMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "spring": (
        tuple("spring green flowers birds sun bloom rain grass".split()),
        ("The spring comes over the hill,", "The birds sing in the green trees,", "The flowers bloom in the sun,",
         "Soft rain falls on the grass,", "Spring opens every door,", "The grass is green again,"),
    ),
    "the river": (
        tuple("river water boats stones flow bridge fish".split()),
        ("The river runs to the sea,", "The water sings on the stones,", "The boats sleep under the bridge,",
         "The fish swim in the cold water,", "The river knows my name,", "Slow and deep the river flows,"),
    ),
    "the moon": (
        tuple("moon night stars silver sky light dark".split()),
        ("The moon is high in the sky,", "Silver light falls on the roof,", "The stars stand round the moon,",
         "The night is long and dark,", "The moon looks into my room,", "Quiet is the silver night,"),
    ),
    "winter": (
        tuple("winter snow ice cold fire white wind".split()),
        ("The winter wind is cold,", "White snow lies on the road,", "The ice sleeps on the lake,",
        "We sit by the warm fire,",
         "The cold comes under the door,", "Winter is quiet and white,"),
    ),
    "autumn": (
        tuple("autumn leaves fall wind red gold fog".split()),
        ("The autumn leaves are red,", "The leaves fall one by one,", "The wind plays with the gold,",
        "Fog comes up from the river,",
         "Autumn walks through the wood,", "The wind is tired and old,"),
    ),
    "the sea": (
        tuple("sea waves salt ships wind sand gulls".split()),
        ("The waves come and go,", "The ships sail out in the wind,", "Salt is on my lips,",
        "The gulls cry over the sea,",
         "The sand is warm and soft,", "The sea never sleeps,"),
    ),
    "morning": (
        tuple("morning sun bread light bell wake new".split()),
        ("The morning sun is here,", "The bell wakes up the street,", "Warm bread is on the table,",
        "New light comes through the window,",
         "Wake up, the day is new,", "The morning smells of bread,"),
    ),
    "a garden": (
        tuple("garden roses bees apple gate flowers green".split()),
        ("My garden is small and green,", "The bees love the roses,", "An apple falls in the grass,",
        "The gate is old and grey,",
         "The flowers turn to the sun,", "In the garden I am home,"),
    ),
    "friendship": (
        tuple("friendship friend hand road together laugh help heart".split()),
        ("Friendship is a warm light,", "We walk the road together,", "Give me your hand, my friend,",
        "We laugh until the evening,",
         "You help me when I fall,", "My heart is full of songs,"),
    ),
    "rain": (
        tuple("rain drops roof clouds wet window grey".split()),
        ("The rain falls on the roof,", "Drops run down the window,", "Grey clouds go over the hill,",
        "The street is wet and quiet,",
         "The rain sings me a song,", "I listen to the drops,"),
    ),
}  # fmt: skip

THANK_ITEMS = ("the plums", "the warm scarf", "the lovely book", "the fresh bread", "the flowers", "the long letter",
    "the good soup",
               "your help in the garden", "the old map", "the honey")  # fmt: skip
SORRY_ITEMS = ("the broken cup", "the noise", "the lost key", "the late answer", "the burned cake", "the rude words",
               "the wet books", "the open gate", "the muddy carpet", "the broken window")  # fmt: skip

# News to summarise: (the main sentence and another way to say it, its key words, details with marked words).
# Slots: {st} a street, {p} a person, {d} a day, {n} a number.
NEWS: tuple[tuple[tuple[str, str], tuple[tuple[str, ...], ...], tuple[str, ...]], ...] = (
    (
        ("The bridge near {st} is closed.", "People can not use the bridge near {st}, it is closed."),
        (("bridge",), ("closed",)),
        ("A *storm* broke {n} stones on {d}.", "*Workers* will mend it soon.",
        "Until then people take the small *boat*."),
    ),
    (
        ("A lost dog was found in {st}.", "Somebody found a lost dog in {st}."),
        (("dog",), ("found",)),
        ("It sat in front of the *church* on {d}.", "It was *hungry* and wet.",
        "{p} gave it some *meat* and warm water."),
    ),
    (
        ("{p} won the cake contest.", "The cake contest was won by {p}."),
        (("{p}",), ("won", "winner"), ("cake", "contest")),
        ("There were {n} *cakes* on the long table.", "The *judges* ate for two hours.",
        "The prize was a silver *spoon*."),
    ),
    (
        ("The village will get a new bus.", "A new bus will come to the village."),
        (("bus",), ("new",)),
        ("It will go to the *town* every {d}.", "A ticket will *cost* {n} coins.", "The old one was *slow* and loud."),
    ),
    (
        ("A fire burned down an old barn in {st}.", "An old barn in {st} burned down."),
        (("barn",), ("burned", "fire")),
        ("Nobody was *hurt*.", "The *smoke* was seen from the hill.", "{p} saw it first and *called* for help on {d}."),
    ),
    (
        ("The school needs a new roof.", "The roof of the school must be new."),
        (("school",), ("roof",)),
        ("Water *drips* on the desks when it rains.", "The children put {n} *pots* on the floor.",
        "{p} *collects* money for it."),
    ),
    (
        ("The river is too high for boats.", "Boats can not go out, the river is too high."),
        (("river",), ("high",), ("boats", "boat")),
        ("It *rained* for {n} days.", "The water stands close to {st}.", "People carry *sand* to their doors."),
    ),
    (
        ("A thief stole the clock of the town hall.", "The clock of the town hall was stolen."),
        (("clock",), ("stole", "stolen", "thief")),
        ("It happened in the *night* before {d}.", "The *guard* was asleep.", "There is a *reward* of {n} coins."),
    ),
    (
        ("{p} opened a small school for music.", "There is a small music school now, opened by {p}."),
        (("{p}",), ("music",), ("school",)),
        ("The first *lesson* was on {d}.", "There were {n} *children* in the room.",
        "The *drums* could be heard in {st}."),
    ),
    (
        ("The harvest was very good this year.", "This year brought a very good harvest."),
        (("harvest",), ("good",)),
        ("The *summer* was warm and not too dry.", "The farmers filled {n} *wagons*.",
        "Apples are *cheap* at the market."),
    ),
    (
        ("The library will be shut for a week.", "For a week the library will be shut."),
        (("library",), ("shut",)),
        ("The *walls* must be painted.", "*Workers* will come on {d}.", "{p} asks all readers to *keep* their books."),
    ),
    (
        ("A whale was seen near the harbour.", "People saw a whale near the harbour."),
        (("whale",), ("seen", "saw")),
        ("It was as long as {n} *boats*.", "*Children* ran to the water on {d}.", "{p} took a *photo* of it."),
    ),
    (
        ("The old mill was sold.", "Somebody bought the old mill."),
        (("mill",), ("sold", "bought")),
        ("It stood *empty* for {n} years.", "The new *owner* comes from the north.", "There will be a *hotel* in it."),
    ),
    (
        ("{p} saved a child from the lake.", "A child was saved from the lake by {p}."),
        (("{p}",), ("saved",), ("child",)),
        ("The *ice* was too thin on {d}.", "The child was *cold* but well.", "The *mother* cried with joy."),
    ),
)  # fmt: skip

# Requests: imperative without a full stop, first letter capital.
REQUESTS = (
    "Close the *window*", "Give me the *salt*", "Open the *door*", "Wait *outside*", "Bring me a *glass* of water",
    "Turn down the *music*", "Send me the *letter*", "Help me with this *box*", "Show me the way to the *station*",
    "Call me *tomorrow*", "Take off your *shoes*", "Wash the *cups*", "Speak more *slowly*", "Read this *page* aloud",
    "Move your *bicycle*", "Feed the *cat*", "Lend me your *umbrella*", "Write down your *name*",
    "Put the *books* on the table",
    "Sit down over *there*", "Clean the *kitchen*", "Pass me the *bread*", "Carry my *bag*", "Light the *lamp*",
)  # fmt: skip

# Present and past of what a person does; {r} is the rest of the sentence.
DEEDS = tuple(
    tuple(part.strip() for part in row.split("|"))
    for row in (
        "walks|walked|to the market every morning", "bakes|baked|a cake for the whole street",
        "writes|wrote|a letter to the mayor",
        "sings|sang|in the old church", "plants|planted|a tree behind the house", "drinks|drank|tea in the garden",
        "carries|carried|wood to the barn", "reads|read|the newspaper after lunch", "swims|swam|in the cold lake",
        "buys|bought|bread and cheese", "tells|told|the children a story", "mends|mended|the broken fence",
        "waits|waited|for the bus", "opens|opened|the shop with a big key", "loses|lost|the key again",
        "finds|found|a coin in the grass", "runs|ran|down the hill", "cooks|cooked|soup for the guests",
        "paints|painted|the garden gate", "takes|took|the first train to town", "sees|saw|a fox near the river",
        "forgets|forgot|the umbrella on the bus", "rides|rode|a bicycle to the harbour",
        "feeds|fed|the hens in the yard",
    )
)  # fmt: skip

# A sentence and a part of it that can be left out: (start, part to leave out, end, key words of what stays).
LONG = (
    ("The old man", ", who was very tired after the long day,", "went home", ("man", "home")),
    ("The small cat", ", which had a white spot on its nose,", "sat on the wall", ("cat", "wall")),
    ("The farmer", ", as he did every year in spring,", "sold two goats", ("farmer", "goats")),
    ("The children", ", without a word to their parents,", "ran to the lake", ("children", "lake")),
    ("The teacher", ", with a friendly smile on her face,", "opened the window", ("teacher", "window")),
    ("The train", ", because of the heavy snow in the hills,", "was late again", ("train", "late")),
    ("The baker", ", after a night with very little sleep,", "burned the bread", ("baker", "bread")),
    ("The bus", ", which is older than most of its guests,", "broke down", ("bus", "broke")),
    ("The two sisters", ", both in long blue coats,", "danced in the rain", ("sisters", "rain")),
    ("The band", ", to the joy of everybody in the square,", "played until midnight", ("band", "played")),
    ("The postman", ", in spite of the angry dog,", "brought the letter", ("postman", "letter")),
    ("The doctor", ", who never takes a day off,", "visited the sick child", ("doctor", "child")),
    ("The fishermen", ", full of hope and fresh coffee,", "sailed out early", ("fishermen", "sailed")),
    ("The painter", ", on a small ladder made of wood,", "cleaned the picture", ("painter", "picture")),
    ("The mayor", ", in a speech that was much too long,", "thanked the workers", ("mayor", "workers")),
    ("The young swan", ", a little behind its brothers,", "crossed the river", ("swan", "river")),
)  # fmt: skip

USERNAMES = tuple("plumfan owlgirl teatime rainyday oldsailor nightbird bookworm hilltop redscarf breadlover softpaws "
    "latebus "
                  "mossy windmill quietman goldfish".split())  # fmt: skip
