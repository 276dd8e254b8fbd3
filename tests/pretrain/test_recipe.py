import re
from pathlib import Path

import pytest
import torch
from pydantic import model_validator
from small_recipes import small_recipe
from torch import nn

from clzoo.assets import HUB, RECIPES
from clzoo.errors import ClzooError
from clzoo.methods import METHODS, Batch
from clzoo.pretrain import recipe_files
from clzoo.pretrain.build import build_backbone, build_method, model_config
from clzoo.pretrain.feed import render_views
from clzoo.pretrain.optim import create_optimizer
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import find_recipe, load_recipe, recipe_names
from clzoo.pretrain.trained import encoder_of

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid_and_named_after_its_method_and_data(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert name.startswith(f"{recipe.method.name}_{recipe.data.name}")
    header = (RECIPES / f"{name}.yaml").read_text().split("\n\n")[0]
    assert f"clzoo pretrain {name} --data DIR" in header
    assert "easured" in header


def test_the_table_of_recipes_says_what_they_hold():
    """docs/recipes.md: | `name`, `name` | network | batch, epochs | ... of the ImageNet recipes."""
    told = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.match(r"`\w+_in1", cells[0]):
            told |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[2])
    recipes = {name: load_recipe(find_recipe(name)).schedule for name in recipe_names() if "_in1" in name}
    assert told == {name: f"{schedule.batch_size}, {schedule.epochs}" for name, schedule in recipes.items()}


