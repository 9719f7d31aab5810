"""Running a method in its folder: what is refused before anything is loaded, what a run leaves behind."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TEXT, read_lines, save_tiny_policy, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.feedback.protocol import Feedback
from trimtab.methods import build
from trimtab.methods.build import methods, need, read_data, run, run_method, start_tokenizer
from trimtab.models.load import grow_vocabulary, load_policy, load_tokenizer, save_model
from trimtab.records import Message, Prompt
from trimtab.sampling import engine
from trimtab.sampling.engine import NativeEngine
from trimtab.training.folder import content_hash


def no_rewards(name: str) -> Feedback:
    raise AssertionError(f"nobody asked for {name}")


def demonstrations(path: Path, count: int = 6) -> Path:
    rows = [
        {"id": f"d{i}", "messages": [{"role": "user", "content": f"say {i}"}], "completion": TEXT[i]}
        for i in range(count)
    ]
    return write_lines(path, rows)


@pytest.mark.parametrize("name", sorted(methods()))
def test_a_missing_option_is_refused_before_anything_is_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each needed option in turn is left out; the others point to places that do not exist and would fail if they were read."""
    module = methods()[name]
    for loader in ("load_policy", "load_scorer", "load_tokenizer", "read_text"):
        if hasattr(module, loader):
            monkeypatch.setattr(module, loader, lambda *a, **k: pytest.fail("loaded before the options were checked"))
    needed = ["data"] if name == "pretrain" else ["model", "data", *(["reward"] if "reward" in module.Config.model_fields else [])]
    for missing in needed:
        given = {option: "no/such/place/at-all" for option in needed if option != missing}
        config = module.Config(out=str(tmp_path / missing), **given)
        with pytest.raises(UserError, match=rf"^{missing}= is missing: \w+"):
            run(name, config, no_rewards)


def test_rows_left_out_of_two_files_of_one_name_are_both_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """train/a.jsonl and test/a.jsonl; the second, which has none, must not take the first's away."""
    for name, more in (("train", "not JSON\n"), ("test", ""), ("other", "{}\n")):
        (tmp_path / name).mkdir()
        path = demonstrations(tmp_path / name / "a.jsonl")
        path.write_text(path.read_text() + more)
    for name, expected in (("test", [1]), ("other", [1, 1])):
        files = {"data": str(tmp_path / "train/a.jsonl"), "eval_data": str(tmp_path / name / "a.jsonl")}
        config = methods()["sft"].Config(**files, skip_bad=True, left_out=str(tmp_path / "run" / name))
        for path in files.values():
            assert len(read_data("sft", config, path, "demonstration")) == 6
        written = sorted((tmp_path / "run" / name).rglob("*.jsonl"))
        assert [len(read_lines(path)) for path in written] == expected
        said = capsys.readouterr().out
        assert all(f"what was left out is in {path}\n" in said for path in written)


def test_need_names_the_first_option_that_is_empty() -> None:
    config = methods()["sft"].Config(model="a")
    need(config, "model")
    with pytest.raises(UserError, match="^data= is missing: training records"):
        need(config, "model", "data")


@pytest.fixture(scope="module")
def sft_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sft")
    data = demonstrations(place / "demos.jsonl")
    run("sft", sft_config(place, data), no_rewards)
    return place


def sft_config(place: Path, data: Path, **options: Any) -> Any:
    if not (place / "policy").exists():
        save_tiny_policy(place / "policy")
    settings = {"steps": 20, "batch_size": 6, "lr": 1e-2}
    return methods()["sft"].Config(
        model=str(place / "policy"), data=str(data), out=str(place / "run"), **{**settings, **options}
    )


