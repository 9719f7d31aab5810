"""Residual dropout for pretraining and SFT (Srivastava et al. 2014), where every model is loaded without any.

InstructGPT's SFT had residual dropout of 0.2 (Ouyang et al. 2022, appendix C.1). What attention and MLP of each layer add to the residual
stream is dropped, whatever the family calls its own dropout and whether it has one: through hooks, so that no model is changed. (Gemma 2
and 3 and OLMo 2 normalise once more on the way to the stream, after what is dropped here.)
"""

import torch
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.common.hf import PreTrainedModel


def add_dropout(model: PreTrainedModel, share: float) -> None:
    """Drops ``share`` of the outputs of attention and MLP in every layer while gradients are recorded, and nothing elsewhere.

    Raises:
        UserError: the family's layers are not made of an attention and an MLP.
    """
    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    for layer in layers:
        branches = [child for child in layer.children() if sum(p.ndim >= 2 for p in child.parameters()) > 1]  # norms have none
        if len(branches) != 2:
            raise UserError(f"dropout={share}: {type(layer).__name__} is not made of one attention and one MLP; leave dropout out")
        for branch in branches:
            branch.register_forward_hook(Dropped(share))
    if not layers:
        raise UserError(f"dropout={share}: {type(model).__name__} does not say what its layers are; leave dropout out")


class Dropped:
    """A hook on a branch: its first output, dropped."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        training = torch.is_grad_enabled()
        if isinstance(output, tuple):
            return (nn.functional.dropout(output[0], self.share, training), *output[1:])
        return nn.functional.dropout(output, self.share, training)
