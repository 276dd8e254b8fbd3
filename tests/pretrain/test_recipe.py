import pytest

from clzoo.assets import RECIPES
from clzoo.errors import ClzooError
from clzoo.pretrain.recipe import find_recipe, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid_and_named_after_its_method_and_data(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert name.startswith(f"{recipe.method.name}_{recipe.data.name}")


def test_a_resolved_recipe_reads_back_as_itself(tmp_path):
    recipe = load_recipe(find_recipe("cacr_cifar10"))
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.t_poss=1", "unknown key 'method.t_poss': did you mean 't_pos'"),
        ("optimizer.base_ler=1", "unknown key 'optimizer.base_ler': did you mean 'base_lr'"),
        ("sede=1", "unknown key 'sede': did you mean 'seed'"),
        ("schedule.epochs=many", "schedule.epochs is 'many'"),
        ("schedule.epochs=0", "schedule.epochs is 0"),
        ("schedule.epochs=1.5", "schedule.epochs is 1.5"),
        ("seed=true", "seed is True"),
        ("method.views=1", "method.views is 1"),
        ("method.name=cacrr", "expected tags: 'cacr', 'simclr'"),
        ("views.flip=1.5", "views.flip is 1.5"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_nearest_valid_one(override, message):
    with pytest.raises(ClzooError) as caught:
        load_recipe(find_recipe("cacr_cifar10"), (override,))
    assert message in str(caught.value)
    assert "cacr_cifar10.yaml" in str(caught.value)


def test_an_override_changes_one_value():
    recipe = load_recipe(find_recipe("cacr_cifar10"), ("schedule.epochs=3", "views.crop_scale=[0.5, 1.0]"))
    assert recipe.schedule.epochs == 3
    assert recipe.views.crop_scale == (0.5, 1.0)


def test_numbers_may_be_written_with_an_exponent():
    assert load_recipe(find_recipe("cacr_cifar10"), ("optimizer.weight_decay=5e-4",)).optimizer.weight_decay == 5e-4


def test_an_override_without_a_value_is_an_error():
    with pytest.raises(ClzooError, match=r"expected section\.key=value"):
        load_recipe(find_recipe("cacr_cifar10"), ("schedule.epochs",))


def test_a_missing_section_is_named(tmp_path):
    text = find_recipe("simclr_cifar10").read_text()
    (tmp_path / "r.yaml").write_text(text[: text.index("optimizer:")] + "seed: 0\n")
    with pytest.raises(ClzooError, match="missing key 'optimizer'"):
        load_recipe(tmp_path / "r.yaml")


def test_an_unknown_recipe_names_the_closest_ones():
    with pytest.raises(ClzooError, match="cacr_cifar10"):
        find_recipe("cacr_cifar")
    with pytest.raises(ClzooError, match="does not exist"):
        find_recipe("./nothing.yaml")


def test_the_learning_rate_scales_with_the_batch():
    recipe = load_recipe(find_recipe("cacr_cifar10"))
    assert recipe.learning_rate == pytest.approx(0.06)  # 0.12 per 256 at batch 128