def test_a_run_leaves_a_model_that_plain_transformers_loads_and_that_learnt(sft_run: Path) -> None:
    folder = sft_run / "run"
    assert read_json(folder / "run.json")["status"] == "done" and (folder / "results.json").exists()
    losses = [row["value"] for row in read_lines(folder / "metrics.jsonl") if row["name"] == "loss"]
    assert len(losses) == 20 and losses[-1] < 0.3 * losses[0]
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "say 0"}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
    first = model(input_ids=ids).logits[0, -1].argmax()
    assert tokenizer.decode(first).strip() and TEXT[0].startswith(tokenizer.decode(first).strip())


@pytest.mark.parametrize("padding", [0, 24])
def test_a_model_without_a_chat_template_gets_chatml(padding: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said in one line and saved: the folder renders the same in plain transformers, and generation ends with <|im_end|>, which is not the
    tokenizer's own end token. The new tokens' rows are the mean of the old ones, whether the vocabulary was padded or grows."""
    start = save_tiny_policy(tmp_path / "bare")
    (start / "chat_template.jinja").unlink()
    policy, before = load_policy(start), load_tokenizer(start)
    known, mean = len(before), policy.get_input_embeddings().weight.detach().mean(0)
    grow_vocabulary(policy, known + padding)
    with torch.no_grad():
        policy.get_input_embeddings().weight[known:] = 7.0  # padding that nobody trained
    tokenizer, renderer = start_tokenizer(str(start), policy)
    said = capsys.readouterr().out
    assert said.startswith(f"{start}: no chat template; ChatML is used and saved") and said.count("\n") == 1 and "2 new tokens" in said
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert renderer.end_id == end == known + 1 and tokenizer.eos_token_id == before.eos_token_id != end
    rows = policy.get_input_embeddings().weight
    assert len(rows) == known + (padding or 2) and torch.allclose(rows[known : known + 2], mean.expand(2, -1))
    save_model(policy, tokenizer, tmp_path / "saved")
    model, saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert model.generation_config.eos_token_id == [end, tokenizer.eos_token_id] and model.config.vocab_size == len(rows)
    asked = [{"role": "user", "content": "say 0"}]
    ids = saved.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert ids == renderer.prompt(Prompt("p", (Message("user", "say 0"),)))
    text = saved.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\nsay 0<|im_end|>\n<|im_start|>assistant\n"
    start_tokenizer(str(tmp_path / "saved"), load_policy(tmp_path / "saved"))
    assert capsys.readouterr().out == ""  # from now on it is its own


def test_a_model_gets_the_chat_template_that_is_named(tmp_path: Path) -> None:
    """In place of its own; the trained folder keeps it, and a template that cannot be used is refused before training."""
    template = tmp_path / "words.jinja"
    template.write_text("{% for m in messages %}{{ m['role'] + ':\\n' + m['content'] }}{% endfor %}"
                        "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}\n")  # fmt: skip
    data = demonstrations(tmp_path / "d.jsonl")
    with pytest.raises(UserError, match="special token"):
        run("sft", sft_config(tmp_path, data, steps=1, chat_template=str(template)), no_rewards)
    template.write_text(template.read_text().replace("m['content']", "m['content'] + eos_token"))
    run("sft", sft_config(tmp_path, data, steps=1, chat_template=str(template)), no_rewards)
    saved = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    rendered = saved.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False)
    assert rendered == f"user:\nhi{saved.eos_token}assistant:\n"
    shutil.rmtree(tmp_path / "run")
    for content, reason in (("", "is empty"), (None, "no such file")):
        template.unlink() if content is None else template.write_text(content)
        with pytest.raises(UserError, match=f"words.jinja.*{reason}"):
            run("sft", sft_config(tmp_path, data, steps=2, chat_template=str(template)), no_rewards)


@pytest.mark.parametrize(("option", "inner", "named"), [
    ("model", "model", "model"), ("model", "adapter", "adapter"), ("reference", "value", "value"), ("reward", "model", "reward:{}/model"),
    ("gold", "model", "mean:village,reward:{}/model"), ("data", "model", "model/a.jsonl"),
])  # fmt: skip
def test_a_run_does_not_replace_what_it_reads(option: str, inner: str, named: str, tmp_path: Path) -> None:
    """Refused before anything is loaded or written; what was there is still there, byte for byte."""
    place = save_tiny_policy(tmp_path / "foo" / inner)
    demonstrations(place / "a.jsonl")
    before = content_hash(tmp_path / "foo")
    value = named.format(tmp_path / "foo") if ":" in named else str(tmp_path / "foo" / named)
    given = {"model": str(save_tiny_policy(tmp_path / "start")), "data": str(demonstrations(tmp_path / "d.jsonl")), "reward": "village"}
    config = methods()["ppo"].Config(out=str(tmp_path / "foo"), **{**given, option: value})
    with pytest.raises(UserError, match=rf"^{tmp_path}/foo/.*: this run reads it and would write {place} in its place; choose") as caught:
        run("ppo", config, no_rewards)
    assert "\n" not in str(caught.value) and content_hash(tmp_path / "foo") == before


def test_a_method_of_ones_own_does_not_replace_what_it_reads_either(tmp_path: Path) -> None:
    """Its outputs have names that only its ``build`` knows."""
    start = save_tiny_policy(tmp_path / "run" / "mine")
    before = content_hash(start)

    def build_mine(config: Any, rewards: Any) -> Any:
        trained = methods()["sft"].build(config, rewards)
        return replace(trained, outputs={"mine": trained.outputs["model"]})

    config = sft_config(tmp_path, demonstrations(tmp_path / "d.jsonl"), steps=1).model_copy(update={"model": str(start)})
    with pytest.raises(UserError, match="run/mine: this run reads it and would write .*run/mine in its place"):
        run_method("mine", config, build_mine, no_rewards)
    assert content_hash(start) == before


def test_python_gets_the_allocator_of_the_command_line(sft_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs a method or makes an engine; a step took four times as long without."""
    asked = []
    for module in (build, engine):
        monkeypatch.setattr(module, "keep_freed_memory", lambda: asked.append(1))
    run("sft", sft_config(sft_run, sft_run / "demos.jsonl"), no_rewards)
    assert len(asked) == 1
    NativeEngine(load_policy(sft_run / "policy"), 0)
    assert len(asked) == 2


def test_a_finished_run_is_not_run_again(
    sft_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "train", lambda *a: pytest.fail("trained again"))
    run("sft", sft_config(sft_run, sft_run / "demos.jsonl"), no_rewards)
    assert "already done" in capsys.readouterr().out


def test_epochs_decide_the_steps_when_none_are_given(tmp_path: Path) -> None:
    """6 demonstrations, batches of 4, 2 epochs: 3 steps."""
    run("sft", sft_config(tmp_path, demonstrations(tmp_path / "d.jsonl"), steps=0, epochs=2, batch_size=4), no_rewards)
    assert {row["step"] for row in read_lines(tmp_path / "run" / "timing.jsonl")} == {1, 2, 3}


def test_a_command_that_failed_at_once_can_be_mended_in_the_same_folder(tmp_path: Path) -> None:
    """A missing file, then the right one: of the first command nothing is left."""
    good = demonstrations(tmp_path / "d.jsonl")
    with pytest.raises(UserError, match="nowhere.jsonl"):
        run("sft", sft_config(tmp_path, tmp_path / "nowhere.jsonl", steps=1), no_rewards)
    assert not (tmp_path / "run").exists()
    run("sft", sft_config(tmp_path, good, steps=1), no_rewards)
    assert read_json(tmp_path / "run" / "run.json")["status"] == "done"


def test_trees_that_do_not_fit_are_dropped_and_none_left_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="d.jsonl: nothing to train on is left"):
        run("sft", sft_config(tmp_path, demonstrations(tmp_path / "d.jsonl"), max_length=3), no_rewards)
    assert "6 dropped: longer than max_length" in capsys.readouterr().out
