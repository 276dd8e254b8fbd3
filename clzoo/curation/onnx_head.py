"""A classifier behind its encoder in one ONNX file: images in, calibrated probabilities out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.curation.few_shot import Classifier
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.export import export_onnx
from clzoo.files import atomic_path
from clzoo.graphs.provenance import EMBEDDING, IMAGES, PROBABILITIES
from clzoo.proof import probe_image

_CLOSE = 1e-4  # between probabilities of the file and of NumPy on the file's own embeddings


def export_classifier(classifier: Classifier, encoder: Encoder, out: str | Path) -> Path:
    """Write the encoder, its preprocessing and the classifier as one ONNX file, and compare it with NumPy.

    It takes `images`, uint8 (B, H, W, 3), and also gives what `clzoo export` gives; so `clzoo.lite` embeds with it.

    Raises:
        ClzooError: an encoder of other weights; as `clzoo.export.export_onnx`; or the file differs. Then none is left.
    """
    out = Path(out)
    if encoder.weights_sha256 != classifier.weights_sha256:
        raise ClzooError(
            f"the classifier was fitted to features of the weights {classifier.weights_sha256[:12]}, the encoder's are "
            f"{encoder.weights_sha256[:12]}. Name the encoder of its store: --model NAME"
        )
    if out.suffix != ".onnx" or out.is_dir():
        raise ClzooError(f"{out} must be the name of a file that ends in .onnx, e.g. --onnx classifier.onnx")
    with atomic_path(out) as temporary:
        export_onnx(encoder, temporary, preprocess=True)
        import onnx

        model = onnx.load(str(temporary))
        _append(model, classifier)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(temporary))
        _compare(temporary, classifier, out)
    return out


def _append(model: Any, classifier: Classifier) -> None:
    """Behind `embedding`: less the mean, times the scale, the linear layer over the temperature, softmax."""
    from onnx import TensorProto, helper, numpy_helper

    weight, bias = classifier.weight / classifier.temperature, classifier.bias / classifier.temperature
    values = {"mean": classifier.mean, "scale": classifier.scale, "weight": weight, "bias": bias}
    graph = model.graph
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), f"classifier/{name}") for name, value in values.items()
    )
    graph.node.extend(
        [
            helper.make_node("Sub", [EMBEDDING, "classifier/mean"], ["classifier/centered"]),
            helper.make_node("Mul", ["classifier/centered", "classifier/scale"], ["classifier/standard"]),
            helper.make_node(
                "Gemm", ["classifier/standard", "classifier/weight", "classifier/bias"], ["classifier/scores"], transB=1
            ),
            helper.make_node("Softmax", ["classifier/scores"], [PROBABILITIES], axis=1),
        ]
    )
    shape: list[str | int | None] = ["batch", len(classifier.classes)]
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, shape))
    model.metadata_props.add(key="clzoo.classes", value=json.dumps(list(classifier.classes)))


def _compare(path: Path, classifier: Classifier, out: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    probe = probe_image()  # (H, W, 3)
    images = np.stack([probe, probe[::-1], probe[:, ::-1]])
    embedding, found = session.run([EMBEDDING, PROBABILITIES], {IMAGES: images})
    difference = float(np.abs(found - classifier.probabilities(embedding)).max())
    if not difference <= _CLOSE:
        raise ClzooError(
            f"ONNX Runtime's probabilities differ by {difference:.2g} from NumPy's, so {out} was not written. "
            "Type: pip install --upgrade onnx onnxruntime"
        )
