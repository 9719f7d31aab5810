"""schemathesis on the JSON API: whatever is sent, no answer is a 5xx, and errors are one sentence."""

from label_fuzz import fuzz
from label_people import Place, ranked
from label_web import logged_in


def test_no_call_of_the_api_fails_inside(place: Place) -> None:
    """In SQLite and in PostgreSQL, which refuses other texts and numbers."""
    place.begin().add(*(ranked(f"item {i}", 3) for i in range(20)))
    assert fuzz(logged_in(place, "ada", "admin"), 12) > 150
