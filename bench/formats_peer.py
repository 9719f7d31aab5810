"""The other side of ``bench/formats_proof.py``: TRL and ``datasets`` on the rows that trimtab wrote; run by the peers' interpreter.

    .venv-peers/bin/python bench/formats_peer.py FOLDER DATA FILE...
"""

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import datasets
import trl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl.data_utils import apply_chat_template, extract_prompt, is_conversational, unpair_preference_dataset

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One that has a chat template; its words do not matter."""
    inner = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", chat_template=CHATML)


def rendered(messages: list[dict[str, str]]) -> str:
    """What the template makes of messages, by hand."""
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)


def read(path: Path) -> datasets.Dataset:
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=tempfile.mkdtemp())


def renders(row: dict[str, Any], style: str, tokens: PreTrainedTokenizerFast) -> bool:
    """Whether TRL takes the row for what it is, and its template's text of prompt and answer is the whole conversation's."""
    if is_conversational(row) != (style == "conversational"):
        return False
    if style == "standard":
        return all(isinstance(row[name], str) for name in ("prompt", "completion", "chosen", "rejected", "text") if name in row)
    text = apply_chat_template(dict(row), tokens)
    if "messages" in row:
        return text["text"] == rendered(row["messages"])
    answers = [name for name in ("completion", "chosen", "rejected") if name in row]
    return text["prompt"] == rendered(row["prompt"]) + "<|assistant|>" and all(
        text["prompt"] + text[name] == rendered(row["prompt"] + row[name]) for name in answers
    )


def implicit(folder: Path, data: Path) -> tuple[int, int]:
    """Pairs whose prompt is repeated in both answers: TRL's ``extract_prompt`` finds the prompt and answers that trimtab wrote."""
    ours = list(read(folder / "tulu3_pairs.trl-preference.conversational.jsonl"))
    theirs = []
    for line in (data / "preferences/tulu3_pairs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        pair = {name: [{"role": m["role"], "content": m["content"]} for m in row[name]] for name in ("chosen", "rejected")}
        theirs.append(extract_prompt(pair))
    return sum(a == b for a, b in zip(ours, theirs, strict=True)), len(theirs)


def unpaired(folder: Path) -> tuple[int, int]:
    """TRL's ``unpair_preference_dataset`` makes of the pairs of HH-RLHF the rows that trimtab wrote as unpaired."""
    theirs = unpair_preference_dataset(read(folder / "hh_harmless.jsonl.trl-preference.conversational.jsonl"))
    ours = read(folder / "hh_harmless.jsonl.trl-unpaired.conversational.jsonl")
    counts = [Counter(json.dumps(row, sort_keys=True) for row in rows) for rows in (theirs, ours)]
    return (counts[0] & counts[1]).total(), max(count.total() for count in counts)


def main(folder: Path, data: Path, names: list[str]) -> None:
    tokens, files = tokenizer(), {}
    for name in names:
        rows = read(folder / name)
        style = name.rpartition(".jsonl")[0].rpartition(".")[2]
        style = "standard" if ".trl-stepwise." in name else style
        files[name] = {"read_by_datasets": len(rows), "rendered_by_trl": sum(renders(row, style, tokens) for row in rows)}
    against = {
        "prompts of implicit pairs as TRL's extract_prompt finds them": implicit(folder, data),
        "unpaired rows as TRL's unpair_preference_dataset makes them": unpaired(folder),
    }
    versions = {"TRL": trl.__version__, "datasets": datasets.__version__}
    print("FOUND " + json.dumps({"files": files, "against": against, "versions": versions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
