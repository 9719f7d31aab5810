"""Every broken fixture is caught by the check that is named for it, and healthy ones raise no alarm."""

from pathlib import Path

import faults_of_data
import faults_of_models
import pytest
from doctor_cases import (
    CALL,
    ENDED,
    HEALTHY_TEMPLATES,
    ROLES,
    Fault,
    healthy_comparisons,
    healthy_demonstrations,
    question,
    save,
    templated,
)
from tiny_models import FAMILIES, write_lines

from trimtab.doctor.examine import GROUPS, Examination, examine
from trimtab.doctor.settings import Config

FAULTS = (*faults_of_models.FAULTS, *faults_of_data.FAULTS)


def alarms(found: Examination) -> list[str]:
    return [f"{f.check.name}: {f.result.found}" for f in found.findings if f.result.status in ("warning", "fail")]


@pytest.mark.parametrize("fault", FAULTS, ids=[f.name for f in FAULTS])
def test_a_fault_is_caught_by_name(fault: Fault, tmp_path: Path) -> None:
    case = fault.make(tmp_path)
    group = next(c.group for g in GROUPS for c in g.checks if c.name == fault.check)
    with case.during:
        found = examine(case.config.model_copy(update={"only": group}), case.engine)
    finding = found.named(fault.check)
    assert finding.result.status == fault.status, finding.result.found
    assert fault.says in finding.result.found
    if fault.status == "fail":
        assert found.exit_status == 1
    assert not any("could not be run" in f.result.found for f in found.findings)


def test_of_a_conversation_in_pieces_the_longest_counts(tmp_path: Path) -> None:
    """The template drops earlier answers' thoughts, so that each answer is trained after its own prompt; the last is too long."""
    asked, answer = {"role": "user", "content": "Where is the cat?"}, {"role": "assistant", "content": "<think>Hm.</think>It is near."}
    rows = [{"id": f"d{i}", "messages": [asked, answer, *question(i)], "completion": "the cat " * 99} for i in range(3)]
    said = "{% if loop.last %}{{ m['content'] }}{% else %}{{ m['content'].split('</think>')[-1] }}{% endif %}"
    model = save(tmp_path / "m", templated(ROLES.replace(" + m['content'] }}", " }}" + said) + ENDED + CALL))
    found = examine(Config(model=str(model), data=str(write_lines(tmp_path / "data.jsonl", rows)), only="fits the model"))
    assert found.named("fits the model").result.numbers["too_long"] == 3


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {c.name for group in GROUPS for c in group.checks} == {fault.check for fault in FAULTS}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_healthy_model_raises_no_alarm(family: str, tmp_path: Path) -> None:
    found = examine(Config(model=str(save(tmp_path / "m", family=family))))
    assert alarms(found) == [] and found.exit_status == 0


@pytest.mark.parametrize("template", HEALTHY_TEMPLATES)
def test_a_common_template_raises_no_alarm(template: str, tmp_path: Path) -> None:
    model = save(tmp_path / "m", HEALTHY_TEMPLATES[template]())
    assert alarms(examine(Config(model=str(model)))) == []


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "opt"])
def test_a_healthy_reward_model_raises_no_alarm(family: str, tmp_path: Path) -> None:
    assert alarms(examine(Config(model=str(save(tmp_path / "m", family=family, scorer=True))))) == []


@pytest.mark.parametrize("rows", [healthy_comparisons(), healthy_demonstrations()], ids=["comparisons", "demonstrations"])
def test_healthy_data_raise_no_alarm(rows: list[object], tmp_path: Path) -> None:
    data = write_lines(tmp_path / "data.jsonl", rows)
    assert alarms(examine(Config(model=str(save(tmp_path / "m")), data=str(data)))) == []
