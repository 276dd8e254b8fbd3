"""Foreign checkpoints become exactly the backbone, or an error that names what is wrong."""

import argparse
import dataclasses
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from fake_checkpoints import (
    SHIPPED,
    moco_style,
    prefixed,
    published_file,
    random_backbone,
    shrunk,
    small_config,
)
from safetensors.torch import save_file

import clzoo
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import sha256_of
from clzoo.proof import weights_sha256
from clzoo.zoo.convert import assumptions, convert, convert_to_folder, parse_model_args
from clzoo.zoo.saving import save_entry

NEXT = "Type: something"
FAMILIES = ["module.base_encoder.", "base_encoder.", "module.encoder_q.", "encoder.", "backbone.", "visual.", ""]


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["avg", "token"])
@pytest.mark.parametrize("layout", FAMILIES)
def test_each_layout_is_found_among_optimiser_projector_and_momentum_encoder(tmp_path, layout, kind):
    config = small_config(kind)
    backbone = random_backbone(config)
    head = "fc" if kind == "avg" else "head"
    torch.save(moco_style(layout, head, backbone), tmp_path / "a.pth")
    converted = convert(tmp_path / "a.pth", config, next_step=NEXT)
    assert same(converted.tensors, backbone)
    report = converted.report
    assert report.layout == layout
    assert report.renamed == ({layout + name: name for name in backbone} if layout else {})
    outer = "module." if layout.startswith("module.") else ""
    assert report.dropped[layout + head] == 2
    assert report.dropped[outer + "predictor"] == report.dropped[outer + "queue"] == 1
    assert sum(report.dropped.values()) == 2 + 3 + len(backbone) + 2
    assert report.others == ["epoch", "arch", "optimizer", "scaler"]


@pytest.mark.parametrize("name", [name for name, config in SHIPPED.items() if config.source])
def test_the_recorded_layout_of_every_entry_gives_its_backbone(tmp_path, name):
    config = shrunk(SHIPPED[name])
    backbone = published_file(config, tmp_path / "a.pth")
    converted = convert(
        tmp_path / "a.pth", config, layout=config.source.layout, drop=config.source.drop, next_step=NEXT
    )
    assert same(converted.tensors, backbone)
    assert convert(tmp_path / "a.pth", config, next_step=NEXT).report.layout == config.source.layout


def test_real_resnet50_and_vit_tiny_keep_their_318_and_150_tensors(tmp_path):
    for name, count in (("cacr-resnet50-in1k", 318), ("hydra-vit_tiny-in1k", 150)):
        config = SHIPPED[name]
        backbone = published_file(config, tmp_path / "a.pth")
        converted = convert(tmp_path / "a.pth", config, next_step=NEXT)
        assert len(converted.report.kept) == count
        assert same(converted.tensors, backbone)


def test_hydras_gates_are_kept_aside(tmp_path):
    config = shrunk(SHIPPED["hydra-vit_base-in1k"])
    published_file(config, tmp_path / "a.pth")
    converted = convert(tmp_path / "a.pth", config, next_step=NEXT)
    assert list(converted.aside) == ["filter.0.weight"]
    assert converted.report.dropped == {"visual.head": 1, "projector": 1, "logit_scale": 1}


