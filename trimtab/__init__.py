"""trimtab: from a next-token predictor to an assistant people prefer, the whole loop in one place.

``import trimtab as tt``: everything the command line does is a few plain calls. Names are imported when first used, so that
``import trimtab`` costs nothing.
"""

import importlib
import os
from typing import Any

# Threads that wait for each other spin for a moment and then sleep. GNU OpenMP's own moment is so long that two trainings on one machine
# are each eight to fifteen times slower than alone; with this one about four times (docs/log.md). It is read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"

# public name -> the module that has it
_HOMES = {
    "Message": "records", "Prompt": "records", "Demonstration": "records", "Completion": "records", "Comparison": "records",
    "PromptTree": "trees", "TreeBatch": "trees",
    "read_prompts": "data.formats", "read_demonstrations": "data.formats", "read_comparisons": "data.formats",
    "ReadSettings": "data.formats", "check_file": "data.convert", "convert_file": "data.convert",
    "write_records": "data.files", "Renderer": "data.template",
    "curate": "data.curate.pipeline", "CurateSettings": "data.curate.settings",
    "prompt_trees": "data.encode", "demonstration_trees": "data.encode", "comparison_trees": "data.encode",
    "load_policy": "models.load", "load_scorer": "models.load", "load_tokenizer": "models.load", "save_model": "models.load",
    "score_tokens": "models.score", "score_rewards": "models.score", "score_values": "models.score",
    "NativeEngine": "sampling.engine", "SamplingOptions": "sampling.protocol",
    "Rule": "feedback.protocol", "RewardModel": "feedback.reward_model", "Ensemble": "feedback.ensemble",
    "Method": "training.method", "MicroBatch": "training.method", "State": "training.method",
    "run": "methods.build", "run_method": "methods.build", "Trained": "methods.build", "resolve_feedback": "verbs.feedback",
    "diagnose": "doctor.examine", "write_report": "report", "UserError": "common.errors",
}  # fmt: skip

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trimtab.{_HOMES[name]}"), name)
