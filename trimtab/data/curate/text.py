"""What of a prompt is compared with other prompts: its conversation, normalised, and its words.

A system message is not compared: one application gives all its users' prompts the same.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

# Scripts that write without spaces: there every character is a word.
_ALONE = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(f"[{_ALONE}]|[^\\W{_ALONE}]+")
AT_THE_END = " .,;:!?…"


def conversation(record: Mapping[str, Any]) -> str:
    """The text of a prompt's messages, system messages aside, one after another."""
    return "\n".join(message["content"] for message in record["messages"] if message["role"] != "system")


def normalise(text: str) -> str:
    """NFKC, lower case (casefold), runs of white space as one space, no punctuation at the end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(AT_THE_END)


def words(text: str) -> list[str]:
    """The words of a normalised text, punctuation aside.

    >>> words("write a poem, 3 lines")
    ['write', 'a', 'poem', '3', 'lines']
    """
    return WORD.findall(text)
