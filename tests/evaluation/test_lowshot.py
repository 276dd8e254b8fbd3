import dataclasses

import pytest
import torch
from labelled_pictures import make_splits
from small_models import small_encoder

from clzoo.errors import ClzooError
from clzoo.evaluation import evaluate
from clzoo.evaluation.features import Features
from clzoo.evaluation.linear import PENALTIES, fit_softmax
from clzoo.evaluation.lowshot import DRAWS, draw, evaluate_lowshot, protocol_id

CPU = torch.device("cpu")


def features(count, seed, spread=1.0):
    """Three classes around the corners of a triangle."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    x = 2 * torch.eye(3)[labels] + spread * torch.randn(count, 3, generator=generator)
    return Features(x, labels, ("a", "b", "c"), f"{count} points", {"sha256": "0"})


def test_a_draw_has_n_of_each_class_and_holds_the_smaller_draws():
    train = features(60, 0)
    rows = {n: {tuple(row.tolist()) for row in draw(train, n, seed=3).x} for n in (1, 2, 8)}
    assert torch.bincount(draw(train, 8, seed=3).labels).tolist() == [8, 8, 8]
    assert rows[1] < rows[2] < rows[8]
    assert not torch.equal(draw(train, 2, seed=0).x, draw(train, 2, seed=1).x)


def test_more_images_a_class_help_and_every_number_is_of_five_draws():
    outcome = evaluate_lowshot(features(300, 0), features(600, 1), device=CPU)
    values = {result.protocol: result.value for result in outcome.results}
    assert [result.protocol for result in outcome.results] == [protocol_id(n) for n in (1, 2, 4, 8, 16, 32, 64)]
    assert values[protocol_id(64)] > values[protocol_id(1)] + 5
    for result, detail in zip(outcome.results, outcome.details["shots"], strict=True):
        assert result.seeds == DRAWS
        assert result.std > 0
        assert result.value == pytest.approx(sum(detail["top1"]) / 5, abs=1e-3)


def test_one_image_a_class_is_fitted_with_the_strongest_penalty():
    train, test = features(30, 0), features(90, 1)
    outcome = evaluate_lowshot(train, test, device=CPU, shots=[1])
    few = draw(train, 1, seed=2)
    scores = fit_softmax(few.x, few.labels, 3, penalty=PENALTIES[0]).scores(test.x)
    expected = 100 * (scores.argmax(dim=1) == test.labels).double().mean().item()
    assert outcome.details["shots"][0]["top1"][2] == pytest.approx(expected, abs=1e-3)
    assert "l2=0.1" in outcome.results[0].protocol


def test_more_images_than_the_smallest_class_has_are_refused():
    with pytest.raises(ClzooError, match=r"class 'a' has 4 images in 12 points; lowshot takes 8 of each.*images="):
        evaluate_lowshot(features(12, 0), features(9, 1), device=CPU, shots=[1, 8])
    with pytest.raises(ClzooError, match="lowshot"):
        evaluate_lowshot(features(12, 0), features(9, 1), device=CPU, shots=[0])


def test_the_order_of_the_test_splits_classes_does_not_matter():
    train, test = features(60, 0), features(90, 1, spread=0.3)
    turned = dataclasses.replace(test, labels=2 - test.labels, classes=("c", "b", "a"))
    one, other = (evaluate_lowshot(train, part, device=CPU, shots=[1, 8]).details for part in (test, turned))
    assert one == other


def test_a_class_that_is_a_name_alone_is_none_to_draw_from():
    train, test = (
        dataclasses.replace(part, classes=("a", "b", "c", "d")) for part in (features(30, 0), features(9, 1))
    )
    assert [shot["images"] for shot in evaluate_lowshot(train, test, device=CPU).details["shots"]] == [1, 2, 4, 8]
    tested = dataclasses.replace(test, labels=test.labels.clone())
    tested.labels[0] = 3
    with pytest.raises(ClzooError, match="class 'd' has 0 images in 30 points"):
        evaluate_lowshot(train, tested, device=CPU)


def test_more_images_than_a_class_has_and_fewer_than_one_are_refused_with_what_there_is():
    train, test = features(60, 0), features(30, 1)
    with pytest.raises(ClzooError, match=r"lowshot takes 64 of each\. Type: --set lowshot\.images=\[1,2,4,8,16\]"):
        evaluate_lowshot(train, test, device=CPU, shots=[1, 64])
    with pytest.raises(ClzooError, match=r"at least 1 image of each class, found 0 in lowshot\.images=\[0, 1\]"):
        evaluate_lowshot(train, test, device=CPU, shots=[0, 1])


def test_the_protocol_runs_on_real_files_with_the_images_that_are_asked_for(tmp_path):
    data = make_splits(tmp_path / "animals")
    found = evaluate(small_encoder(), data, "lowshot", settings=["lowshot.images=[1, 4]"], cache_dir=tmp_path)
    assert [row["protocol"] for row in found.results] == [protocol_id(1), protocol_id(4)]
    assert found.value(protocol_id(4)) > 50  # six colours; chance is 17
    with pytest.raises(ClzooError, match=r"expected lowshot\.images=\[int"):
        evaluate(small_encoder(), data, "lowshot", settings=["lowshot.images=[one]"], cache_dir=tmp_path)
    with pytest.raises(ClzooError, match="lowshot, which is not asked for"):
        evaluate(small_encoder(), data, "knn", settings=["lowshot.images=[1]"], cache_dir=tmp_path)
