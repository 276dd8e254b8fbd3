"""Encoders in timm's format: pinned at the first download, strict, with timm's own outputs. The Hub is on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from labelled_pictures import make_splits
from picture_folders import make_folder
from PIL import Image
from timm.models import save_for_hf

from clzoo.errors import ClzooError
from clzoo.zoo.entries import facts
from clzoo.zoo.timm_models import config_of_timm, full_name

FAMILIES = {  # name -> arguments beside those of its tag
    "test_resnet.r160_in1k": {},
    "test_vit2.r160_in1k": {"reg_tokens": 4},
    "test_convnext.r160_in1k": {},
    "test_vit3.r160_in1k": {},  # attention pool
    "test_efficientnet.r160_in1k": {},
}

EMBED = """
import json, logging, sys
import numpy as np
import clzoo

logging.basicConfig(level=logging.INFO, format="%(message)s")
options = json.loads(sys.argv[3])
try:
    encoder = clzoo.load(sys.argv[1], device="cpu", **options)
    np.save(sys.argv[2], encoder.embed(sys.argv[4:], normalize=False))
    config = encoder.config
    print(json.dumps({"name": config.name, "license": config.license, "args": config.model_args}))
except clzoo.ClzooError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    seed = np.random.default_rng(0)
    paths = [folder / "wide.png", folder / "tall.png"]
    for path, size in zip(paths, ((60, 90, 3), (200, 170, 3)), strict=True):
        Image.fromarray(seed.integers(0, 256, size, np.uint8)).resize(size[1::-1]).save(path)
    return paths


def published(
    hub, folder: Path, name: str, *, repo: str = "", drop: tuple[str, ...] = (), **arguments
) -> torch.nn.Module:
    """A repository as timm itself writes it, with random weights; returns the network."""
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, **arguments).eval()
    save_for_hf(network, folder, model_args=arguments, safe_serialization=True)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in drop}
    hub.add(repo or f"timm/{name}", files)
    return network


def embedded(hub, name: str, out: Path, photographs: list[Path], **options) -> tuple[dict, np.ndarray | None, str]:
    child = hub.python("-c", EMBED, name, str(out), json.dumps(options), *map(str, photographs))
    assert child.returncode == 0, child.stderr
    print(child.stdout, child.stderr)
    return json.loads(child.stdout.splitlines()[-1]), np.load(out) if out.exists() else None, child.stderr


def features_of_timm(network: torch.nn.Module, photographs: list[Path], **overrides) -> np.ndarray:
    settings = timm.data.resolve_data_config(overrides, model=network)
    transform = timm.data.create_transform(**settings)
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in photographs])
    network.reset_classifier(0)
    with torch.inference_mode():
        return network(batch).numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_embeds_as_timm_does(hub, tmp_path, photographs, name):
    network = published(hub, tmp_path / "repo", name, **FAMILIES[name])
    said, ours, log = embedded(hub, f"timm:{name}", tmp_path / "a.npy", photographs)
    theirs = features_of_timm(network, photographs)
    assert said["name"] == f"timm:{name}"
    assert said["license"] == "apache-2.0"
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-4  # the network looks at the image
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert "pinned on this machine at commit" in log


def test_later_loads_take_what_was_pinned_and_ask_nobody(hub, tmp_path, photographs):
    name = "test_resnet.r160_in1k"
    published(hub, tmp_path / "repo", name)
    _, first, _ = embedded(hub, f"timm:{name}", tmp_path / "a.npy", photographs)
    torch.manual_seed(1)
    other = timm.create_model(name, pretrained=False)
    save_for_hf(other, tmp_path / "other", safe_serialization=True)
    hub.add(f"timm/{name}", {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()})
    asked = len(hub.requests)
    _, second, log = embedded(hub, "timm:test_resnet", tmp_path / "b.npy", photographs)  # timm's default tag
    assert np.array_equal(first, second)
    assert len(hub.requests) == asked
    assert "timm's name for test_resnet" in log

    verified = hub.python("-m", "clzoo", "verify", f"timm:{name}")
    assert verified.returncode == 0, verified.stderr
    assert "not by the zoo" in verified.stdout
    assert "pinned here on" in " ".join(verified.stdout.split())

    kept = next((tmp_path / "cache").glob("clzoo/models/*/model.safetensors"))
    kept.write_bytes(kept.read_bytes()[:-1] + bytes([kept.read_bytes()[-1] ^ 1]))
    damaged, _, _ = embedded(hub, f"timm:{name}", tmp_path / "c.npy", photographs)
    assert "they are damaged" in damaged["error"]
    assert f"clzoo cached --rm timm:{name}" in damaged["error"]
    removed = hub.python("-m", "clzoo", "cached", "--rm", f"timm:{name}")
    assert removed.returncode == 0, removed.stderr
    _, third, _ = embedded(hub, f"timm:{name}", tmp_path / "d.npy", photographs)
    assert not np.array_equal(first, third)  # pinned anew, at the commit of now


