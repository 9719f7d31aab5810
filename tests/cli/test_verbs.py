"""Verbs from the command line: several answers to a prompt, files that need a word more, a folder in use, a model without template."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import plain_logprobs, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.cli import main
from trimtab.common.errors import UserError
from trimtab.data.template import Renderer
from trimtab.models.load import load_scorer, load_tokenizer, save_model
from trimtab.training.folder import locked
from trimtab.verbs.sample import name_of
from trimtab.village.judge import judge
from trimtab.village.prompts import prompts


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers(folder: Path, name: str, texts: list[list[str]]) -> str:
    """A file in which model ``name`` gives the first test prompts these answers."""
    rows = [
        {**p.to_json(), "completions": [{"text": t, "model": name} for t in row], "ranks": [None] * len(row)}
        for p, row in zip(prompts("test"), texts, strict=False)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"{folder}/{name}.jsonl"


def test_every_answer_is_judged_and_has_its_own_logprobs(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = {"sft": [["A bear went home.", "I do not know."], ["She likes plums.", "No."]]}
    said["ppo"] = [["Once there was a bear."], ["I do not know.", "Yes."]]
    files = {name: answers(tmp_path, name, texts) for name, texts in said.items()}
    base = f"{workshop}/base/model"
    words = [f"answers={json.dumps(files)}", f"models={json.dumps({'ppo': base})}", f"reference={base}", "out=e"]
    assert main(["eval", "winrate", *words]) == 0
    rows = lines(tmp_path / "e/samples.jsonl")
    assert [(r["model"], r["completion"]) for r in rows] == [(m, t) for m in said for row in said[m] for t in row]
    for row in rows:
        prompt = next(p for p in prompts("test") if p.id == row["id"])
        assert row["gold"] == judge(prompt, row["completion"]).score
        assert (row["logprob"] is None) == (row["model"] == "sft")
    assert main(["logprobs", base, files["ppo"], "-o", "own.jsonl"]) == 0
    alone = [x for row in lines(tmp_path / "own.jsonl") for x in row["logprobs"]]
    assert [r["logprob"] for r in rows if r["model"] == "ppo"] == pytest.approx(alone, rel=1e-5)
    assert [r["reference_logprob"] for r in rows if r["model"] == "ppo"] == pytest.approx(alone, rel=1e-5)
    results = json.loads((tmp_path / "e/results.json").read_text())
    figures = {m["name"]: m["figures"] for m in results["models"]}
    golds = [[r["gold"] for r in rows if (r["model"], r["id"]) == ("sft", p.id)] for p in prompts("test")[:2]]
    assert figures["sft"]["gold"]["value"] == pytest.approx(sum(sum(g) / 2 for g in golds) / 2)
    assert (figures["ppo"]["gold"]["n"], results["answers_each"]) == (2, 2) and figures["ppo"]["kl"]["value"] == 0


def test_rows_that_sampling_leaves_out_are_told_and_written_beside_the_answers(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "elsewhere" / "a.jsonl"
    data.parent.mkdir()
    data.write_text('{"prompt": "Where is the bear?"}\nnot JSON\n')
    words = ["sample", f"{workshop}/base", str(data), "max_tokens=4", "template=plain", "-o", f"{tmp_path}/out/b.jsonl"]
    assert main(words) == 2 and main([*words, "skip_bad=true"]) == 0
    said = capsys.readouterr().out
    assert "2 rows (trl-prompt 1), 1 kept with 1 prompt; 1 left out: not JSON 1" in said
    assert [row["where"] for row in lines(tmp_path / "out/a.jsonl.left-out.jsonl")] == [f"{data}:2"]
    assert f"what was left out is in {tmp_path}/out/a.jsonl.left-out.jsonl" in said
    assert [path.name for path in data.parent.iterdir()] == ["a.jsonl"]


def test_demonstrations_and_answers_in_any_format_have_logprobs_and_scores(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line by line: transformers' own logprobs of the last answer and its end token, given all before it as the template writes it."""
    monkeypatch.chdir(tmp_path)
    base = f"{workshop}/base/model"
    talk = [("user", "Who keeps the mill?"), ("assistant", "A bear."), ("user", "Where?")]
    alpaca = {"id": "a", "instruction": "Name the owl.", "output": "She is Wren."}
    native = {"id": "n", "messages": [{"role": r, "content": c} for r, c in talk], "completion": "By the pond."}
    ranked = {"id": "r", "prompt": "Is it late?", "chosen": "No.", "rejected": "I do not know."}
    write_lines(Path("mixed.jsonl"), [alpaca, native, ranked])
    answers = [
        ([("user", "Name the owl.")], ["She is Wren."]), (talk, ["By the pond."]), ([("user", "Is it late?")], ["No.", "I do not know."]),
    ]  # fmt: skip
    assert main(["logprobs", base, "mixed.jsonl"]) == 0
    rows = lines(tmp_path / "logprobs.jsonl")
    assert [row["id"] for row in rows] == ["a", "n", "r"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    for row, (before, texts) in zip(rows, answers, strict=True):
        shown = tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in before], add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(shown, add_special_tokens=False).input_ids
        ids = [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in texts]
        assert row["tokens"] == [len(c) for c in ids]
        expected = [float(plain_logprobs(plain, prompt, c).detach().sum()) for c in ids]
        assert row["logprobs"] == pytest.approx(expected, rel=1e-5)
    save_model(load_scorer(base), load_tokenizer(base), tmp_path / "reward")
    assert main(["score", "reward", "mixed.jsonl"]) == 0
    native_form = [
        {"id": row["id"], "messages": [{"role": r, "content": c} for r, c in before], "completions": [{"text": t} for t in texts]}
        for row, (before, texts) in zip(rows, answers, strict=True)
    ]
    write_lines(Path("answers.jsonl"), [{**row, "ranks": [None] * len(row["completions"])} for row in native_form])
    assert main(["score", "reward", "answers.jsonl", "-o", "again.jsonl"]) == 0
    assert lines(tmp_path / "scores.jsonl") == lines(tmp_path / "again.jsonl")
    assert [len(row["rewards"]) for row in lines(tmp_path / "scores.jsonl")] == [1, 1, 2]
    write_lines(Path("asked.jsonl"), [alpaca, {"prompt": "Name the owl."}])
    capsys.readouterr()
    assert main(["logprobs", base, "asked.jsonl", "-o", "none.jsonl"]) == 2
    assert "asked.jsonl:2: found a prompt (trl-prompt format), needed an answer too" in capsys.readouterr().err
    Path("nothing.jsonl").write_text("\n")
    assert main(["logprobs", base, "nothing.jsonl", "-o", "none.jsonl"]) == 2
    assert "nothing.jsonl: holds no answers" in capsys.readouterr().err and not Path("none.jsonl").exists()


