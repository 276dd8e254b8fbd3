from types import SimpleNamespace

import pytest
from small_models import small_config

from clzoo.config import Preprocessing
from clzoo.errors import ClzooError
from clzoo.evaluation.classifier_settings import LinearSGD
from clzoo.evaluation.presets import PRESETS, linear_sgd_changes, preset_of
from clzoo.evaluation.subject import Subject
from clzoo.pretrain.recipe_files import find_recipe, load_recipe


def subject(method, architecture="resnet50", size=224, recipe=None):
    config = small_config(method=method, architecture=architecture, preprocessing=Preprocessing(size=size))
    return Subject(SimpleNamespace(config=config), method, None if recipe is None else load_recipe(find_recipe(recipe)))


@pytest.mark.parametrize(
    ("of", "preset"),
    [
        (subject("mocov2"), "mocov2"),
        (subject("potential_samples"), "mocov2"),
        (subject("barlow"), "mocov2"),
        (subject("reco"), "reco"),
        (subject("reco", size=32), "small"),
        (subject("mocov3"), "mocov3"),
        (subject("mocov3", "vit_small_patch16_224"), "mocov3_vit"),
        (subject("hydra_moco", "vit_small_patch16_224"), "mocov3_vit"),
        (subject("cacr"), "mocov3"),  # released: form C
        (subject("cacr", "vit_base_patch16_224", recipe="cacr_in1k_vit"), "mocov3"),
        (subject("cacr", recipe="cacr_cifar10"), "mocov2"),  # form A on large images
    ],
)
def test_the_preset_follows_method_and_network_not_the_size_of_the_images_alone(of, preset):
    assert preset_of(of) == preset


def settings(of, **changes):
    return LinearSGD.for_size(of.encoder.config.preprocessing.size, linear_sgd_changes(of, changes))


def test_the_settings_are_those_of_the_papers():
    assert settings(subject("mocov2")).id == (
        "linear:sgd(lr=30,steps=60/80,epochs=100,batch=256,crop=0.08-1,flip,momentum=0.9,wd=0,last epoch)"
    )
    assert settings(subject("reco")).lr == 10
    resnet, vit = settings(subject("mocov3")), settings(subject("mocov3", "vit_base_patch16_224"))
    assert (resnet.batch_size, resnet.epochs, resnet.decay, resnet.nesterov) == (1024, 90, "cosine", False)
    assert resnet.lr == pytest.approx(0.4)  # .1 x 1024 / 256
    assert vit.lr == pytest.approx(12)


def test_what_is_set_by_hand_comes_last_and_the_rate_follows_the_batch():
    assert settings(subject("mocov3"), batch_size=256).lr == pytest.approx(0.1)
    assert settings(subject("mocov3"), batch_size=256, lr=7.0).lr == 7
    assert settings(subject("mocov3"), preset="reco").lr == 10
    assert settings(subject("mocov2", size=32), preset="mocov2") == settings(subject("mocov2"))


def test_encoders_of_small_images_keep_their_preset():
    assert settings(subject("mocov3", size=64)) == LinearSGD.for_size(64)
    assert set(PRESETS) == {"small", "mocov2", "reco", "mocov3", "mocov3_vit"}


def test_an_unknown_preset_or_value_is_named():
    with pytest.raises(ClzooError, match=r"linear_sgd\.preset is 'mocov4': expected one of small, mocov2"):
        settings(subject("mocov2"), preset="mocov4")
    with pytest.raises(ClzooError, match=r"linear_sgd\.batch_size is 'many'"):
        settings(subject("mocov3"), batch_size="many")
