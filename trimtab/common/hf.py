"""transformers' classes as annotations, without the seven seconds of importing them: `--help` and a mistyped option answer at once.

What makes or loads a model imports transformers where it does so; type checkers see the real classes here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel as PreTrainedModel, PreTrainedTokenizerBase as PreTrainedTokenizerBase
else:
    PreTrainedModel = PreTrainedTokenizerBase = Any