def test_the_recipes_that_stand_for_one_published_setting_have_it():
    in100, cacr = (load_recipe(find_recipe(name)) for name in ("reco_in100", "cacr_in1k_queue"))
    assert in100.learning_rate == pytest.approx(0.03)  # at batch 128
    assert (in100.method.lambda2, in100.method.projector, in100.method.queue) == (2.0, [2048, 128], 65_536)
    assert (cacr.method.form, cacr.method.t_neg, len(cacr.view_policies())) == ("queue", 2.0, 5)
    assert load_recipe(find_recipe("cacr_cifar10")).method.t_neg == 0.9
    assert load_recipe(find_recipe("cacr_cifar100")).method.t_neg == 2.0
    stl = load_recipe(find_recipe("cacr_stl10"))
    assert (stl.method.t_neg, stl.views[0].size, stl.views[0].crop_scale) == (2.0, 64, (0.08, 1.0))
    for name, epochs, momentum, decay in (("mocov3_in1k", 300, 0.99, 1e-6), ("cacr_in1k", 1000, 0.996, 1.5e-6)):
        long = load_recipe(find_recipe(name))
        assert (long.schedule.epochs, long.method.momentum, long.optimizer.weight_decay) == (epochs, momentum, decay)
    alexnet = load_recipe(find_recipe("cacr_cifar10_alexnet"), ("schedule.batch_size=4",))
    method = build_method(alexnet, classes=None)
    views = [torch.rand(4, 3, policy.size, policy.size) for policy in alexnet.view_policies()]
    assert torch.isfinite(method(Batch(views)))


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "tiny", "in1k"])
def test_every_method_has_a_recipe_for_every_data_set(data):
    assert {f"{method}_{data}" for method in METHODS} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_takes_two_steps_on_generated_images(name):
    recipe = small_recipe(name)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=generator)
    method = build_method(recipe, classes=3)
    optimizer = create_optimizer(method, recipe)
    before = [parameter.clone() for parameter in method.backbone.parameters() if parameter.requires_grad]
    for step in range(2):
        samples = torch.arange(8)
        views = render_views(pixels, samples, recipe, epoch=0)
        assert [tuple(view.shape) for view in views] == [(8, 3, p.size, p.size) for p in recipe.view_policies()]
        loss = method(Batch(views, samples % 3, seed=0, step=step, progress=0.3))
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = [parameter for parameter in method.backbone.parameters() if parameter.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("path", sorted(HUB.glob("*/recipe.yaml")), ids=lambda path: path.parent.name)
def test_the_recipes_of_the_zoos_own_checkpoints_can_be_run_again(path):
    assert load_recipe(path).schedule.epochs > 0


def test_a_resolved_recipe_reads_back_as_itself(tmp_path):
    recipe = load_recipe(find_recipe("reco_cifar10"))
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.t_poss=1", "unknown key 'method.t_poss': did you mean 't_pos'"),
        ("optimizer.base_ler=1", "unknown key 'optimizer.base_ler': did you mean 'base_lr'"),
        ("views.0.grayscail=1", "unknown key 'views.0.grayscail': did you mean 'grayscale'"),
        ("sede=1", "unknown key 'sede': did you mean 'seed'"),
        ("schedule.epochs=many", "schedule.epochs is 'many'"),
        ("schedule.epochs=0", "schedule.epochs is 0"),
        ("schedule.epochs=-1.5", "schedule.epochs is -1.5"),
        ("seed=true", "seed is True"),
        (f"seed={2**32}", f"seed is {2**32}"),
        ("schedule.epochs=.inf", "schedule.epochs is inf: input should be a finite number"),
        ("schedule.warmup_epochs=.inf", "schedule.warmup_epochs is inf: input should be a finite number"),
        ("method.alpha=.nan", "method.alpha is nan: input should be a finite number"),
        ("data.std=[0.2, 0.0, 0.2]", "data.std.1 is 0.0: input should be greater than 0"),
        ("views.0.blur_sigma=[2.0, 0.1]", "views.0.blur_sigma: found [2.0, 0.1], expected two widths in order"),
        ("views.0.blur_sigma=[0.0, 0.0]", "views.0.blur_sigma: found [0.0, 0.0], expected two widths in order"),
        ("method.name=cacrr", "expected tags: 'align_uniform', 'cacr'"),
        ("method.projector=[0]", "method.projector.0 is 0: input should be greater than 0"),
        ("views.0.flip=1.5", "views.0.flip is 1.5"),
        ("views=[]", "views is []"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_nearest_valid_one(override, message):
    with pytest.raises(ClzooError) as caught:
        load_recipe(find_recipe("cacr_cifar10"), (override,))
    assert message in str(caught.value)
    assert "cacr_cifar10.yaml" in str(caught.value)


def test_an_override_changes_one_value():
    recipe = load_recipe(find_recipe("cacr_cifar10"), ("schedule.epochs=3", "views.0.crop_scale=[0.5, 1.0]"))
    assert recipe.schedule.epochs == 3
    assert recipe.views[0].crop_scale == (0.5, 1.0)


@pytest.mark.parametrize(
    ("name", "view", "size", "resize"),
    [("simclr_tiny", 64, 64, 64), ("simclr_tiny", 40, 64, 64), ("simclr_in1k", 224, 224, 256)],
)
def test_a_trained_encoder_takes_the_whole_image_at_the_size_of_the_data(name, view, size, resize):
    recipe = load_recipe(find_recipe(name), (f"views.0.size={view}",))
    preprocessing = recipe.model_config_of(64).preprocessing
    assert (preprocessing.size, preprocessing.resize) == (size, resize)


def test_numbers_may_be_written_with_an_exponent():
    assert load_recipe(find_recipe("cacr_cifar10"), ("optimizer.weight_decay=5e-4",)).optimizer.weight_decay == 5e-4


@pytest.mark.parametrize("override", ["schedule.epochs", "views.7.size=3", "views.first.size=3", "seed.x=1"])
def test_an_override_that_fits_nothing_is_an_error(override):
    with pytest.raises(ClzooError, match="--set"):
        load_recipe(find_recipe("cacr_cifar10"), (override,))


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


def test_the_learning_rate_scales_with_the_batch_unless_the_recipe_says_otherwise():
    assert load_recipe(find_recipe("cacr_cifar10")).learning_rate == pytest.approx(0.06)  # 0.12 per 256 at batch 128
    assert load_recipe(find_recipe("hydra_in1k")).learning_rate == pytest.approx(0.2)


def test_views_that_do_not_fit_the_method_are_refused():
    with pytest.raises(ClzooError, match="reco needs 3 views, the recipe's `views` add up to 2"):
        build_method(small_recipe("reco_cifar10", "views.0.count=1"), classes=None)


def test_methods_that_need_labels_say_so():
    for name in ("hydra_cifar10", "hydra_moco_cifar10", "supcon_cifar10"):
        with pytest.raises(ClzooError, match="labels"):
            build_method(small_recipe(name), classes=None)


def test_a_queue_that_the_batch_does_not_divide_is_refused_before_training():
    with pytest.raises(ClzooError, match=r"method\.queue=30 .* --set method\.queue=24"):
        build_method(small_recipe("mocov2_cifar10", "method.queue=30"), classes=None)


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith(("mocov2", "reco", "potential_samples"))])
def test_residual_branches_start_open_where_the_authors_networks_do(name):
    norms = [m for n, m in build_method(small_recipe(name), None).backbone.named_modules() if n.endswith("bn2")]
    assert norms
    assert all((norm.weight == 1).all() for norm in norms)
    timms = build_method(small_recipe(name, "backbone.zero_init_last=null"), None).backbone
    assert any((m.weight == 0).all() for n, m in timms.named_modules() if n.endswith("bn2"))


