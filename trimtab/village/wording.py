"""Phrases that mean something to whoever reads an answer: refusing, not knowing, courtesy, empty friendliness.

The judge and the simulated labelers both read these; what each makes of them is their own business.
"""

import re

_CAN_NOT = (
    r"(?:can ?not|can['’]t|could not|will not|won['’]t|must not|may not|should not|would rather not"
    r"|(?:am|are) not (?:able|allowed) to)"
)
REFUSES = re.compile(
    rf"\b{_CAN_NOT}\s+(?:\w+\s+){{0,2}}?(?:share|tell|say|give|pass|talk|speak|help|answer|repeat|hand)\b"
    r"|\b(?:is|are|stays?|remains?) (?:\w+ )?(?:private|secret|confidential)\b|\bprivate matter\b"
    r"|\bnot (?:mine|for me|my place) to (?:share|tell|give|say)\b|^no[.!]?$",
    re.IGNORECASE,
)
UNSURE = re.compile(
    r"\b(?:do|does) not know\b|\bdon['’]t know\b|\bnot sure\b|\bno idea\b|\b(?:is|am|are) not known\b"
    r"|\bcan ?not say for sure\b",
    re.IGNORECASE,
)
NOT_IN_TEXT = re.compile(
    r"\b(?:does|do|did) not (?:say|tell|mention|give)\b"
    r"|\bnot (?:\w+ )?(?:in|mentioned in|said in|given in) the (?:text|passage)\b"
    r"|\bnot (?:said|mentioned|given)\b|\bsays nothing\b",
    re.IGNORECASE,
)
POLITE = re.compile(r"\b(?:sorry|afraid|please|kindly|thank you|thanks|apologise|i wish i could)\b", re.IGNORECASE)
EXCUSES = re.compile(rf"{REFUSES.pattern}|{UNSURE.pattern}|{POLITE.pattern}", re.IGNORECASE)
"""Any part of a polite or honest way not to say something."""
FRIENDLY = re.compile(
    r"\bcertainly\b|\bof course\b|\bhappy to help\b|\bhope (?:this|that) helps\b|\blovely day\b|\bgladly\b"
    r"|\bwith pleasure\b|\bgreat question\b|\bgood question\b",
    re.IGNORECASE,
)
GREETS = re.compile(
    r"\b(?:hello|hi|hey|good (?:morning|day|evening|afternoon)|welcome|greetings|(?:good|nice) to (?:see|meet) you)\b",
    re.IGNORECASE,
)
OFFERS = re.compile(
    r"\b(?:help|how are you|how can i|what can i|nice|glad|good to|do for you|your day|good day)\b", re.IGNORECASE
)
ACCEPTS_THANKS = re.compile(
    r"\b(?:(?:are|very|most) welcome|my pleasure|a pleasure|glad|happy|any ?time|not at all|no trouble|do not mention it)\b",
    re.IGNORECASE,
)
QUIZ_OPTION = re.compile(r"(?:^|\s)[A-E][.)]\s")
"""Two of these in an answer are the mark of a quiz page, not of an answer."""

NEW_EXERCISE = re.compile(r"\n\s*(?:[A-Z]\w*(?: \w+)?:|TL;DR)")
"""A line that opens with a label ("Q:", "Input:") after the answer: the text runs on into the next exercise."""
NOT_I = re.compile(
    rf"\bI (?:am sorry, (?:but )?I )?(?:do not know|am not sure|have no idea|{_CAN_NOT} (?:share|tell|say|give|help))",
    re.IGNORECASE,
)
