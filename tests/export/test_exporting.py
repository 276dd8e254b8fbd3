"""The file that an export leaves: what it holds, how near it is to torch, and that there is none if it is not near."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from picture_folders import make_folder
from small_models import small_config, small_encoder

from clzoo import Encoder
from clzoo.cli import main
from clzoo.config import Preprocessing
from clzoo.errors import ClzooError
from clzoo.export import export_onnx, exporting

PICTURES = Path(__file__).parents[2] / "examples" / "pictures"
TINY_VIT = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 3},
    "num_features": 24,
    "global_pool": "token",
    "preprocessing": Preprocessing(size=32, crop_pct=0.875),
}

NARROW = (
    "backbone.architecture=resnet10t",
    "backbone.model_args={channels: [4, 8, 8, 8], stem_type: deep, stem_width: 4}",
    "backbone.stem_stride=2",
    "schedule.epochs=1",
    "schedule.batch_size=8",
)


@pytest.fixture
def encoder():
    return small_encoder(**TINY_VIT)


def assert_empty(folder):
    assert list(folder.iterdir()) == []


def test_an_export_is_compared_with_torch_and_says_where_it_comes_from(encoder, tmp_path):
    encoder.module.train()
    weights = {name: tensor.clone() for name, tensor in encoder.module.state_dict().items()}
    exported = encoder.export(tmp_path / "new" / "model.onnx", preprocess=True)

    assert [(row.against, row.batch) for row in exported.parity] == [
        *(("torch", batch) for batch in (1, 2, 17)),
        *(("embed", batch) for batch in (1, 2, 17)),
    ]
    for row in exported.parity:
        assert row.passed
        assert row.min_cosine > 0.999
        assert row.max_difference < (1e-5 if row.against == "torch" else 0.01)
    assert "embed    17" in str(exported)

    model = onnx.load(exported.path)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["clzoo.model"] == encoder.config.name
    assert said["clzoo.weights_sha256"] == encoder.weights_sha256
    assert said["clzoo.opset"] == "18" == str(model.opset_import[0].version)
    assert (said["clzoo.dtype"], said["clzoo.preprocess"]) == ("fp32", "inside")
    assert said["clzoo.normalization"] == "embedding: L2; feature: none"
    assert json.loads(said["clzoo.preprocessing"])["size"] == 32
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"

    assert encoder.module.training, "the caller's network is left as it was"
    for name, tensor in encoder.module.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_a_graph_that_is_not_near_enough_is_not_written_and_the_old_file_stays(encoder, tmp_path):
    out = tmp_path / "model.onnx"
    encoder.module.patch_embed.proj.weight.data *= 1e6  # beyond float16
    out.write_bytes(b"an older one")
    with pytest.raises(ClzooError, match=r"was not written. Export it with --dtype fp32(.|\n)*torch +17 .*FAILED"):
        export_onnx(encoder, out, dtype="fp16")
    assert out.read_bytes() == b"an older one"
    assert len(list(tmp_path.iterdir())) == 1


def test_fp32_is_held_to_the_largest_difference_and_leaves_no_file(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("clzoo.export.parity.MAX_DIFFERENCE", 0.0)
    with pytest.raises(ClzooError, match=r"difference <= 0 +FAILED"):
        export_onnx(encoder, tmp_path / "model.onnx")
    assert_empty(tmp_path)


def test_fp16_halves_the_file_and_keeps_the_direction(encoder, tmp_path):
    exported = export_onnx(encoder, tmp_path / "half.onnx", dtype="fp16", preprocess=True)
    assert min(row.min_cosine for row in exported.parity) > 0.9999
    sizes = {tensor.data_type for tensor in onnx.load(exported.path).graph.initializer if len(tensor.raw_data) > 1000}
    assert sizes == {onnx.TensorProto.FLOAT16}


def test_int8_is_calibrated_on_pictures_and_compared_on_others(encoder, tmp_path):
    exported = export_onnx(encoder, tmp_path / "int8.onnx", int8=PICTURES, preprocess=True)
    assert exported.provenance.calibration == "100 images, smallest and largest values"
    assert exported.provenance.dtype == "int8"
    assert all(0.98 <= row.min_cosine < 0.999999 for row in exported.parity)  # quantised indeed
    kinds = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_int8_needs_enough_readable_pictures(encoder, tmp_path, caplog):
    pictures = make_folder(tmp_path / "pictures", {"a": 40})
    for number in range(7):
        (pictures / "a" / f"{number:02}.png").write_bytes(b"damaged")
    with pytest.raises(ClzooError, match="33 readable images; to quantise, expected at least 34"):
        export_onnx(encoder, tmp_path / "out" / "model.onnx", int8=pictures)
    assert "a/00.png: not an image that Pillow can read" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("model.bin", {}, "must be the name of a file that ends in .onnx"),
        ("model.onnx", {"dtype": "bf16"}, "dtype must be fp32 or fp16, found 'bf16'"),
        ("model.onnx", {"dtype": "fp16", "int8": PICTURES}, "Leave out one of the two"),
        ("model.onnx", {"int8": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(encoder, tmp_path, out, options, message):
    with pytest.raises(ClzooError, match=message):
        export_onnx(encoder, tmp_path / out, **options)
    assert_empty(tmp_path)


def test_weights_that_no_graph_holds_are_refused_before_the_work(encoder, tmp_path, monkeypatch):
    size = sum(tensor.numel() * 4 for tensor in encoder.module.state_dict().values())
    monkeypatch.setattr(exporting, "MOST_BYTES", size)
    monkeypatch.setattr(exporting, "_model", lambda *_: pytest.fail("the long part"))
    with pytest.raises(ClzooError, match=r"in fp32; an \.onnx file holds less than 2 GiB\. With half .* --dtype fp16$"):
        export_onnx(encoder, tmp_path / "model.onnx")
    monkeypatch.setattr(exporting, "MOST_BYTES", size // 2)
    with pytest.raises(ClzooError, match=r"in fp16; an \.onnx file holds less than 2 GiB\.$"):
        export_onnx(encoder, tmp_path / "model.onnx", dtype="fp16")


def test_a_missing_package_is_named_with_what_installs_it(encoder, tmp_path, monkeypatch):
    without = {"onnx", "onnxscript"}
    monkeypatch.setattr("clzoo.export.exporting.find_spec", lambda name: None if name in without else find_spec(name))
    with pytest.raises(ClzooError, match=r"onnx, onnxscript must be installed. Type: pip install onnx onnxscript"):
        export_onnx(encoder, tmp_path / "model.onnx")


def test_the_command_exports_a_run_and_prints_the_comparison(tmp_path, capsys):
    data = make_folder(tmp_path / "data" / "train", {"a": 8, "b": 8}).parent
    overrides = [part for value in NARROW for part in ("--set", value)]
    run = ["pretrain", "cacr_cifar10", "--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu"]
    main([*run, "--quiet", *overrides])
    capsys.readouterr()
    out = tmp_path / "run.onnx"
    main(["export", str(tmp_path / "run"), "--to", "onnx", "--out", str(out), "--json", "--quiet"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["bytes"] == out.stat().st_size
    assert printed["provenance"]["model"] == "cacr-resnet10t_038e03-data"  # narrower than the recipe's, other images
    assert all(row["passed"] for row in printed["parity"])


BIG = {
    "resnet50": {"architecture": "resnet50", "num_features": 2048},
    "resnet18, small-image stem": {"architecture": "resnet18", "num_features": 512, "stem_stride": 1},
    "vit_small": {
        "architecture": "vit_small_patch16_224",
        "num_features": 384,
        "global_pool": "token",
        "model_args": {"num_heads": 12},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dtype": "fp16"}, {"int8": PICTURES}], ids=["fp32", "fp16", "int8"])
@pytest.mark.parametrize("kind", BIG)
def test_networks_of_full_size_pass_the_comparison(kind, options, tmp_path):
    size = 32 if "stem" in kind else 224
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder.untrained(small_config(preprocessing=Preprocessing(size=size), **BIG[kind]))
    exported = export_onnx(encoder, tmp_path / "model.onnx", preprocess=True, **options)
    print(exported)
    assert all(row.passed for row in exported.parity)


@pytest.mark.gpu
def test_an_encoder_on_the_gpu_is_exported_from_a_copy_on_the_cpu(tmp_path):
    encoder = Encoder(small_encoder(**TINY_VIT).module, small_config(**TINY_VIT), "cuda")
    exported = export_onnx(encoder, tmp_path / "model.onnx", preprocess=True)
    assert all(row.passed for row in exported.parity)
    assert {parameter.device.type for parameter in encoder.module.parameters()} == {"cuda"}
    assert np.isfinite(encoder.embed(np.zeros((32, 32, 3), np.uint8))).all()
