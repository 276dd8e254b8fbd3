"""Starts of others: networks of timm with and without BatchNorm, by their names on a Hub on loopback."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from labelled_pictures import make_splits
from small_models import small_encoder
from timm.models import save_for_hf

from clzoo.adaptation.recipes import lower_half
from clzoo.config import Preprocessing

ADAPT = """
import json, sys
import numpy as np
import clzoo.adaptation.before, clzoo.adaptation.planning, clzoo.adaptation.run, clzoo.pretrain.loop
from clzoo.adaptation import adapt
from clzoo.adaptation.measures import KNN, LINEAR, knn_outcomes
from clzoo.zoo import load

def by_knn_alone(encoder, train, held, *, labels):
    found = knn_outcomes(encoder, train, held)
    return {KNN: found, LINEAR: found}, {KNN: 100 * float(np.mean(found)), LINEAR: 100 * float(np.mean(found))}

clzoo.adaptation.before.measure = clzoo.adaptation.run.measure = by_knn_alone
clzoo.adaptation.planning.EPOCHS = 1
clzoo.pretrain.loop.draw_curves = lambda _: None
images, name, out = sys.argv[1:]
found = adapt(images, start=name, labels=True, out=out, device="cpu")
begun, ended = load(name, "cpu"), load(out, "cpu")
print(json.dumps({
    "preprocessing": begun.config.preprocessing == ended.config.preprocessing,
    "size": ended.config.preprocessing.size,
    "features": ended.embed([np.full((50, 60, 3), 128, np.uint8)]).shape[1] == begun.dim,
    "moved": begun.weights_sha256 != ended.weights_sha256,
    "columns": list(found.report["measures"][KNN]),
    "license": ended.config.license == begun.config.license,
    "no_batchnorm": found.report["no_batchnorm"],
    "from": found.report["from"],
}))
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """60 pictures of three classes."""
    return make_splits(tmp_path_factory.mktemp("families"), train=20, test=1, classes=("ant", "bee", "cat")) / "train"


@pytest.mark.parametrize(
    ("name", "address", "has_batchnorm"),
    [
        ("test_resnet.r160_in1k", "timm:test_resnet.r160_in1k", True),
        ("test_vit.r160_in1k", "hf-hub:somebody/a-vit", False),
        ("test_convnext.r160_in1k", "timm:test_convnext", False),
    ],
    ids=["resnet", "vit", "convnext"],
)
def test_any_encoder_of_timm_is_a_start(hub, tmp_path, pictures, name, address, has_batchnorm):
    torch.manual_seed(0)
    save_for_hf(timm.create_model(name, pretrained=False), tmp_path / "published", safe_serialization=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}
    hub.add(address.removeprefix("hf-hub:") if address.startswith("hf-hub:") else f"timm/{name}", files)
    child = hub.python("-c", ADAPT, str(pictures), address, str(tmp_path / "run"), timeout=300)
    assert child.returncode == 0, child.stderr
    said = json.loads(child.stdout.splitlines()[-1])
    assert said["size"] == 160
    assert said["preprocessing"]
    assert said["features"]
    assert said["moved"]
    assert said["license"]
    assert said["no_batchnorm"] is not has_batchnorm
    assert ("its BatchNorm statistics alone" in said["columns"]) is has_batchnorm
    assert said["from"] == (address if address.startswith("hf-hub:") else f"timm:{name}")


@pytest.mark.parametrize(
    ("architecture", "lower", "upper"),
    [
        ("test_convnext", "stem.0.", "stages.3."),
        ("test_vit", "patch_embed.", "blocks.5."),
        ("densenet121", "features.conv0.", "features.denseblock4."),
        ("vgg11", "features.0.", "features.18."),
        ("mobilenetv3_small_050", "conv_stem.", "blocks.5."),
    ],
)
def test_the_lower_half_of_every_family_is_its_first_half(architecture, lower, upper):
    with torch.device("meta"):
        network = timm.create_model(architecture, num_classes=0)
    encoder = small_encoder(
        architecture=architecture,
        backbone=architecture,
        num_features=network(torch.zeros(1, 3, 160, 160, device="meta")).shape[1],
        preprocessing=Preprocessing(size=160),
    )
    found = lower_half(encoder)
    assert any(prefix.startswith(lower) for prefix in found)
    assert not any(upper.startswith(prefix) or prefix.startswith(upper) for prefix in found)
    names = [name for name, _ in encoder.module.named_parameters()]
    frozen = [name for name in names if name.startswith(tuple(found))]
    assert 0.1 < len(frozen) / len(names) < 0.8
