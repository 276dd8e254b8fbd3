import json

import numpy as np
import pytest
from labelled_pictures import make_splits
from small_models import small_encoder

from clzoo.errors import ClzooError
from clzoo.evaluation import compare


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("data") / "animals")


def test_one_page_sets_encoders_side_by_side(pictures, tmp_path):
    models = [small_encoder(0), small_encoder(1), small_encoder(0)]
    comparison = compare(models, pictures, "knn", cache_dir=tmp_path / "cache")
    assert len(set(comparison.names)) == 3
    assert comparison.cka[0, 2] == pytest.approx(1)
    assert comparison.overlap[0, 2] == pytest.approx(1)
    assert comparison.cka[0, 1] < 1
    assert np.array_equal(comparison.cka, comparison.cka.T)
    columns, rows = comparison.accuracy_table()
    assert columns[2:] == list(comparison.names)
    assert rows[0][2] == rows[0][4]  # the same encoder twice

    folder = comparison.write(tmp_path / "out")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["models"][comparison.names[1]]["results"][0]["value"] == pytest.approx(rows[0][3], abs=0.01)
    assert (folder / "compare.html").read_text().count("<img") == 3


def test_one_model_is_no_comparison(pictures):
    with pytest.raises(ClzooError, match="at least two models, found 1"):
        compare([small_encoder()], pictures)