def test_any_repository_in_timms_format_loads_by_its_own_name(hub, tmp_path, photographs):
    network = published(hub, tmp_path / "repo", "test_resnet.r160_in1k", repo="tester/mine")
    said, ours, _ = embedded(hub, "hf-hub:tester/mine", tmp_path / "a.npy", photographs)
    assert said["name"] == "hf-hub:tester/mine"
    np.testing.assert_allclose(ours, features_of_timm(network, photographs), rtol=1e-3, atol=1e-4)
    asked = len(hub.requests)
    embedded(hub, "hf-hub:tester/mine", tmp_path / "b.npy", photographs)
    assert len(hub.requests) == asked


def test_info_fetches_the_config_alone_and_later_tells_what_was_pinned(hub, tmp_path, photographs):
    name = "test_resnet.r160_in1k"
    published(hub, tmp_path / "repo", name)
    for address in (f"timm:{name}", f"hf-hub:timm/{name}"):
        before = hub.python("-m", "clzoo", "info", address)
        assert address in before.stdout, before.stderr
        assert "not loaded here yet" in before.stdout
    assert hub.downloads("model.safetensors") == []
    embedded(hub, f"timm:{name}", tmp_path / "a.npy", photographs)
    asked = len(hub.requests)
    pinned = json.loads(hub.python("-m", "clzoo", "info", f"timm:{name}", "--json").stdout)
    assert pinned["clzoo"]["weights_sha256"]
    assert pinned["status"].startswith("pinned on this machine on 20")
    assert len(hub.requests) == asked


def test_it_can_be_saved_exported_and_evaluated_like_any_other(hub, tmp_path, photographs):
    name, folder, classes = "timm:test_vit.r160_in1k", tmp_path / "saved", make_splits(tmp_path / "classes", 8, 4)
    published(hub, tmp_path / "repo", "test_vit.r160_in1k")
    code = "import sys, clzoo; clzoo.load(sys.argv[1], size=96).save_pretrained(sys.argv[2])"
    judged = ("--data", str(classes), "--protocol", "knn", "--out", str(tmp_path / "report"))
    for arguments in (
        ("-c", code, name, str(folder)),
        ("-m", "clzoo", "export", name, "--out", str(tmp_path / "model.onnx")),
        ("-m", "clzoo", "evaluate", name, *judged),
    ):
        done = hub.python(*arguments)
        assert done.returncode == 0, done.stderr
    _, ours, _ = embedded(hub, name, tmp_path / "a.npy", photographs, size=96)
    _, saved, _ = embedded(hub, str(folder), tmp_path / "b.npy", photographs)
    assert np.array_equal(ours, saved)
    assert (tmp_path / "model.onnx").stat().st_size > 10_000
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert metrics["model"]["weights_sha256"]
    assert metrics["results"][0]["value"] > 100 / 6


def test_a_pickle_alone_is_refused_with_the_reason(hub, tmp_path, photographs):
    folder = tmp_path / "repo"
    published(hub, folder, "test_resnet.r160_in1k", repo="tester/old", drop=("model.safetensors",))
    hub.add("tester/old", {"pytorch_model.bin": b"\x80\x04never opened"})
    said, vectors, _ = embedded(hub, "hf-hub:tester/old", tmp_path / "a.npy", photographs)
    assert vectors is None
    assert "only pytorch_model.bin: a pickle, which can run any code" in said["error"]
    assert not hub.downloads("pytorch_model.bin")


