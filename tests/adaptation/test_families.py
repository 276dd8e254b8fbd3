"""Starts of others: networks of timm with and without BatchNorm, by their names on a Hub on loopback."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import timm
import torch
from labelled_pictures import make_splits
from small_models import small_config
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
images, runs, *names = sys.argv[1:]
for number, name in enumerate(names):
    out = f"{runs}/{number}"
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
    """51 pictures of three classes: about as few as are taken."""
    return make_splits(tmp_path_factory.mktemp("families"), train=17, test=1, classes=("ant", "bee", "cat")) / "train"


STARTS = (
    ("test_resnet.r160_in1k", "timm:test_resnet.r160_in1k", True),
    ("test_vit.r160_in1k", "hf-hub:somebody/a-vit", False),
    ("test_convnext.r160_in1k", "timm:test_convnext", False),
)
"""What was published, the address that a person gives, and whether it has BatchNorm."""


def test_any_encoder_of_timm_is_a_start(hub, tmp_path, pictures):
    """In one process, which imports everything once."""
    for name, address, _ in STARTS:
        torch.manual_seed(0)
        save_for_hf(timm.create_model(name, pretrained=False), tmp_path / name, safe_serialization=True)
        files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        hub.add(address.removeprefix("hf-hub:") if address.startswith("hf-hub:") else f"timm/{name}", files)
    addresses = [address for _, address, _ in STARTS]
    child = hub.python("-c", ADAPT, str(pictures), str(tmp_path / "runs"), *addresses, timeout=300)
    assert child.returncode == 0, child.stderr
    told = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
    for (name, address, has_batchnorm), said in zip(STARTS, told, strict=True):
        assert said["size"] == 160, name
        assert said["preprocessing"], name
        assert said["features"], name
        assert said["moved"], name
        assert said["license"], name
        assert said["no_batchnorm"] is not has_batchnorm, name
        assert ("its BatchNorm statistics alone" in said["columns"]) is has_batchnorm, name
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
    config = small_config(
        architecture=architecture,
        backbone=architecture,
        num_features=network.eval()(torch.zeros(1, 3, 160, 160, device="meta")).shape[1],
        preprocessing=Preprocessing(size=160),
    )
    found = lower_half(SimpleNamespace(config=config))  # the weights of an encoder are not looked at
    assert any(prefix.startswith(lower) for prefix in found)
    assert not any(upper.startswith(prefix) or prefix.startswith(upper) for prefix in found)
    names = [name for name, _ in network.named_parameters()]
    frozen = [name for name in names if name.startswith(tuple(found))]
    assert 0.1 < len(frozen) / len(names) < 0.8