def test_an_argument_that_the_architecture_does_not_know_is_refused():
    with pytest.raises(ClzooError, match="does not build vit_tiny_patch16_224 with"):
        build_method(small_recipe("hydra_moco_in1k", "backbone.zero_init_last=false"), classes=3)


@pytest.mark.parametrize("name", ["mocov3_cifar10", "hydra_moco_cifar10", "cacr_in1k"])
def test_a_predictor_that_is_not_as_wide_as_the_projector_is_refused_with_the_right_one(name):
    with pytest.raises(ClzooError, match=r"method\.predictor=\[16, 9\] .* Type: (--set method\.predictor=\[16,8\])$"):
        build_method(small_recipe(name, "method.predictor=[16,9]"), classes=3)
    build_method(small_recipe(name, "method.predictor=[16,8]"), classes=3)


def test_the_predictor_that_a_cacr_recipe_lacks_is_named_so_that_it_fits():
    with pytest.raises(ClzooError, match=r"--set method\.predictor=\[4096,8\]$"):
        build_method(small_recipe("cacr_cifar10", "method.form=momentum"), classes=None)
    build_method(small_recipe("cacr_cifar10", "method.form=momentum", "method.predictor=[4096,8]"), classes=None)


def test_groups_that_do_not_divide_the_batch_are_refused_before_training():
    with pytest.raises(ClzooError, match=r"method\.group=6 .* --set method\.group=2"):
        build_method(small_recipe("reco_cifar10", "method.group=6"), classes=None)
    with pytest.raises(ClzooError, match=r"method\.group=3 .* --set method\.group=8"):
        build_method(small_recipe("reco_cifar10", "method.group=3"), classes=None)
    for groups, right in ((3, 2), (8, 4)):
        refused = rf"batchnorm_groups={groups} .* --set backbone\.batchnorm_groups={right}$"
        with pytest.raises(ClzooError, match=refused):
            build_method(small_recipe("mocov2_cifar10", f"backbone.batchnorm_groups={groups}"), classes=None)


def test_hydras_preset_has_the_wide_deep_stem():
    for name in ("hydra_cifar10", "hydra_tiny"):
        stem = build_backbone(load_recipe(find_recipe(name)).backbone).conv1
        assert [layer.out_channels for layer in stem if hasattr(layer, "out_channels")] == [
            64,
            64,
            128,
        ]  # timm doubles it in the last


