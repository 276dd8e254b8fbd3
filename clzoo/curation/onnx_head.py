"""A classifier behind its encoder in one ONNX file: images in, calibrated probabilities out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.curation.few_shot import Classifier, text_of
from clzoo.curation.naming import require_own
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.export import export_onnx
from clzoo.files import output_path
from clzoo.graphs.provenance import CLASSES, EMBEDDING, IMAGES, PROBABILITIES
from clzoo.lite.encoder import LiteEncoder
from clzoo.proof import probe_image
from clzoo.wording import clzoo_command

_PREFIX = "classifier/"  # of the names of what is added to the graph
_CLOSE = 1e-4  # between probabilities of the file and of NumPy on the file's own embeddings


def export_classifier(classifier: Classifier, encoder: Encoder, out: str | Path) -> Path:
    """Write the encoder, its preprocessing and the classifier as one ONNX file, and compare it with NumPy.

    It takes `images`, uint8 (B, H, W, 3), and also gives what `clzoo export` gives; so `clzoo.lite` embeds with it.

    Raises:
        ClzooError: an encoder of other weights or of another preprocessing; as `clzoo.export.export_onnx`; or the file
            differs. Then none is left.
    """
    out = Path(out)
    require_own(classifier, encoder)
    if out.suffix != ".onnx" or out.is_dir():
        raise ClzooError(f"{out} must be the name of a file that ends in .onnx, e.g. --onnx classifier.onnx")
    with output_path(out) as temporary:
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
        numpy_helper.from_array(np.asarray(value, np.float32), f"{_PREFIX}{name}") for name, value in values.items()
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
    model.metadata_props.add(key=CLASSES, value=json.dumps(list(classifier.classes)))


def read_classifier(path: str | Path) -> Classifier:
    """The classifier of a file that `export_classifier` wrote, for the vectors of a store: `Classifier.load` calls it.

    Its temperature is 1: that of the fit is in the weights.

    Raises:
        ClzooError: no such file; an encoder without a classifier; another program's file; one that was changed: then it
            does not give what its own weights say.
    """
    path = Path(path)
    again = f"Make one: {clzoo_command('curate', 'classify', 'STORE', '--labels', 'LABELS.csv', '--onnx', path)}"
    if not path.is_file():
        raise ClzooError(f"{path} does not exist. {again}")
    graph = LiteEncoder(path)
    if not graph.classes or not graph.provenance.preprocess:
        raise ClzooError(f"{path} is an encoder without a classifier ({graph.provenance.model}). {again}")
    try:
        import onnx
    except ImportError as error:
        raise ClzooError(f"{path} is read with onnx, which is not installed. Type: pip install onnx") from error
    initial = {each.name: each for each in onnx.load(str(path)).graph.initializer}
    try:
        weight, bias, mean, scale = (
            onnx.numpy_helper.to_array(initial[f"{_PREFIX}{name}"]) for name in ("weight", "bias", "mean", "scale")
        )
    except KeyError as error:
        raise ClzooError(f"{path} has no {error.args[0]}: it is no classifier of clzoo. {again}") from error
    told = graph.provenance
    classifier = Classifier(
        weight,
        bias,
        mean,
        scale,
        1.0,
        graph.classes,
        told.store_sha256,
        text_of(told.preprocessing.to_json()),
        told.model,
    )
    try:
        difference = _difference(graph.session, classifier.checked())
    except Exception as error:  # shapes that do not fit each other; ONNX Runtime has a class of its own for each kind
        raise ClzooError(f"{path} is no classifier of clzoo ({error}). {again}") from error
    if not difference <= _CLOSE:
        raise ClzooError(
            f"{path} gives other probabilities than its classifier's weights (by {difference:.2g}): it was changed "
            f"after its export. {again}"
        )
    return classifier


def _compare(path: Path, classifier: Classifier, out: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference = _difference(session, classifier)
    if not difference <= _CLOSE:
        raise ClzooError(
            f"ONNX Runtime's probabilities differ by {difference:.2g} from NumPy's, so {out} was not written. "
            "Type: pip install --upgrade onnx onnxruntime"
        )


def _difference(session: Any, classifier: Classifier) -> float:
    """The largest between probabilities of the graph and of the classifier on the graph's own embeddings."""
    probe = probe_image()  # (H, W, 3)
    images = np.stack([probe, probe[::-1], probe[:, ::-1]])
    embedding, found = session.run([EMBEDDING, PROBABILITIES], {IMAGES: images})
    return float(np.abs(found - classifier.probabilities(embedding)).max())
