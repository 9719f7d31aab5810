"""schemathesis on the JSON API: whatever is sent, no answer is a 5xx, and errors are one sentence."""

from label_fuzz import fuzz
from label_people import Place, ranked
from label_web import logged_in


def test_no_call_of_the_api_fails_inside(place: Place) -> None:
    """In SQLite and in PostgreSQL, which refuses other texts. Each route but the arena's, which has no models, has worked, too."""
    place.begin(overlap=1).add(*(ranked(f"item {i}", 3) for i in range(400)))  # more than are submitted: a task is left to be skipped
    seen = fuzz(logged_in(place, "ada", "admin"), 15)
    assert sum(seen.values()) > 200
    worked = {path.rsplit("/", 1)[1] for path, status in seen if status == 200}
    assert worked == {"next", "draft", "submit", "skip", "undo", "preview", "mine", "progress"}