def test_files_from_before_the_zip_format_and_safetensors_are_read_too(tmp_path):
    config = small_config()
    backbone = random_backbone(config)
    torch.save(prefixed("backbone.", backbone), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(prefixed("backbone.", backbone), tmp_path / "a.safetensors")
    for file in ("old.pth", "a.safetensors"):
        assert same(convert(tmp_path / file, config, next_step=NEXT).tensors, backbone)


def test_half_precision_becomes_float32_and_is_reported(tmp_path):
    config = small_config("token")
    backbone = {name: tensor.half() for name, tensor in random_backbone(config).items()}
    torch.save(backbone, tmp_path / "a.pth")
    converted = convert(tmp_path / "a.pth", config, next_step=NEXT)
    assert all(tensor.dtype == torch.float32 for tensor in converted.tensors.values())
    assert same(converted.tensors, {name: tensor.float() for name, tensor in backbone.items()})
    assert converted.report.cast == list(backbone)


# -- wrappers, counters, moving averages -----------------------------------------------------------------------------

NESTINGS = ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod.module.", "model.model."]


@pytest.mark.parametrize("family", ["base_encoder.", "encoder_q.", "encoder.", "backbone.", "visual.", ""])
@pytest.mark.parametrize("wrappers", NESTINGS)
def test_wrappers_in_any_nesting_are_looked_through_in_front_of_every_family(tmp_path, wrappers, family):
    config = small_config()
    backbone = random_backbone(config)
    content = moco_style(wrappers + family, "fc", backbone)["state_dict"]
    content = {(key if key.startswith(wrappers) else wrappers + key): tensor for key, tensor in content.items()}
    torch.save({"state_dict": content}, tmp_path / "a.pth")
    converted = convert(tmp_path / "a.pth", config, next_step=NEXT)
    assert same(converted.tensors, backbone)
    assert converted.report.layout == wrappers + family
    assert sum(converted.report.dropped.values()) == len(content) - len(backbone)


def test_a_compiled_encoder_inside_its_method_and_compiled_layers_are_found(tmp_path):
    config = small_config("token")
    backbone = random_backbone(config)
    inner = {key.replace("blocks.0.", "blocks.0._orig_mod."): tensor for key, tensor in backbone.items()}
    for content in (prefixed("module.encoder_q._orig_mod.", backbone), inner, prefixed("module.", inner)):
        torch.save(content, tmp_path / "a.pth")
        converted = convert(tmp_path / "a.pth", config, next_step=NEXT)
        assert same(converted.tensors, backbone)
        assert converted.report.renamed == {
            key: name for key, name in zip(content, backbone, strict=True) if key != name
        }


def test_gates_and_heads_are_known_behind_wrappers(tmp_path):
    config = small_config("token")
    content = {
        **prefixed("visual.", random_backbone(config)),
        "filter.0.weight": torch.ones(1),
        "n_averaged": torch.ones(1),
    }
    torch.save(prefixed("module._orig_mod.", content), tmp_path / "a.pth")
    converted = convert(tmp_path / "a.pth", config, next_step=NEXT)
    assert list(converted.aside) == ["filter.0.weight"]
    assert converted.report.dropped == {"module._orig_mod.n_averaged": 1}


def test_counters_that_old_files_lack_are_zero_and_reported(tmp_path):
    config = small_config()
    backbone = random_backbone(config)
    old = {name: tensor for name, tensor in backbone.items() if "num_batches" not in name}
    torch.save(prefixed("module.", old), tmp_path / "a.pth")
    converted = convert(tmp_path / "a.pth", config, next_step=NEXT)
    counters = backbone.keys() - old.keys()
    assert {name: int(converted.tensors[name]) for name in counters} == dict.fromkeys(counters, 0)
    assert same({name: converted.tensors[name] for name in old}, old)
    assert set(converted.report.filled) == counters
    assert any(line.startswith(f"filled:  {len(counters)} counters") for line in converted.report.lines())


def test_a_prefix_that_clzoo_does_not_know_is_named_and_can_be_given(tmp_path):
    config = small_config()
    backbone = random_backbone(config)
    message = refusal(tmp_path, prefixed("student.net.", backbone))
    assert "holds a whole test_resnet under 'student.net.'" in message
    assert "add --prefix student.net." in message
    name, _, out = "test_resnet", None, tmp_path / "out"
    report, _ = convert_to_folder(tmp_path / "a.pth", name, out, model_args={}, prefix="student.net")
    assert report.layout == "student.net."
    assert same(dict(clzoo.load(out, device="cpu").module.state_dict()), backbone)


def test_a_prefix_chooses_between_two_whole_networks(tmp_path):
    config = small_config()
    one, other = random_backbone(config), random_backbone(config, seed=1)
    torch.save({**prefixed("encoder.", one), **prefixed("backbone.", other)}, tmp_path / "a.pth")
    converted = convert(tmp_path / "a.pth", config, layout="backbone.", drop=["encoder"], next_step=NEXT)
    assert same(converted.tensors, other)


def test_torch_compiles_prefix_is_named_where_nothing_fits(tmp_path):
    message = refusal(tmp_path, prefixed("_orig_mod.", random_backbone(small_config("token"))))
    assert "_orig_mod. of torch.compile" in message
    assert "--prefix" in message


EMA = {
    "state_dict_ema": lambda plain, ema: {"state_dict": plain, "state_dict_ema": ema},
    "model_ema": lambda plain, ema: {"model": plain, "model_ema": prefixed("module.", ema)},
    "ema": lambda plain, ema: {"state_dict": plain, "ema": {"module": ema, "decay": 0.999}},
    "ema_state_dict": lambda plain, ema: {"model": plain, "ema_state_dict": {"state_dict": ema}},
    "model_ema.": lambda plain, ema: {
        "state_dict": {**prefixed("model.", plain), **prefixed("model_ema.module.", ema)}
    },
}


@pytest.mark.parametrize("how", EMA)
def test_the_moving_average_is_taken_when_asked_for_and_the_report_says_which(tmp_path, how):
    config = small_config()
    plain, ema = random_backbone(config), random_backbone(config, seed=1)
    torch.save({**EMA[how](plain, ema), "epoch": 3}, tmp_path / "a.pth")
    word = how.rstrip(".")
    of_training = convert(tmp_path / "a.pth", config, next_step=NEXT)
    assert same(of_training.tensors, plain)
    first = of_training.report.lines()[0]
    assert first.startswith("weights: those of the training itself; the file holds their moving average too")
    assert first.endswith(f"under '{word}': --ema takes it")
    averaged = convert(tmp_path / "a.pth", config, next_step=NEXT, ema=True)
    assert same(averaged.tensors, ema)
    assert averaged.report.lines()[0] == f"weights: the moving average (EMA) under '{word}'"


def test_a_moving_average_that_is_not_there_is_an_error_and_one_alone_is_taken_and_said(tmp_path):
    assert "no moving average" in refusal(tmp_path, {"state_dict": random_backbone(small_config())}, ema=True)
    ema = random_backbone(small_config())
    torch.save({"state_dict_ema": ema, "epoch": 3}, tmp_path / "b.pth")
    converted = convert(tmp_path / "b.pth", small_config(), next_step=NEXT)
    assert same(converted.tensors, ema)
    assert converted.report.choice == "the moving average (EMA) under 'state_dict_ema', the only ones in the file"


# -- refusals --------------------------------------------------------------------------------------------------------


def refusal(tmp_path, content, **options):
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(ClzooError) as caught:
        convert(path, options.pop("config", small_config()), next_step=NEXT, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_missing_tensor_is_named(tmp_path):
    backbone = random_backbone(small_config())
    del backbone["layer1.0.bn1.running_mean"]
    message = refusal(tmp_path, prefixed("encoder.", backbone))
    assert "1 missing: layer1.0.bn1.running_mean" in message
    assert message.endswith(NEXT)


def test_an_unexpected_tensor_is_named_with_its_full_key(tmp_path):
    backbone = random_backbone(small_config())
    content = {**prefixed("encoder.", backbone), "encoder.layer9.weight": torch.ones(1), "else.weight": torch.ones(1)}
    assert "2 unexpected: encoder.layer9.weight, else.weight" in refusal(tmp_path, content)


def test_a_head_that_is_named_may_be_left_behind(tmp_path):
    backbone = random_backbone(small_config())
    torch.save({**backbone, "else.weight": torch.ones(1), "elsewhere": torch.ones(1)}, tmp_path / "a.pth")
    converted = convert(tmp_path / "a.pth", small_config(), drop=("else", "elsewhere"), next_step=NEXT)
    assert converted.report.dropped == {"else": 1, "elsewhere": 1}


def test_a_name_to_drop_ends_at_a_dot(tmp_path):
    content = {**random_backbone(small_config()), "fc_norm.weight": torch.ones(1)}
    assert "1 unexpected: fc_norm.weight" in refusal(tmp_path, content)


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path):
    config = small_config("token")
    backbone = random_backbone(config)
    backbone["pos_embed"] = torch.ones(1, 5, 64)
    message = refusal(tmp_path, backbone, config=config)
    assert "1 of another shape: pos_embed [1, 5, 64] (expected [1, 101, 64])" in message


def test_another_architecture_is_refused(tmp_path):
    content = random_backbone(small_config("token"))
    message = refusal(tmp_path, content)
    assert "no tensor of test_resnet under a known prefix" in message
    assert "cls_token" in message


def test_two_whole_backbones_are_not_chosen_between(tmp_path):
    backbone = random_backbone(small_config())
    content = {**prefixed("encoder.", backbone), **prefixed("backbone.", backbone)}
    assert "2 whole test_resnet networks, under 'encoder.' and 'backbone.'" in refusal(tmp_path, content)
    converted = convert(tmp_path / "a.pth", small_config(), drop=("backbone",), next_step=NEXT)
    assert converted.report.layout == "encoder."


def test_a_recorded_layout_is_not_searched_for_elsewhere(tmp_path):
    content = prefixed("encoder.", random_backbone(small_config()))
    assert "90 missing" in refusal(tmp_path, content, layout="base_encoder.")


def test_values_that_are_not_finite_are_refused(tmp_path):
    backbone = random_backbone(small_config())
    backbone["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    assert "not finite in conv1.0.weight" in refusal(tmp_path, backbone)


class Evil:
    """Runs a command when a careless reader opens it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("how", ["torch.save", "pickle", "legacy"])
def test_a_pickle_that_wants_code_is_refused_and_nothing_runs(tmp_path, how):
    trace = tmp_path / "it-ran"
    path = tmp_path / "evil.pth"
    content = {"state_dict": random_backbone(small_config()), "args": Evil(f"touch {trace}")}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch.save")
    with pytest.raises(ClzooError, match=r"evil\.pth is a pickle that .*Nothing in it was run"):
        convert(path, small_config(), next_step=NEXT)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(f"touch {trace}")))
    assert trace.exists()  # the trap works: another reader would have run it


def test_what_a_pickle_wants_to_import_is_named(tmp_path):
    assert "argparse.Namespace" in refusal(tmp_path, {"state_dict": {}, "args": argparse.Namespace(lr=1)})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused_and_named(tmp_path, keep, zipped):
    path = tmp_path / "a.pth"
    torch.save(random_backbone(small_config()), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(ClzooError, match=r"a\.pth"):
        convert(path, small_config(), next_step=NEXT)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.ones(1)], "holds a list"),
        ({"epoch": 3, "optimizer": {}}, "holds no tensors .* found the entries epoch, optimizer"),
        ({"state_dict": {}}, "holds no tensors"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content, says):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ClzooError, match=says):
        convert(tmp_path / "a.pth", small_config(), next_step=NEXT)


def test_text_and_missing_files_are_no_checkpoints(tmp_path):
    (tmp_path / "a.pth").write_text("hello, I am a page that says 404\n")
    with pytest.raises(ClzooError, match="is not a checkpoint"):
        convert(tmp_path / "a.pth", small_config(), next_step=NEXT)
    with pytest.raises(ClzooError, match="does not exist"):
        convert(tmp_path / "b.pth", small_config(), next_step=NEXT)


# -- to a folder -----------------------------------------------------------------------------------------------------


def test_a_converted_folder_loads_with_hash_probe_and_gates(tmp_path):
    config = small_config("token")
    backbone = random_backbone(config)
    content = {**prefixed("visual.", backbone), "filter.f_l.weight": torch.ones(3, 2)}
    torch.save(content, tmp_path / "a.pth")
    out = tmp_path / "mine"
    report, written = convert_to_folder(tmp_path / "a.pth", "test_vit", out, model_args={})
    encoder = clzoo.load(out, device="cpu")
    assert same(dict(encoder.module.state_dict()), backbone)
    assert encoder.weights_sha256 == written.weights_sha256
    assert encoder.probe() == pytest.approx(written.probe, rel=1e-3, abs=1e-4)
    assert written.preprocessing.size == 160
    assert report.aside == ["filter.f_l.weight"]
    assert written.pretrain_sha256 == sha256_of(out / "pretrain.safetensors")
    again, kept = convert_to_folder(tmp_path / "a.pth", "test_vit", out, model_args={})
    assert (again, kept) == (report, written)  # nothing to write
    torch.save(prefixed("visual.", random_backbone(config, seed=1)), tmp_path / "b.pth")
    with pytest.raises(ClzooError, match="exists already"):
        convert_to_folder(tmp_path / "b.pth", "test_vit", out, model_args={})
    with pytest.raises(ClzooError, match="exists already"):
        convert_to_folder(tmp_path / "a.pth", "test_vit", out, model_args={"class_token": True})
    assert clzoo.load(out, device="cpu").weights_sha256 == written.weights_sha256


def test_a_network_that_is_built_with_the_class_token_alone_is_converted_by_its_name(tmp_path):
    torch.manual_seed(0)
    small = {"depth": 1, "embed_dim": 24}
    network = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0, **small).eval()
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, tmp_path / "a.safetensors")
    out = tmp_path / "mine"
    _, written = convert_to_folder(tmp_path / "a.safetensors", "deit_tiny_distilled_patch16_224", out, model_args=small)
    assert (written.global_pool, written.num_features) == ("token", 24)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(clzoo.load(out, device="cpu").module(images), network(images))


def test_arguments_that_no_pool_makes_right_are_named_by_the_first_refusal(tmp_path):
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(ClzooError, match=r"global_pool 'avg': .*no_such"):
        convert_to_folder(tmp_path / "a.pth", "test_resnet", tmp_path / "out", model_args={"no_such": 1})


def test_a_failed_conversion_writes_nothing(tmp_path):
    torch.save({"conv1.0.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(ClzooError, match="missing"):
        convert_to_folder(tmp_path / "a.pth", "test_resnet", tmp_path / "out", model_args={})
    assert not (tmp_path / "out").exists()


def test_the_number_of_heads_is_said_because_no_checkpoint_holds_it():
    small = SHIPPED["mocov3-vit_small-in1k"]
    assert any(line.startswith("heads:   12 (as given") for line in assumptions(small))


def test_model_args_are_json_or_text():
    assert parse_model_args(["num_heads=12", "qk_norm=true", "act=x"]) == {"num_heads": 12, "qk_norm": True, "act": "x"}
    with pytest.raises(ClzooError, match="KEY=VALUE"):
        parse_model_args(["num_heads"])


def test_of_a_torchscript_archive_the_weights_are_taken_out_as_the_error_says(tmp_path, monkeypatch):
    network = timm.create_model("test_resnet", num_classes=0).eval()
    archive = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 64, 64)), archive)
    with pytest.raises(ClzooError, match=r"TorchScript archive.*nothing in it was run") as refusal:
        convert_to_folder(archive, "test_resnet", tmp_path / "model", model_args={})
    monkeypatch.chdir(tmp_path)
    exec(str(refusal.value).rpartition("take its weights out: ")[2].removesuffix("."), {"torch": torch})
    _, config = convert_to_folder(Path("weights.pth"), "test_resnet", tmp_path / "model", model_args={})
    assert config.weights_sha256 == weights_sha256(network.state_dict())


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_terms_of_weights_of_our_own_are_kept_in_whatever_type_they_lie_there(tmp_path, dtype):
    terms = {"license": "cc-by-nc-4.0", "license_note": "Not for commercial use.", "derived_from": "timm:somebody"}
    encoder = Encoder.untrained(dataclasses.replace(small_config("token"), **terms))
    source = save_entry(encoder, tmp_path / "source", dtype=dtype)
    arguments = {key: value for key, value in encoder.config.model_args.items() if key != "global_pool"}
    _, config = convert_to_folder(
        source / "model.safetensors", encoder.config.architecture, tmp_path / "out", model_args=arguments
    )
    assert {key: getattr(config, key) for key in terms} == terms