def test_what_a_reward_model_cannot_read_is_left_out_and_counted(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny model reads 256 tokens: of three rows the last is longer; the others' rewards are those of a file without it."""
    monkeypatch.chdir(tmp_path)
    save_model(load_scorer(workshop / "base"), load_tokenizer(workshop / "base"), tmp_path / "reward")
    texts = {"a": ["Yes.", "No."], "b": ["By the pond.", "I do not know."], "c": ["Short.", "A mill by the pond. " * 100]}
    rows = [
        {"id": name, "messages": [{"role": "user", "content": "Where?"}], "completions": [{"text": t} for t in row], "ranks": [None, None]}
        for name, row in texts.items()
    ]
    write_lines(Path("answers.jsonl"), rows)
    write_lines(Path("short.jsonl"), rows[:2])
    assert main(["score", "reward", "answers.jsonl"]) == 0
    line = "1 of 3 longer than the 256 tokens that the reward model reads (c) left out"
    assert f"score: answers.jsonl: {line}" in capsys.readouterr().out
    assert main(["score", "reward", "short.jsonl", "-o", "expected.jsonl"]) == 0
    assert lines(Path("scores.jsonl")) == lines(Path("expected.jsonl"))
    assert main(["rank", "answers.jsonl", "by=reward:reward"]) == 0
    assert f"rank: {line}" in capsys.readouterr().out
    assert [row["id"] for row in lines(Path("rankings.jsonl"))] == ["a", "b"]
    write_lines(Path("long.jsonl"), rows[2:])
    assert main(["score", "reward", "long.jsonl", "-o", "none.jsonl"]) == 2
    assert "score: long.jsonl: 1 of 1 longer than the 256 tokens" in capsys.readouterr().err and not Path("none.jsonl").exists()


def test_a_prompt_that_one_model_answered_too_long_is_compared_for_none(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three prompts the second is answered at too great length by the second model: both are judged on the other two."""
    monkeypatch.chdir(tmp_path)
    save_model(load_scorer(workshop / "base"), load_tokenizer(workshop / "base"), tmp_path / "reward")
    long = "A mill by the pond. " * 100
    for model, texts in {"sft": ["Yes.", "No.", "By the pond."], "dpo": ["No.", long, "I do not know."]}.items():
        asked = {"messages": [{"role": "user", "content": "Where?"}], "ranks": [None]}
        rows = [{"id": name, **asked, "completions": [{"text": text}]} for name, text in zip("abc", texts, strict=True)]
        write_lines(Path(f"{model}.jsonl"), rows)
    words = ["eval", "winrate", "answers={sft: sft.jsonl, dpo: dpo.jsonl}", "judge=reward:reward", "reward=reward"]
    assert main(words) == 0
    assert "eval winrate: 1 of 3 longer than the 256 tokens that the reward model reads (b) left out" in capsys.readouterr().out
    judged = lines(Path("evaluation/samples.jsonl"))
    assert [(row["model"], row["id"]) for row in judged] == [("sft", "a"), ("sft", "c"), ("dpo", "a"), ("dpo", "c")]


def test_rows_of_one_prompt_are_joined_and_two_rankings_of_it_refused(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(answers(tmp_path, "sft", [["Yes.", "No."]]))
    file.write_text(file.read_text() * 2)
    assert main(["eval", "winrate", f"answers={json.dumps({'sft': str(file)})}", "out=joined"]) == 0
    assert len(lines(tmp_path / "joined/samples.jsonl")) == 4
    file.write_text(file.read_text().replace('"ranks": [null, null]', '"ranks": [1, 2]'))
    assert main(["eval", "winrate", f"answers={json.dumps({'sft': str(file)})}", "out=twice"]) == 2
    assert "ranked in several rows" in capsys.readouterr().err


def test_other_prompts_under_the_same_ids_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = Path(answers(tmp_path, "sft", [["Yes."]])), tmp_path / "other.jsonl"
    row = lines(ours)[0]
    theirs.write_text(json.dumps({**row, "messages": [{"role": "user", "content": "Something else?"}]}) + "\n")
    assert main(["eval", "winrate", f"answers={json.dumps({'sft': str(ours), 'x': str(theirs)})}", f"out={tmp_path}/e"]) == 2
    assert "two different prompts have the id" in capsys.readouterr().err


def test_answers_of_two_models_are_ranked_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each prompt's answers in one ranking, the second file's last; a prompt without a second answer is refused by its name."""
    ours = answers(tmp_path, "sft", [["I do not know.", "Yes."], ["No.", "It is late."]])
    theirs = Path(answers(tmp_path, "base", [["A. Oak Lane B. Hill Road"], ["A. Seven B. Nine"]]))
    out = tmp_path / "ranked.jsonl"
    assert main(["rank", ours, "--by", "gold", f"also={theirs}", "-o", str(out)]) == 0
    for row, prompt in zip(lines(out), prompts("test"), strict=False):
        texts, models = [c["text"] for c in row["completions"]], [c["model"] for c in row["completions"]]
        assert models == ["sft", "sft", "base"]
        scores = [judge(prompt, text).score for text in texts]
        assert row["ranks"] == [1 + sum(x > own for x in scores) for own in scores]
    theirs.write_text(theirs.read_text().splitlines()[0] + "\n")
    assert main(["rank", ours, "--by", "gold", f"also={theirs}", "-o", f"{tmp_path}/other.jsonl"]) == 2
    assert "no answers to prompt village-test-000002" in capsys.readouterr().err


def test_streams_of_one_seed_draw_other_answers(workshop: Path, tmp_path: Path) -> None:
    texts = {}
    for name, stream in (("a", 0), ("b", 0), ("c", 1)):
        words = ["sample", f"{workshop}/base", f"{workshop}/world/prompts.test.jsonl", "max_tokens=8", f"stream={stream}"]
        assert main([*words, "-o", f"{tmp_path}/{name}.jsonl"]) == 0
        texts[name] = [c["text"] for row in lines(tmp_path / f"{name}.jsonl") for c in row["completions"]]
    assert texts["a"] == texts["b"] and not set(texts["a"]) & set(texts["c"])


def test_a_file_that_does_not_say_which_rank_is_best_is_converted_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    items = [{"sys_summ": text, "rank": rank} for text, rank in (("best", 2), ("worst", 0), ("middle", 1))]
    Path("ranked.json").write_text(json.dumps({"a1": items}))
    assert main(["data", "convert", "ranked.json"]) == 2
    assert "add ranks.best=low (0 is the best) or ranks.best=high" in capsys.readouterr().err
    assert main(["data", "convert", "ranked.json", "ranks.best=high", "-o", "out.jsonl"]) == 0
    assert lines(Path("out.jsonl"))[0]["ranks"] == [1, 3, 2]
    assert main(["data", "check", "ranked.json", "ranks.best=high"]) == 0 and main(["data", "check", "ranked.json"]) == 2


def test_a_folder_in_use_is_left_alone(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sft", f"model={workshop}/base", f"data={workshop}/world/demonstrations.jsonl", f"out={tmp_path}/run", "steps=1", "threads=1"]
    with locked(tmp_path / "run"):
        assert main(words) == 2
    assert "another process is at work in this folder" in capsys.readouterr().err
    assert not (tmp_path / "run/run.json").exists() and main(words) == 0


def test_a_model_that_was_lost_although_every_number_was_finite_is_told(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sft", f"model={workshop}/base", f"data={workshop}/world/demonstrations.jsonl", "steps=6", "batch_size=4", "warmup=0"]
    assert main([*words, "lr=1", f"out={tmp_path}/lost"]) == 0
    assert "warning: The loss ended at " in capsys.readouterr().out
    assert main([*words, "lr=1e-4", f"out={tmp_path}/kept"]) == 0
    assert "warning:" not in capsys.readouterr().out


def test_rankings_that_teach_nothing_are_counted(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {**p.to_json(), "completions": [{"text": "A."}, {"text": "B."}], "ranks": ranks}
        for p, ranks in zip(prompts("test"), ([1, 2], [1, 1], [2, 1]), strict=False)
    ]
    (tmp_path / "three.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["simpo", f"model={workshop}/base", f"data={tmp_path}/three.jsonl", "steps=1", "batch_size=2", f"out={tmp_path}/run"]
    assert main(words) == 0
    assert f"simpo: {tmp_path}/three.jsonl 1 ranking without two answers of different rank: nothing is" in capsys.readouterr().out


def test_answers_are_called_after_the_run_that_made_the_model(workshop: Path, tmp_path: Path) -> None:
    made = []
    for model in (f"{workshop}/base", f"{workshop}/base/model"):
        out = tmp_path / f"{len(made)}.jsonl"
        assert main(["sample", model, f"{workshop}/world/prompts.test.jsonl", "limit=1", "max_tokens=2", "-o", str(out)]) == 0
        made.append(json.loads(out.read_text())["completions"][0]["model"])
    assert made == ["base", "base"] and name_of("hub/model") == "model"


def test_a_run_with_adapters_says_where_they_are_and_doctor_looks_at_them(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"model={workshop}/base", f"data={workshop}/world/demonstrations.jsonl", "steps=2", "batch_size=2", "lora.rank=2"]
    assert main(["sft", *words, "lora.quantize=nf4", f"out={tmp_path}/four"]) == 0
    said = capsys.readouterr().out
    assert f"sft: {tmp_path}/four/adapter holds the adapters alone, for peft, trained beside weights in NF4: on the start" in said
    assert main(["doctor", f"{tmp_path}/four/adapter", "only=special tokens,chat template"]) == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out


def test_a_run_that_goes_on_says_so(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trimtab.training import loop

    words = ["sft", f"model={workshop}/base", f"data={workshop}/world/demonstrations.jsonl", "steps=3", "batch_size=2", "save_every=1"]
    words.append(f"out={tmp_path}/run")

    def stopped(config: object, step: int, steps: int) -> float:
        if step == 2:
            raise UserError("stopped")
        return 1e-4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "learning_rate", stopped)
        assert main(words) == 2
    assert "sft: 3 steps, in" in (said := capsys.readouterr().out) and "goes on" not in said
    assert main(words) == 0
    assert f"sft: 3 steps, in {tmp_path}/run; goes on after step 2" in capsys.readouterr().out


def test_a_run_that_diverges_ends_with_status_1(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sft", f"model={workshop}/base", f"data={workshop}/world/demonstrations.jsonl", f"out={tmp_path}/run"]
    assert main([*words, "steps=9", "lr=1e30", "warmup=0", "threads=1"]) == 1
    assert "is nan" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


def test_a_model_without_a_chat_template(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sampling says what to write instead, or continues plain text; it never adds tokens that the model has no rows for."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workshop / "base/model", "bare")
    Path("bare/chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads(Path("bare/tokenizer_config.json").read_text())
    Path("bare/tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "chat_template"}))
    prompts_file = f"{workshop}/world/prompts.test.jsonl"
    assert main(["sample", "bare", prompts_file, "max_tokens=4"]) == 2
    assert "template=plain" in capsys.readouterr().err
    assert main(["sample", "bare", prompts_file, "max_tokens=4", "template=plain", "-o", "plain.jsonl"]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert main(["chat", "bare", "--max-tokens", "4"]) == 0
    assert "No chat template" in capsys.readouterr().out


def test_chat_answers_line_by_line_and_leaves(workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/new\n/plain\nHello\n/quit\nnever read\n"))
    assert main(["chat", str(workshop / "base"), "--max-tokens", "4", "--seed", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "(new conversation)" in said and "(plain text on)" in said and said.count("(plain text off)") == 0


def test_greedy_chat_says_the_same_whatever_the_seed(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for words in (["--greedy", "--seed", "1"], ["--greedy", "--seed", "2"], ["--seed", "1"]):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nWhy?\n"))
        assert main(["chat", str(workshop / "base"), "--max-tokens", "12", *words]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


def test_a_reference_with_another_tokenizer_is_refused(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [f"data={workshop}/text.txt", f"out={tmp_path}/other", "steps=1", "held_out=2", "vocabulary=500"]
    assert main(["pretrain", *other, "hidden=32", "layers=1", "heads=2", "threads=1"]) == 0
    row = {"id": "1", "messages": [{"role": "user", "content": "Hi"}], "completions": [{"text": "a"}, {"text": "b"}], "ranks": [1, 2]}
    (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
    words = [f"model={workshop}/base", f"reference={tmp_path}/other", f"data={tmp_path}/r.jsonl", f"out={tmp_path}/dpo", "steps=1"]
    assert main(["dpo", *words, "threads=1"]) == 2
    assert "has another tokenizer than" in capsys.readouterr().err


def test_examples_need_a_file_to_come_from(workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", f"{workshop}/base", f"{workshop}/world/prompts.test.jsonl", "shots=3", "-o", f"{tmp_path}/a.jsonl"]) == 2
    assert "shots=3 needs demonstrations=" in capsys.readouterr().err


def test_a_conversation_that_grows_too_long_forgets_its_oldest_turns(
    workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Tell me about the mill and the owl.\n" * 30 + "word " * 4000 + "\nHello\n/quit\n"))
    assert main(["chat", str(workshop / "base"), "--max-tokens", "4", "--seed", "1"]) == 0
    said = capsys.readouterr().out
    assert "is forgotten" in said and "(too long: " in said


def test_an_answer_ends_before_a_stop_string_in_a_template_of_ones_own(workshop: Path, tmp_path: Path) -> None:
    """Every token of this model's text ends in a letter or a blank; with all letters as stop strings nothing but other signs is left."""
    (tmp_path / "words.jinja").write_text("{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
                                          "{% else %}Task: {{ m['content'] }}\nAnswer:{% endif %}{% endfor %}")  # fmt: skip
    words = [f"{workshop}/base", f"{workshop}/world/prompts.train.jsonl", "max_tokens=8", "limit=6"]
    words.append(f"chat_template={tmp_path}/words.jinja")
    assert main(["sample", *words, "stop=[" + ",".join("abcdefghijklmnopqrstuvwxyz") + "]", f"out={tmp_path}/answers.jsonl"]) == 0
    found = [c for row in lines(tmp_path / "answers.jsonl") for c in row["completions"]]
    stopped = [c for c in found if c["stop"] == "string"]
    assert len(found) == 6 and stopped
    assert all("token_ids" not in c and not any(x.islower() for x in c["text"]) for c in stopped)


def test_sampling_takes_the_memory_that_it_is_given_and_says_what_it_took(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers are the same with room for all at once and for one; a prompt that is too long for it is found before anything is drawn."""
    write_lines(tmp_path / "p.jsonl", [{"prompt": "the owl"}, {"prompt": "the owl and the mill " * 9}])
    words = ["sample", f"{workshop}/base", f"{tmp_path}/p.jsonl", "num_completions=2..5", "max_tokens=8", "dtype=float32"]
    assert main([*words, "kv_gb=3e-5", "-o", f"{tmp_path}/none.jsonl"]) == 2  # which would do for the first
    longest = int(re.findall(r"it may have (\d+) tokens", capsys.readouterr().err)[0])
    assert not (tmp_path / "none.jsonl").exists()
    # one layer of 2 heads of 16 numbers, keys and values, 4 bytes: 256 a token; a block of 32 and two pages of 64 beside
    least = f"{256 * (longest + 32 + 2 * 64) / 1e9:.7f}"
    said = []
    for given in (least, "0"):
        assert main([*words, f"kv_gb={given}", "-o", f"{tmp_path}/{given}.jsonl"]) == 0
        said.append(re.findall(
            r"sample: (\d+) answers, (\d+) tokens at \S+ tokens/s, (\d+) prompt tokens computed; (\d+) at once, (\S+) kB of keys and",
            capsys.readouterr().out,
        )[0])  # fmt: skip
    assert lines(tmp_path / f"{least}.jsonl") == lines(tmp_path / "0.jsonl")
    assert said[0][:3] == said[1][:3] and int(said[0][3]) < int(said[1][3])
    assert float(said[0][4]) <= 1e6 * float(least) < float(said[1][4])
    completions = [c for row in lines(tmp_path / "0.jsonl") for c in row["completions"]]
    assert [int(x) for x in said[1][:2]] == [len(completions), sum(len(c["token_ids"]) for c in completions)]


def test_a_special_token_as_stop_string_ends_an_answer_and_no_text_changes(workshop: Path, tmp_path: Path) -> None:
    """The model knows nothing yet and now and then draws the control token before an answer; its text never holds one."""
    tokenizer, stop = load_tokenizer(f"{workshop}/base"), "<|assistant|>"
    renderer, special = Renderer(tokenizer), tokenizer.convert_tokens_to_ids(stop)
    assert special in tokenizer.all_special_ids and special != renderer.end_id
    words = ["sample", f"{workshop}/base", f"{workshop}/world/prompts.test.jsonl", "num_completions=8", "max_tokens=64", "temperature=9"]
    assert main([*words, f"out={tmp_path}/free.jsonl"]) == 0 and main([*words, f'stop=["{stop}"]', f"out={tmp_path}/stopped.jsonl"]) == 0
    free, stopped = ([c for row in lines(tmp_path / f"{name}.jsonl") for c in row["completions"]] for name in ("free", "stopped"))
    found = 0
    for a, b in zip(free, stopped, strict=True):
        if special in a["token_ids"]:
            found += 1
            assert b == {"text": renderer.decode(a["token_ids"][: a["token_ids"].index(special)]), "model": "base", "stop": "string"}
        else:
            assert a == b
        assert stop not in a["text"] + b["text"]
    assert 0 < found < len(free)


def test_options_are_read_before_transformers_models_are_imported() -> None:
    """They take seven of the ten seconds that a mistyped option would otherwise wait for its line (``common/hf.py``)."""
    script = """
import importlib, pkgutil, sys
import trimtab.cli, trimtab.methods, trimtab.verbs
names = [f"{package.__name__}.{m.name}" for package in (trimtab.methods, trimtab.verbs) for m in pkgutil.iter_modules(package.__path__)]
for name in names:
    importlib.import_module(name)
heavy = ("transformers.modeling_utils", "scipy.stats", "peft", "datasets", "bitsandbytes")
print(len(names) > 25, [name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "True []\n", done.stdout + done.stderr
