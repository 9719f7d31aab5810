"""The data in the model's own tokens: what is too long, what the template refuses, what would be trained."""

import re
from dataclasses import dataclass

import numpy as np

from trimtab.common.errors import UserError
from trimtab.data.encode import Report, comparison_trees, demonstration_trees, prompt_trees
from trimtab.data.template import Renderer
from trimtab.doctor.check import Group, NotApplicable, Result, fail, judged, ok
from trimtab.doctor.records import GRAVE, faults, share
from trimtab.doctor.subject import Subject
from trimtab.doctor.survey import prompt_of
from trimtab.records import Comparison, Demonstration, Prompt, Record
from trimtab.trees import PromptTree

GROUP = Group("Data in the model's tokens")
WITHOUT_LIMIT = 1 << 40
TOO_LONG, MUCH_TOO_LONG = 0.01, 0.25
# End tokens of the common families: in an answer's text they are left over from a file in another model's format.
ENDS = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>", "[/INST]")


@dataclass(frozen=True)
class Encoded:
    """One record as training sees it: its tree (one for each answer where the template rewrites earlier turns), none where an answer is
    empty; or why the template refuses it."""

    record: Record
    trees: tuple[PromptTree, ...] = ()
    refused: str = ""

    @property
    def length(self) -> int:
        """Tokens of the longest prompt + completion; a prompt alone needs one more for an answer."""
        return max((tree.longest + (not tree.completions) for tree in self.trees), default=0)

    @property
    def trained(self) -> int:
        """How many tokens are trained on."""
        return sum(sum(map(sum, tree.trained)) if tree.trained else sum(map(len, tree.completions)) for tree in self.trees)


def encoded(s: Subject) -> list[Encoded]:
    """The drawn records in the model's tokens."""
    return s.once("encoded", lambda: [_encode(record, s.renderer) for record in s.data.few(s.config.encode)])


def _encode(record: Record, renderer: Renderer) -> Encoded:
    made: tuple[list[PromptTree], Report]
    try:
        if isinstance(record, Demonstration):
            made = demonstration_trees([record], renderer, WITHOUT_LIMIT)
        elif isinstance(record, Comparison):
            made = comparison_trees([record], renderer, WITHOUT_LIMIT)
        else:
            made = prompt_trees([record], renderer, WITHOUT_LIMIT)
    except UserError as error:
        return Encoded(record, refused=str(error))
    return Encoded(record, tuple(made[0]))


@GROUP.check(
    "template takes them",
    means="A conversation that the chat template refuses (a system message, two user turns in a row) ends the run that meets it.",
    do="Merge or remove the messages that it refuses, or train with a template that takes them (chat_template=FILE).",
)
def template_takes_them(s: Subject) -> Result:
    found = encoded(s)
    refused = {id(e.record): e.refused.removeprefix(f"{prompt_of(e.record).id}: ") for e in found if e.refused}
    clean = f"all of {len(found):,} drawn records"
    return faults([e.record for e in found], lambda record: refused.get(id(record), ""), "are refused by the template", clean=clean)


@GROUP.check(
    "fits the model",
    means="A record that is longer than the model's positions is left out of training (trimtab counts them) or cut, end token and all: a "
    "model that is trained on cut answers never learns to stop.",
    do="Shorten the prompts, raise max_length up to the model's positions, or take a model with more of them.",
)
def fits_the_model(s: Subject) -> Result:
    lengths = np.array([e.length for e in encoded(s) if e.trees])
    if not len(lengths):
        raise NotApplicable("no record could be put into tokens")
    count, longest = int((lengths > s.longest).sum()), s.longest
    found = share(f"records are longer than {longest:,} tokens", count, len(lengths))
    found += f"; median {np.median(lengths):,.0f}, 95 % below {np.percentile(lengths, 95):,.0f}, longest {lengths.max():,}"
    return judged(
        found, bad=count > TOO_LONG * len(lengths), grave=count > MUCH_TOO_LONG * len(lengths), too_long=count, records=len(lengths),
        longest=int(lengths.max()), positions=longest,
    )  # fmt: skip


@GROUP.check(
    "supervised tokens",
    means="A record without a trained token is computed for nothing; where all are so, the loss is 0 and nothing is learnt. The last "
    "trained token must be an end token, or answers never end.",
    do="Look at the colours: trimtab data show FILE --model MODEL.",
)
def supervised_tokens(s: Subject) -> Result:
    found = [e for e in encoded(s) if not isinstance(e.record, Prompt) and not e.refused]
    if not found:
        raise NotApplicable("prompts only")
    idle = sum(not e.trained for e in found)
    if idle:
        return judged(share("records train no token", idle, len(found)), bad=True, grave=idle > GRAVE * len(found), idle=idle)
    end = s.answer_end
    endless = [e for e in found if isinstance(e.record, Demonstration) and not all(_ends(tree, end) for tree in e.trees)]
    if endless:
        first = prompt_of(endless[0].record).id
        return fail(share("records do not end with a trained end token", len(endless), len(found), first), endless=len(endless))
    tokens, trained = sum(tree.tokens for e in found for tree in e.trees), sum(e.trained for e in found)
    return ok(f"{trained:,} of {tokens:,} tokens of {len(found):,} records ({100 * trained / tokens:.0f} %)", idle=0, trained=trained)


def _ends(tree: PromptTree, end: int | None) -> bool:
    last = tree.completions[0][-1]
    return last == end and (tree.trained is None or tree.trained[0][-1])


@GROUP.check(
    "typed end tokens",
    means="An end token that is written out in an answer is text there: the model learns to write it letter by letter, after which it goes "
    "on, since the real end token comes later.",
    do="Remove it from the texts: the end token is added when they are put into tokens.",
)
def end_tokens_in_answers(s: Subject) -> Result:
    own = [t.content for t in s.tokenizer.added_tokens_decoder.values() if t.special] if s.tokenizer_attempt.value is not None else []
    typed = re.compile("|".join(map(re.escape, sorted({*own, *ENDS}, key=len, reverse=True))))

    def wrong(record: Record) -> str:
        texts = [record.completion] if isinstance(record, Demonstration) else []
        texts += [c.text for c in record.completions] if isinstance(record, Comparison) else []
        match = next((m for text in texts if (m := typed.search(text))), None)
        return f"an answer holds {match.group()}" if match else ""

    if not s.data.answers:
        raise NotApplicable("prompts only")
    return faults(s.data.records, wrong, "have a special token in an answer's text", grave=0.1, clean="none holds a special token as text")


@GROUP.check(
    "token ids",
    means="Ids that an engine sampled are trained on as they are if they are this tokenizer's; others are made from the text again, and "
    "may not be what was sampled.",
    do="Sample with this very model's tokenizer, or leave token_ids out.",
)
def token_ids(s: Subject) -> Result:
    answers = [c for comparison in s.data.comparisons for c in comparison.completions if c.token_ids is not None]
    if not answers:
        raise NotApplicable("the file holds no token ids")
    own = [c for c in answers if c.tokenizer == s.renderer.sha]
    rows = s.model.get_input_embeddings().num_embeddings
    beyond = sum(any(not 0 <= i < rows for i in c.token_ids or ()) for c in own)
    if beyond:
        return fail(share("answers hold ids that the model does not know", beyond, len(own)), beyond=beyond)
    other = len(answers) - len(own)
    found = f"{len(own):,} answers with this tokenizer's ids" + (f", {other:,} with another's (encoded again)" if other else "")
    return judged(found, bad=other > 0, grave=False, own=len(own), other=other)
