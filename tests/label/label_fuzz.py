"""schemathesis on the JSON API, for the tests and, with more examples, for bench/label_proof.py."""

import itertools
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from label_web import URL, Browser

schemathesis = pytest.importorskip("schemathesis", reason="needs pip install schemathesis")

# What a label might hold, nearly right and not at all: a schema that takes any object says little of it.
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
)  # fmt: skip
NUMBERS = st.lists(st.sampled_from([1, 2, 3, 7, None, 1.5, True, "1", [], {}, 0, 99]), min_size=3, max_size=3)
FLAGS = st.lists(
    st.lists(st.sampled_from(["opinion", "made_up", "rude"]), max_size=2) | ANYTHING, min_size=3, max_size=3
)
RIGHT = {"ranks": [1, 2, 2], "ratings": [5, 3, 1]}
FIELDS = st.sampled_from(["ranks", "ratings", "flags", "note", "text", "style", "examples"])
VALUES = st.builds(
    lambda name, junk: {**RIGHT, name: junk}, FIELDS, NUMBERS | FLAGS | ANYTHING
)  # one thing wrong at a time
KEYS = itertools.count()


def fuzz(browser: Browser, examples: int) -> Counter[tuple[str, int]]:
    """Draws calls of every route of the JSON API, such as its schema allows and such as it does not.

    Half of them go to the project and to a task that this person holds; the others to names and numbers as they are drawn. Returns how
    many were answered how, by route and status.

    Raises:
        AssertionError: an answer is a 5xx, or an error is not one sentence.
    """
    app = browser.client.app.small.app  # type: ignore[attr-defined]
    seen: Counter[tuple[str, int]] = Counter()
    for result in schemathesis.openapi.from_dict(app.openapi()).get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:
            many = examples * (10 if operation.path.endswith("submit") else 1)  # it takes the most different things
            options = {"max_examples": many, "deadline": None, "database": None, "derandomize": True}

            @settings(phases=(Phase.generate,), suppress_health_check=list(HealthCheck), **options)
            @given(case=operation.as_strategy(generation_mode=mode), value=st.just(RIGHT) | VALUES, real=st.booleans())
            def call(case: Any, value: Any, real: bool) -> None:
                answer = send(browser, case, value, real)
                seen[case.path, answer.status_code] += 1
                assert answer.status_code < 500, (case.method, case.path, case.body, value, answer.text[:300])
                if answer.status_code >= 400 and answer.headers["content-type"].startswith("application/json"):
                    assert set(answer.json()) == {"error"}, answer.text[:300]

            try:
                call()
            except Exception as error:
                if "Unsatisfiable" not in type(error).__name__:
                    raise  # nothing breaks the schema of a route that takes nothing
    return seen


def send(browser: Browser, case: Any, value: Any, real: bool) -> Any:
    """A drawn call, from a person who is logged in; ``real``: to what there is."""
    drawn = case.as_transport_kwargs(base_url=URL)
    content, url = drawn.get("data"), drawn["url"]
    if "json" in drawn or isinstance(content, dict):
        content = drawn.get("json", content)
    if real:
        held = browser.api("/api/projects/p/next").json()["url"].rsplit("/", 1)[1].split("?")[0]
        url = URL + case.path.format(name="p", number=held if held.isdigit() else 1)
        if isinstance(content, dict) and "value" in content:
            content = {**content, "value": value, **({"key": f"key-{next(KEYS):08d}"} if "key" in content else {})}
    if content is None and case.method == "POST":
        content = {}
    if not isinstance(content, bytes | str | None):
        content = json.dumps(content, default=str)
    headers = {"Origin": URL, "X-CSRF-Token": browser.csrf, "Content-Type": "application/json"}
    return browser.client.request(drawn["method"], url, params=drawn.get("params"), content=content, headers=headers)
