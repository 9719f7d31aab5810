"""Every broken fixture is caught by the check that is named for it, and healthy ones raise no alarm."""

from pathlib import Path

import pytest
from doctor_fixtures import FAULTS, HEALTHY_TEMPLATES, Fault, healthy_comparisons, healthy_demonstrations, save
from tiny_models import FAMILIES, write_lines

from trimtab.doctor.examine import Examination, examine
from trimtab.doctor.settings import Config


def alarms(found: Examination) -> list[str]:
    return [f"{f.check.name}: {f.result.found}" for f in found.findings if f.result.status in ("warning", "fail")]


@pytest.mark.parametrize("fault", FAULTS, ids=[f.name for f in FAULTS])
def test_a_fault_is_caught_by_name(fault: Fault, tmp_path: Path) -> None:
    case = fault.make(tmp_path)
    with case.during:
        found = examine(case.config, case.engine)
    finding = found.named(fault.check)
    assert finding.result.status == fault.status, finding.result.found
    assert fault.says in finding.result.found
    assert found.exit_status == (fault.status == "fail" or found.exit_status)
    assert not any("could not be run" in f.result.found for f in found.findings)


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
