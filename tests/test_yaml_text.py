"""YAML of others: safe, bounded in length and depth, without aliases; and messages about it stay short."""

import pytest

from clzoo.errors import ClzooError
from clzoo.overrides import apply_overrides
from clzoo.pretrain.recipe_files import find_recipe, load_recipe, recipe_names
from clzoo.yaml_text import DEEPEST, LONGEST, parse_yaml

LAUGHS = "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"{this}: &{this} [{', '.join(['*' + before] * 9)}]\n" for before, this in zip("abcdefgh", "bcdefghi", strict=True)
)
"""1 KB that aliases make 9 ** 9 words."""

REFUSED = {
    "aliases": (LAUGHS, "alias"),
    "an alias of itself": ("a: &a [*a]", "alias"),
    "merged tables": ("a: &a {x: 1}\nb: {<<: *a}", "alias"),
    "deep lists": ("a: " + "[" * 1000 + "]" * 1000, "levels"),
    "deep lists that never end": ("a: " + "[" * 30_000, "levels"),
    "deep tables": ("".join(" " * n + "a:\n" for n in range(100)), "levels"),
    "too long": ("a: " + "x" * LONGEST, "characters|bytes"),
    "a key twice": ("seed: 1\nseed: 2", "second time"),
    "python objects": ("a: !!python/object/apply:os.getcwd []", "python/object"),
    "a number of many digits": ("a: " + "9" * 10_000, "digits"),
    "no such day": ("a: 2026-02-31", "day"),
    "no number": ("a: !!int ''", "IndexError"),
    "no truth": ("a: !!bool x", "KeyError"),
    "no time": ("a: !!timestamp x", "AttributeError"),
    "a list as key": ("? [a]\n: b", "unhashable"),
    "no YAML": ("a: b: c", "line 1, column 5"),
    "control characters": ("a: \x1b", "special characters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_yaml_is_refused_shortly_as_a_recipe_and_as_a_value(case, tmp_path):
    text, reason = REFUSED[case]
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ClzooError, match=reason) as refusal:
        load_recipe(path)
    assert len(str(refusal.value)) < 1000
    with pytest.raises(ClzooError, match=reason) as refusal:
        apply_overrides({}, [f"data.name={text}"])
    assert len(str(refusal.value)) < 1000


def test_depth_is_counted_exactly():
    parse_yaml("[" * DEEPEST + "]" * DEEPEST, "x")
    with pytest.raises(ClzooError, match="levels"):
        parse_yaml("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "x")


def test_values_mean_what_people_mean():
    assert parse_yaml("{a: 1e-4, b: [1, 0.5], c: yes, d: null, e: 2-1}", "x") == {
        "a": 1e-4,
        "b": [1, 0.5],
        "c": True,
        "d": None,
        "e": "2-1",
    }


@pytest.mark.parametrize("value", ["x" * 50_000, "[" + "lol, " * 10_000 + "]", "0x" + "f" * 20_000])
def test_long_values_and_keys_of_a_recipe_are_cut_in_messages(value, tmp_path):
    good = find_recipe("simclr_cifar10").read_text()
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{good}\nprecision: {value}\n".replace("\nprecision: auto", ""))
    with pytest.raises(ClzooError, match="precision is") as refusal:
        load_recipe(path)
    assert len(str(refusal.value)) < 1000
    path.write_text(f"{good}\n{'k' * 900}: 1\n")
    with pytest.raises(ClzooError, match="unknown key") as refusal:
        load_recipe(path)
    assert len(str(refusal.value)) < 1000
    with pytest.raises(ClzooError, match="precision is") as refusal:
        load_recipe(find_recipe("simclr_cifar10"), (f"precision={value}",))
    assert len(str(refusal.value)) < 1000


def test_ten_thousand_wrong_keys_are_counted_not_listed(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(f"k{number}: 1\n" for number in range(5_000)))
    with pytest.raises(ClzooError, match=r"and [\d,]+ more") as refusal:
        load_recipe(path)
    assert len(str(refusal.value)) < 20_000


@pytest.mark.parametrize("override", ["." * 5_000 + "=1", "views.²=1", "views." + "9" * 5_000 + "=1", "no value", "=1"])
def test_odd_places_of_an_override_are_refused(override):
    with pytest.raises(ClzooError, match="--set") as refusal:
        apply_overrides({"views": [{}]}, [override])
    assert len(str(refusal.value)) < 1000


def test_every_shipped_recipe_is_far_below_the_bounds():
    assert recipe_names()
    assert all(find_recipe(name).stat().st_size < LONGEST / 8 for name in recipe_names())
