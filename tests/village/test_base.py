"""The shipped base model is what ``recipes/village-base.yaml`` makes from the seed.

Making it takes more than an hour, so here the first steps are made again and their losses held against those of the shipped run;
``python bench/proof.py base`` makes all of it.
"""

import json
from pathlib import Path

import pytest

import trimtab.village
from trimtab.common.config import from_mapping
from trimtab.data.template import Renderer, read_template
from trimtab.methods.pretrain import Config, build
from trimtab.models.load import load_policy, load_tokenizer
from trimtab.recipes.recipe import find_recipe, load_recipe
from trimtab.training.loop import Learner
from trimtab.training.method import State
from trimtab.training.optimizer import learning_rate
from trimtab.village.summary import text_fingerprint
from trimtab.village.text import SOLVED, documents

BASE = Path(trimtab.village.__file__).parent / "base"
MADE = json.loads((BASE / "made.json").read_text())


@pytest.fixture(scope="module")
def recipe_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, object]:
    """The recipe's own pretraining stage, built and not yet run."""
    folder = tmp_path_factory.mktemp("base")
    recipe = load_recipe(find_recipe("village-base"), folder, [])
    world, stage = recipe.stages
    (folder / "world").mkdir()
    rows = (json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in documents(0, world.config["documents"]))
    (folder / "world/text.jsonl").write_text("".join(rows), encoding="utf-8")
    config = from_mapping(Config, {**stage.config, "out": str(folder / "base")}, "recipe")
    return config, build(config, lambda name: None)  # type: ignore[arg-type, return-value]


def test_the_tokenizer_is_the_recipes(recipe_run: tuple[Config, object]) -> None:
    tokenizer = recipe_run[1].outputs["model"][1]  # type: ignore[attr-defined]
    assert tokenizer.get_vocab() == load_tokenizer(BASE).get_vocab()


def test_the_first_steps_have_the_shipped_runs_losses(recipe_run: tuple[Config, object]) -> None:
    config, trained = recipe_run
    learner = Learner(trained.method, config)  # type: ignore[attr-defined]
    losses = []
    for step in range(len(MADE["first_losses"])):
        learner.set_lr(learning_rate(config, step, config.steps))
        trained.method.update(trained.method.batches(State(step, config.steps)), learner, "test")  # type: ignore[attr-defined]
        losses.append(learner.read_meter()["loss"])
    # float32 sums differ in their last bits between CPUs and numbers of threads
    assert losses == pytest.approx(MADE["first_losses"], rel=2e-3)


def test_the_base_text_is_the_one_that_the_shipped_weights_have_read() -> None:
    assert MADE["text"] == text_fingerprint()


def test_the_shipped_weights_have_the_recorded_loss(recipe_run: tuple[Config, object]) -> None:
    method = recipe_run[1].method  # type: ignore[attr-defined]
    fresh = method.policy
    method.policy = load_policy(BASE)
    loss = method.evaluate(State(0, 1))["eval/loss"]
    method.policy = fresh
    assert loss == pytest.approx(MADE["eval_loss"], rel=1e-3)


def test_the_demos_chat_template_reads_as_the_bases_workbooks_do() -> None:
    """Its task and answer are a workbook's, so that the base knows where it is before the first step of SFT."""
    tokenizer = load_tokenizer(BASE)
    tokenizer.chat_template = read_template(str(BASE.parent / "chat_template.jinja"))
    asks, replies = SOLVED[0]
    question, reply = {"role": "user", "content": "Who runs the mill?"}, {"role": "assistant", "content": "Wendy."}
    text = tokenizer.apply_chat_template([question, reply, question], add_generation_prompt=True, tokenize=False)
    start, end = tokenizer.bos_token, tokenizer.eos_token
    again = f"{asks}Who runs the mill?\n{replies}".rstrip()
    assert text == f"{start}{again} Wendy.{end}\n{again}"
    renderer = Renderer(tokenizer)
    ids = renderer.completion("Wendy runs it.")
    assert tokenizer.tokenize(f"{replies}Wendy runs it.")[-len(ids) + 1 :] == tokenizer.convert_ids_to_tokens(ids[:-1])


def test_it_fits_in_the_package() -> None:
    assert sum(p.stat().st_size for p in BASE.iterdir()) < 10_000_000
