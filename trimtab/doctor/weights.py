"""The weights: whether they load, fit the tokenizer, are numbers, and were ever trained."""

from collections import Counter

import torch
from torch import Tensor

from trimtab.doctor.check import Group, NotApplicable, Result, fail, ok, warning
from trimtab.doctor.probes import ONE_TURN
from trimtab.doctor.subject import Subject, as_list

GROUP = Group("Weights")
FLOATS = {"float32", "bfloat16", "float16"}


@GROUP.check(
    "model loads",
    means="What cannot be loaded, lacks weights, or has an architecture whose attention is not exact on packed trees cannot be trained.",
    do="Read the sentence: it names what is missing. A whole folder holds config.json, safetensors and a tokenizer.",
)
def model_loads(s: Subject) -> Result:
    found = s.model_attempt
    if found.value is None:
        return fail(found.error)
    return ok(f"{type(found.value).__name__}, {s.size}", weights=sum(p.numel() for p in found.value.parameters()))


@GROUP.check(
    "vocabulary",
    means="A token id beyond the embedding table ends training with an index error, or on a GPU with a kernel that dies later. A table "
    "that is longer than the vocabulary is only padded.",
    do="model.resize_token_embeddings(len(tokenizer)), then save; trimtab's sft does so when it adds a chat template.",
)
def vocabulary(s: Subject) -> Result:
    ids = s.tokenizer.get_vocab().values()
    most = max(ids) + 1
    rows = s.model.get_input_embeddings().num_embeddings if s.model_attempt.value is not None else int(s.settings.vocab_size)
    if most > rows:
        beyond = sorted(i for i in ids if i >= rows)
        found = f"the tokenizer has ids up to {most - 1}, the embeddings {rows:,} rows: {s.named(beyond[0])} has none"
        return fail(found, ids=most, rows=rows)
    configured = as_list(getattr(s.settings, "eos_token_id", None)) + as_list(getattr(s.settings, "pad_token_id", None))
    configured += [] if s.scores else [*s.stops, *as_list(s.generation.pad_token_id)]
    if outside := [i for i in configured if not 0 <= i < rows]:
        return fail(f"the configuration names token {outside[0]}, the embeddings have {rows:,} rows", "Name one of the tokenizer's tokens.")
    spare = f", {rows - most:,} rows more than it needs (padding)" if rows > most else ""
    return ok(f"{len(s.tokenizer):,} tokens, {rows:,} embedding rows{spare}", ids=most, rows=rows)


@GROUP.check(
    "trained tokens",
    means="A token that was added and never trained has a row of zeros, or the row of another new token: the model cannot tell it from "
    "others, and where it starts or ends a turn, turns mean nothing yet.",
    do="Normal before the first training with this template; otherwise train (the embeddings too: with LoRA they are frozen).",
)
def trained_tokens(s: Subject) -> Result:
    table = s.model.get_input_embeddings().weight.detach()
    special = set(s.tokenizer.added_tokens_decoder)
    used = special & set(s.encode(s.render(ONE_TURN))) if s.tokenizer.chat_template else set[int]()
    used |= {i for i in (s.tokenizer.eos_token_id,) if i is not None}
    used = {i for i in used if i < len(table)}
    norms = table.float().norm(dim=1)
    typical = float(norms.median())
    empty = [i for i in sorted(used) if float(norms[i]) < 1e-3 * typical]
    twins = [i for i in sorted(used) if i not in empty and _has_twin(table, norms, i)]
    if empty or twins:
        said = [f"rows near zero: {_names(s, empty)}"] if empty else []
        said += [f"rows that another token has too: {_names(s, twins)}"] if twins else []
        return warning("; ".join(said), untrained=len(empty) + len(twins), used=len(used))
    return ok(f"all {len(used)} special tokens in use have rows of their own", untrained=0, used=len(used))


def _has_twin(table: Tensor, norms: Tensor, row: int) -> bool:
    """Whether another row is the same; only those of about its length are compared."""
    same = table[torch.isclose(norms, norms[row])]
    return int((same == table[row]).all(1).sum()) > 1


def _names(s: Subject, ids: list[int]) -> str:
    return ", ".join(map(s.named, ids[:4])) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")


@GROUP.check(
    "tied weights",
    means="If config.json says that input and output embeddings are one table and the file holds two, one of them is lost the next time "
    "the model is saved by a program that believes the configuration.",
    do="Set tie_word_embeddings to what was trained: false keeps both tables.",
)
def tied_weights(s: Subject) -> Result:
    if s.scores:
        raise NotApplicable("a reward model has no output embeddings")
    head, table = s.model.get_output_embeddings(), s.model.get_input_embeddings()
    if head is None:
        raise NotApplicable("no output embeddings")
    if len(head.weight) != len(table.weight):
        return fail(f"{len(table.weight):,} input rows, {len(head.weight):,} output rows", "Resize both to the tokenizer's length.")
    says = bool(getattr(s.settings.get_text_config(), "tie_word_embeddings", False))
    one = head.weight.data_ptr() == table.weight.data_ptr()
    if says and not one and not torch.equal(head.weight, table.weight):
        return fail("config.json says one table, the weights hold two different ones", tied=False)
    return ok("input and output share one table" if one else "two tables, as config.json says", tied=one)


@GROUP.check(
    "finite",
    means="A NaN or an infinity in one weight makes every logprob a NaN.",
    do="Take an earlier checkpoint; the one that was saved came after the training had diverged.",
)
def finite(s: Subject) -> Result:
    broken, count = s.broken_weights, len(s.model.state_dict())
    if broken:
        return fail(f"{len(broken)} of {count} tensors hold NaN or infinity: {', '.join(broken[:3])}", broken=len(broken), tensors=count)
    return ok(f"all {count} tensors hold numbers", broken=0, tensors=count)


@GROUP.check(
    "number format",
    means="Weights are loaded as float32 whatever they are stored in; a quantised checkpoint has lost what training would need.",
    do="Start from the model that was quantised; trimtab quantises the frozen weights itself (lora.quantize=nf4).",
)
def number_format(s: Subject) -> Result:
    stored = str(getattr(s.settings, "dtype", None) or "float32").removeprefix("torch.")
    if getattr(s.settings, "quantization_config", None):
        return warning("quantised, as quantization_config in config.json says")
    if stored not in FLOATS:
        return warning(f"stored as {stored}")
    loaded = Counter(str(p.dtype).removeprefix("torch.") for p in s.model.parameters())
    return ok(f"stored as {stored}, computed in {', '.join(loaded)}", stored=stored)