def test_tensors_that_the_architecture_does_not_have_are_no_silent_loss(hub, tmp_path, photographs):
    from safetensors.torch import load_file, save

    folder = tmp_path / "repo"
    published(hub, folder, "test_resnet.r160_in1k", repo="tester/odd")
    tensors = load_file(folder / "model.safetensors")
    tensors["extra.weight"] = tensors.pop("conv1.0.weight")
    hub.add("tester/odd", {"model.safetensors": save(tensors, {"format": "pt"})})
    said, _, _ = embedded(hub, "hf-hub:tester/odd", tmp_path / "a.npy", photographs)
    assert "1 missing: conv1.0.weight" in said["error"]
    assert "1 unexpected: extra.weight" in said["error"]


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_convnext.r160_in1k"])
def test_another_size_is_timms_resampling(hub, tmp_path, photographs, name):
    network = published(hub, tmp_path / "repo", name)
    said, ours, _ = embedded(hub, f"timm:{name}", tmp_path / "a.npy", photographs, size=96)
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=96)
        assert said["args"]["img_size"] == 96
    theirs = features_of_timm(network, photographs, input_size=(3, 96, 96))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_size_that_the_network_cannot_take_is_refused(hub, tmp_path, photographs):
    published(hub, tmp_path / "repo", "test_vit.r160_in1k")
    said, vectors, _ = embedded(hub, "timm:test_vit.r160_in1k", tmp_path / "a.npy", photographs, size=50)
    assert vectors is None
    assert "cannot take images of 50 px" in said["error"]


def test_a_store_says_its_size_and_is_searched_with_it(hub, tmp_path, photographs):
    published(hub, tmp_path / "repo", "test_vit.r160_in1k")
    pictures = make_folder(tmp_path / "pictures", {"a": 3, "b": 3})
    store = tmp_path / "store"

    def clzoo(*arguments: str):
        return hub.python("-m", "clzoo", *arguments)

    model = ("--model", "timm:test_vit.r160_in1k")
    made = clzoo("embed", str(pictures), "--out", str(store), "--size", "96", "--index", "faiss", *model)
    assert made.returncode == 0, made.stderr
    assert json.loads((store / "manifest.json").read_text())["preprocessing"]["size"] == 96
    found = clzoo("search", str(store), str(photographs[0]), "-k", "1", "--json")
    assert found.returncode == 0, found.stderr
    again = clzoo("embed", str(pictures), "--out", str(store), *model)
    assert again.returncode == 1
    assert "--size 96" in again.stderr


def test_names_that_timm_does_not_have_name_near_ones():
    assert full_name("resnet18")[0].startswith("resnet18.")
    with pytest.raises(ClzooError, match=r"no model 'resnet118'"):
        full_name("resnet118")
    with pytest.raises(ClzooError, match=r"knows no weights 'resnet18\.nothing'.*resnet18\.a1_in1k"):
        full_name("resnet18.nothing")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"crop_mode": "squash"}, "crop_mode 'squash'"),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'"),
        ({"input_size": [3, 160, 128]}, "input_size"),
        ({"input_size": [1, 160, 160]}, "input_size"),
        ({"mean": None}, "no valid config of timm"),
        ({"std": [0.0, 1.0, 1.0]}, "std"),
    ],
)
def test_a_preprocessing_that_clzoo_does_not_have_is_refused(changed, said):
    settings = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", **changed}
    raw = {"architecture": "test_resnet", "pretrained_cfg": settings}
    with pytest.raises(ClzooError, match=said):
        config_of_timm(raw, "timm:x", where="here")


def test_the_pool_is_timms_own_where_the_config_does_not_say():
    settings = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3}
    pools = {
        name: config_of_timm({"architecture": name, "pretrained_cfg": settings}, "timm:x", where="here").global_pool
        for name in ("test_resnet", "test_vit", "test_vit3", "test_convnext")
    }
    assert pools == {"test_resnet": "avg", "test_vit": "token", "test_vit3": "map", "test_convnext": "avg"}


def test_info_says_what_the_feature_is():
    settings = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    features = {}
    for name in (
        "resnet50_clip",
        "resnet50_clip_gap",
        "vit_base_patch16_siglip_224",
        "test_vit",
        "swin_tiny_patch4_window7_224",
    ):
        config = config_of_timm({"architecture": name, "pretrained_cfg": settings}, "timm:x", where="here")
        features[name] = dict(facts(config, "here", None))["feature"]
    assert features == {
        "resnet50_clip": "attention pool",
        "resnet50_clip_gap": "global average pool",
        "vit_base_patch16_siglip_224": "attention pool",
        "test_vit": "class token after the last norm",
        "swin_tiny_patch4_window7_224": "global average pool",
    }