@pytest.mark.parametrize(("name", "std"), [("hydra_moco_in1k", 0.051), ("cacr_in1k_vit", 0.036)])
def test_vits_start_as_moco_v3s(name, std):
    b = load_recipe(find_recipe(name)).backbone
    torch.manual_seed(0)
    vit = build_backbone(b.model_copy(update={"model_args": {**b.model_args, "depth": 2}}))
    for block in vit.blocks:
        assert block.attn.qkv.weight.std().item() == pytest.approx(std, abs=5e-4)
        assert (block.attn.qkv.bias == 0).all()
    patch, width = vit.patch_embed.proj, vit.embed_dim
    bound = (6 / (3 * 16 * 16 + width)) ** 0.5
    assert patch.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert patch.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert (patch.bias == 0).all()
    assert patch.weight.requires_grad == (name == "cacr_in1k_vit")  # CACR's learns, Hydra-MoCo's is frozen
    assert not vit.pos_embed.requires_grad


def test_cacrs_vit_heads_end_in_batchnorm_without_affine_and_bias():
    method = build_method(small_recipe("cacr_in1k_vit"), classes=None)
    for head, layers in ((method.projector, 3), (method.predictor, 2)):
        linear = [layer for layer in head if isinstance(layer, nn.Linear)]
        assert len(linear) == layers
        assert linear[-1].bias is None
        assert isinstance(head[-1], nn.BatchNorm1d)
        assert not head[-1].affine


def test_hydra_mocos_projector_ends_in_layernorm_and_its_predictor_without_a_norm():
    method = build_method(small_recipe("hydra_moco_in1k"), classes=3)
    assert isinstance(method.projector[-1], nn.LayerNorm)
    assert isinstance(method.predictor[-1], nn.Linear)
    overrides = [f"method.{head}_last_norm=batch_without_affine" for head in ("projector", "predictor")]
    as_mocov3 = build_method(small_recipe("hydra_moco_in1k", *overrides), classes=3)
    assert all(
        isinstance(h[-1], nn.BatchNorm1d) and not h[-1].affine for h in (as_mocov3.projector, as_mocov3.predictor)
    )


@pytest.mark.parametrize("name", ["cacr_in1k_vit", "hydra_moco_in1k"])
def test_adamw_decays_every_parameter_of_the_vits(name):
    recipe = small_recipe(name)
    method = build_method(recipe, classes=3)
    groups = create_optimizer(method, recipe).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    assert {id(p) for p in method.parameters() if p.requires_grad} <= decayed


def test_moco_v3s_initial_weights_are_for_vits():
    with pytest.raises(ClzooError, match=r"backbone\.init=mocov3 is for ViTs"):
        build_method(small_recipe("simclr_cifar10", "backbone.init=mocov3"), classes=None)


def test_local_crops_are_a_view_group_of_another_size():
    groups = "[{count: 2, size: 24, crop_scale: [0.2, 1.0]}, {count: 8, size: 16, crop_scale: [0.05, 0.4]}]"
    recipe = small_recipe("cacr_in1k", f"views={groups}")
    pixels = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = render_views(pixels, torch.arange(8), recipe, epoch=0)
    assert [view.shape[-1] for view in views] == [24, 24, *[16] * 8]
    loss = build_method(recipe, classes=None)(Batch(views))
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize(("architecture", "width"), [("mobilenetv3_small_050", 1024), ("test_mambaout", 256)])
@pytest.mark.parametrize("name", ["simclr_cifar10", "mocov2_cifar10", "mocov3_cifar10"])
def test_heads_take_what_the_backbone_returns_and_not_what_timm_counts(name, architecture, width):
    recipe = load_recipe(
        RECIPES / f"{name}.yaml",
        (
            f"backbone.architecture={architecture}",
            *("backbone.model_args={}", "backbone.stem_stride=null", "backbone.stem_pool=false"),
            *(
                "backbone.global_pool=avg",
                "backbone.sincos_positions=false",
                "backbone.frozen=[]",
                "backbone.batchnorm_groups=1",
                "backbone.zero_init_last=null",
            ),
            *("schedule.batch_size=8", "views.0.size=64", "data.size=64"),
            *(["method.queue=16"] if name.startswith("mocov2") else []),
        ),
    )
    method = build_method(recipe, classes=None)
    assert next(layer for layer in method.projector.modules() if hasattr(layer, "in_features")).in_features == width
    views = [torch.rand(8, 3, 64, 64) for _ in recipe.view_policies()]
    assert torch.isfinite(method(Batch(views, None, seed=0, step=0, progress=0.0)))
    encoder = encoder_of(method, recipe, "simclr-x-cifar10", "cpu")
    assert encoder.embed(torch.rand(3, 64, 64)).shape == (encoder.dim,) == (width,)


