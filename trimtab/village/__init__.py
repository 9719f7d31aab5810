"""The village: a small closed world with text, prompts, demonstrations, a gold judge and simulated labelers.

It makes alignment measurable without a download and without people: every statement can be looked up.
"""

from trimtab.village.demonstrations import demonstrations
from trimtab.village.feedback import VillageJudge
from trimtab.village.labelers import Pool
from trimtab.village.prompts import prompts, raw_prompts
from trimtab.village.summary import fingerprint, summary
from trimtab.village.text import documents

__all__ = ["Pool", "VillageJudge", "demonstrations", "documents", "fingerprint", "prompts", "raw_prompts", "summary"]
