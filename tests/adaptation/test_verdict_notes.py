"""What stands beside a verdict in words."""

from typing import Any

import pytest

from clzoo.adaptation.page import UNEVEN, notes_of


def report(**changes: Any) -> dict[str, Any]:
    """A verdict.json without anything to be said beside it."""
    nothing: dict[str, Any] = {
        "sentence": "no evidence (+0.1 [-1.0, 1.2] k-NN)",
        "because": [],
        "shown_to_predict": True,
        "labels": True,
        "elsewhere": None,
        "unevenness": 1.0,
        "flatten": False,
        "limits": [],
        "weights_sha256": ["a", "b"],
    }
    return {**nothing, **changes}


def test_a_long_tail_is_told_of_flatten_and_that_it_did_not_help_where_it_was_measured():
    (_, offer) = notes_of(report(unevenness=float(UNEVEN)))
    assert "--flatten" in offer
    assert "did not help" in offer
    assert "was not measured" not in offer


@pytest.mark.parametrize("changes", [{"unevenness": UNEVEN - 0.1}, {"unevenness": 50.0, "flatten": True}])
def test_flatten_is_not_offered_where_nothing_is_crowded_or_where_it_was_used(changes):
    assert not any("--flatten" in note for note in notes_of(report(**changes)))
