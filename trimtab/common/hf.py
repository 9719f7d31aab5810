"""transformers' classes as annotations, without importing them: seven of the ten seconds that a mistyped option waited for its line.

``from transformers import PreTrainedModel`` at the head of a module imports all that models need. What makes or loads one writes
``transformers.AutoModelForCausalLM`` where it does so, which imports it then. Type checkers see the real classes here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel as PreTrainedModel, PreTrainedTokenizerBase as PreTrainedTokenizerBase
else:
    PreTrainedModel = PreTrainedTokenizerBase = Any