def test_a_backbone_made_for_one_size_is_used_at_that_size_and_refuses_other_views():
    vit = [
        "backbone.architecture=test_vit",
        "backbone.global_pool=token",
        "backbone.model_args={img_size: 32, dynamic_img_size: false}",
    ]
    plain = ["backbone.stem_stride=null", "backbone.stem_pool=false"]
    recipe = load_recipe(RECIPES / "simclr_cifar10.yaml", (*vit, *plain, "views.0.size=32", "data.size=40"))
    assert model_config(recipe).preprocessing.size == 32
    other = load_recipe(RECIPES / "simclr_cifar10.yaml", (*vit, *plain, "views.0.size=24"))
    with pytest.raises(ClzooError, match="does not take images of 3 x 24 x 24"):
        build_method(other, classes=None)


@pytest.mark.parametrize("key", ["crop_scale", "downscale_to"])
@pytest.mark.parametrize("value", ["[0.5, 0.2]", "[0.0, 1.0]", "[0.2, 1.5]"])
def test_shares_of_a_view_that_are_out_of_order_are_refused_with_what_was_expected(key, value):
    views = f"views=[{{count: 2, size: 32, crop_scale: [0.2, 1.0], {key}: {value}}}]".replace(
        "crop_scale: [0.2, 1.0], crop_scale", "crop_scale"
    )
    with pytest.raises(ClzooError, match=rf"{key}.*two shares in order: 0 < low <= high <= 1"):
        load_recipe(find_recipe("simclr_cifar10"), [views])


def test_parts_that_do_not_go_together_are_told_in_the_validators_own_words(monkeypatch):
    class Whole(Recipe):
        @model_validator(mode="after")
        def _goes_together(self):
            if self.seed == 7:
                raise ValueError("seed=7 does not go with these views. Type: --set seed=0")
            return self

    monkeypatch.setattr(recipe_files, "Recipe", Whole)
    assert load_recipe(find_recipe("simclr_cifar10")).seed == 0
    with pytest.raises(ClzooError) as refused:
        load_recipe(find_recipe("simclr_cifar10"), ("seed=7",))
    first, said = str(refused.value).splitlines()
    assert first.endswith("simclr_cifar10.yaml is not a valid recipe:")
    assert said.strip() == "seed=7 does not go with these views. Type: --set seed=0."


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.preprocessing={size: 9, siz: 3}", "unknown key 'data.preprocessing.siz': did you mean 'size'?"),
        ("views.0.sise=3", "unknown key 'views.0.sise': did you mean 'size'?"),
        ("method.temprature=3", "unknown key 'method.temprature': did you mean 'temperature'?"),
        ("start={name: a, weights_sha256: b, licence: mit}", "unknown key 'start.licence': did you mean 'license'?"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_compared_with_those_of_its_own_table(override, said):
    with pytest.raises(ClzooError) as refused:
        load_recipe(find_recipe("simclr_cifar10"), (override,))
    assert said in [line.strip() for line in str(refused.value).splitlines()]


def test_a_methods_options_that_do_not_go_together_are_named_as_in_the_file(monkeypatch):
    problem = {"type": "value_error", "loc": ("method", "simclr"), "msg": "Value error, no", "input": {}}
    assert recipe_files._explain({"method": {"name": "simclr"}}, problem) == "method: no."
