"""schemathesis on the JSON API, for the tests and, with more examples, for bench/label_proof.py."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from label_web import URL, Browser

schemathesis = pytest.importorskip("schemathesis", reason="needs pip install schemathesis")


def fuzz(browser: Browser, examples: int) -> int:
    """Draws calls of every route of the JSON API, such as its schema allows and such as it does not; returns how many were made.

    Raises:
        AssertionError: an answer is a 5xx, or is not what the schema says.
    """
    app = browser.client.app.small.app  # type: ignore[attr-defined]
    made = 0
    for result in schemathesis.openapi.from_dict(app.openapi()).get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:
            options = {"max_examples": examples, "deadline": None, "database": None, "derandomize": True}

            @settings(phases=(Phase.generate,), suppress_health_check=list(HealthCheck), **options)
            @given(case=operation.as_strategy(generation_mode=mode))
            def call(case: Any) -> None:
                nonlocal made
                made += 1
                answer = send(browser, case)
                assert answer.status_code < 500, (case.method, case.path, case.body, answer.text[:300])
                if answer.status_code >= 400 and answer.headers["content-type"].startswith("application/json"):
                    assert set(answer.json()) == {"error"}, answer.text[:300]

            try:
                call()
            except Exception as error:
                if "Unsatisfiable" in type(error).__name__ or "Unsatisfiable" in str(error):
                    continue  # nothing breaks the schema of a route that takes nothing
                raise
    return made


def send(browser: Browser, case: Any) -> Any:
    """A drawn call, from a person who is logged in."""
    drawn = case.as_transport_kwargs(base_url=URL)
    headers = {k: v for k, v in drawn.get("headers", {}).items() if v.isascii() and v.isprintable()}
    headers |= {"Origin": URL, "X-CSRF-Token": browser.csrf}
    content = drawn.get("data")
    if "json" in drawn:
        content = json.dumps(drawn["json"])
        headers["Content-Type"] = "application/json"
    if isinstance(content, dict):
        content = json.dumps(content, default=str)
    return browser.client.request(
        drawn["method"], drawn["url"], params=drawn.get("params"), content=content, headers=headers
    )
