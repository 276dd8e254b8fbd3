import warnings

import pytest

from clzoo.deprecation import deprecated


def old_name() -> str:
    return deprecated("old_name()", "new_name()", gone_in="0.3")


def test_the_warning_names_both_and_is_attributed_to_who_called() -> None:
    with pytest.warns(DeprecationWarning, match=r"clzoo: old_name\(\) is deprecated and goes in 0\.3") as caught:
        said = old_name()
    assert "write new_name()" in said
    assert caught[0].filename == __file__


def test_in_the_tests_it_is_an_error_whoever_called() -> None:
    with pytest.raises(DeprecationWarning, match="write new_name"):
        old_name()
    with pytest.raises(DeprecationWarning):
        exec("old_name()", {"__name__": "somebody.else", "old_name": old_name})


def test_no_filter_hides_deprecations(request: pytest.FixtureRequest) -> None:
    filters = [*request.config.getini("filterwarnings"), *map(str, warnings.filters)]
    assert not [line for line in request.config.getini("filterwarnings") if line.startswith("ignore")], filters
