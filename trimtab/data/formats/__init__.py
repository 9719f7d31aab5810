"""Every common format -> native records. Detected row by row; a format is one function that says a row in native terms.

Where things are: ``table.py`` has the list of formats, each family in a file of its own (``trl.py``, ``rankings.py``, ...);
``read.py`` turns files into records and keeps account of every row. Fields that no format knows stay in ``extra``.
"""

from trimtab.data.formats.account import Account
from trimtab.data.formats.base import DEFAULT, Format, LookSettings, RankSettings, ReadSettings, only_looking
from trimtab.data.formats.convert import convert
from trimtab.data.formats.messages import parse_transcript, split_pair
from trimtab.data.formats.ranks import dense_ranks
from trimtab.data.formats.read import (
    Found,
    Kind,
    Reading,
    Skipped,
    as_kind,
    kind_of,
    left_out_file,
    only,
    read,
    read_answers,
    read_any,
    read_comparisons,
    read_demonstrations,
    read_prompts,
    reading,
    refuse_shared_ids,
    scan,
    stream,
)
from trimtab.data.formats.table import BY_NAME, FORMATS, detect

__all__ = [
    "Account", "BY_NAME", "DEFAULT", "FORMATS", "Format", "Found", "Kind", "LookSettings", "RankSettings", "ReadSettings", "Reading",
    "Skipped", "as_kind", "convert", "dense_ranks", "detect", "kind_of", "left_out_file", "only", "only_looking", "parse_transcript",
    "read", "read_answers", "read_any", "read_comparisons", "read_demonstrations", "read_prompts", "reading", "refuse_shared_ids",
    "scan", "split_pair", "stream",
]  # fmt: skip
