"""What a reference model says of fixed data, computed once and kept on disk: no forward pass and no memory of it while training.

The answers' log P(y|x) are computed before the first step, in the very micro-batches of the first pass over the data, so that in this
pass and in every evaluation the losses are those of a run without the file, bit for bit. From the second pass on such a run computes them
again in other micro-batches, which rounds otherwise (docs/log.md has by how much); here they stay what they were.

A file is found again by a hash of everything that its numbers depend on: the reference's weights and configuration, the number format of
products, whose attention runs on a CPU, and the token ids of all micro-batches, in their order. A run with another learning rate, beta or
loss finds it; one with another order of the data, another tokenizer or another limit on length makes its own.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load, save as safetensors_save
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.common.files import atomic_write, check_writable, read_json, write_json
from trimtab.common.hf import PreTrainedModel
from trimtab.common.kernels import attention
from trimtab.common.precision import in_bf16, products
from trimtab.common.progress import Progress
from trimtab.methods.offline import FixedData
from trimtab.models.score import score_tokens
from trimtab.trees import PromptTree, TreeBatch, pack_by_budget, step_indices

FORMAT = 1


@dataclass(frozen=True)
class KeptLogprobs:
    """log P(y|x) of every completion of trees, by the trees themselves (not by what they hold: copies of one tree may round otherwise)."""

    by_tree: dict[int, Tensor]  # id(tree) -> (K,) float32
    trees: Sequence[PromptTree]  # kept alive, so that an id stays theirs

    def of(self, batch: TreeBatch) -> Tensor:
        """(C,) float32, in the batch's order, on the CPU."""
        return torch.cat([self.by_tree[id(tree)] for tree in batch.trees])


def kept_logprobs(
    name: str, folder: str, reference: PreTrainedModel, data: FixedData, steps: int, dtype: str
) -> KeptLogprobs:  # fmt: skip
    """What ``reference`` says of the trees that ``steps`` optimizer steps on ``data`` use and of those held out; from ``folder`` where it
    is there, else computed and written there. One line says which.

    Raises:
        UserError: the folder cannot be written.
    """
    groups = list(groups_of(data, steps))
    first = {id(tree): tree for group in groups for tree in group}
    key = content_key(reference, groups, dtype)
    path = Path(folder) / f"reference-{key[:16]}.safetensors"
    check_writable(path, overwrite=True)
    found = read(path, key, sum(len(tree.completions) for tree in first.values()))
    if isinstance(found, str):
        print(f"{name}: {path}: {found}; computed again")
    if isinstance(found, Tensor):
        flat = found
        print(f"{name}: reference logprobs of {len(flat):,} answers, read from {path}")
    else:
        flat = computed(name, reference, groups, dtype)
        write(path, key, flat)
        print(f"{name}: reference logprobs of {len(flat):,} answers, kept in {path}")
    parts = flat.split([len(tree.completions) for tree in first.values()])
    return KeptLogprobs(dict(zip(first, parts, strict=True)), list(first.values()))


def groups_of(data: FixedData, steps: int) -> Iterator[list[PromptTree]]:
    """The trees of each micro-batch of the first pass over the data (or of ``steps`` optimizer steps, if they are fewer), then of an
    evaluation."""
    for step in range(min(steps, -(-len(data.trees) // data.batch_size))):
        chosen = step_indices(len(data.trees), data.batch_size, data.seed, step)
        yield from pack_by_budget([data.trees[i] for i in chosen], data.budget)
    yield from pack_by_budget(data.held_out[: data.eval_limit or None], data.budget)


@torch.no_grad()
def computed(name: str, reference: PreTrainedModel, groups: Sequence[Sequence[PromptTree]], dtype: str) -> Tensor:
    """(all completions,) float32: of each tree once, from the first micro-batch that it is in."""
    parts: dict[int, Tensor] = {}
    with Progress(f"{name} reference", sum(map(len, groups)), "prompts") as bar, products(dtype):
        for group in groups:
            batch = TreeBatch.pack(group).to(reference.device)
            sums = batch.sum_by_completion(score_tokens(reference, batch).logprobs).cpu()
            for tree, part in zip(group, sums.split([len(tree.completions) for tree in group]), strict=True):
                parts.setdefault(id(tree), part.clone())
            bar.advance(len(group))
    return torch.cat(list(parts.values()))


def content_key(reference: PreTrainedModel, groups: Sequence[Sequence[PromptTree]], dtype: str) -> str:
    """SHA-256 of all that the numbers depend on."""
    digest = hashlib.sha256(f"{FORMAT} {'bfloat16' if in_bf16(dtype) else 'float32'} {attention(reference.device)}".encode())
    digest.update(weights_digest(reference).encode())
    for group in groups:
        digest.update(json.dumps([[tree.prompt, tree.completions, tree.trained] for tree in group]).encode())
    return digest.hexdigest()


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 of a model's configuration and tensors; 4-bit weights count as what they say."""
    known = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    tensors: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    quantised: list[tuple[str, Any]] = [(name, m) for name, m in model.named_modules() if hasattr(m, "quant_type")]
    for name, tensor in (*tensors, *((name, layer.dequantize()) for name, layer in quantised)):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write(path: Path, key: str, logprobs: Tensor) -> None:
    """The numbers, then what they are of: without the second file the first is not there."""
    data = safetensors_save({"logprobs": logprobs.contiguous()})
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    write_json(path.with_suffix(".json"), {"key": key, "answers": len(logprobs), "sha256": hashlib.sha256(data).hexdigest()})


def read(path: Path, key: str, answers: int) -> Tensor | str | None:
    """(answers,) float32; None where there is no file; in words what is wrong where it cannot be used."""
    about = path.with_suffix(".json")
    if not path.exists() and not about.exists():
        return None
    try:
        said, data = read_json(about), path.read_bytes()
        if not isinstance(said, dict) or said.get("key") != key:
            return "is of another model or other data"
        if hashlib.sha256(data).hexdigest() != said.get("sha256"):
            return "is damaged (its SHA-256 is not the one beside it)"
        logprobs = safetensors_load(data)["logprobs"]
    except (UserError, OSError, SafetensorError, KeyError) as error:
        return f"is damaged ({error})"
    whole = logprobs.shape == (answers,) and logprobs.dtype == torch.float32
    return logprobs if whole else "is damaged (it has other numbers than it says)"
