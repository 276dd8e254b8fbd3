import yaml
from small_models import METRICS, result, small_encoder

from clzoo.zoo.eval_results import eval_results
from clzoo.zoo.saving import save_entry

ON_HUB = {"dataset_id": "uoft-cs/cifar10"}


def test_the_models_own_results_on_a_data_set_of_the_hub_become_entries_of_one_file():
    rows = [
        result(**ON_HUB),
        result(value=71.25, protocol="linear:v1(x)", seeds=[0, 1], std=0.2, **ON_HUB),
        result("raw pixels", 39.8),
        result(value=1.0),  # on data that the Hub does not know
    ]
    files = eval_results({"results": rows, "evaluation": {"date": "2026-11-23"}})
    assert list(files) == [".eval_results/uoft-cs--cifar10.yaml"]
    first, second = yaml.safe_load(files[".eval_results/uoft-cs--cifar10.yaml"])
    assert first["dataset"] == {"id": "uoft-cs/cifar10", "task_id": "knn:v1(k=20,T=0.07,cos) top-1"}
    assert first["value"] == 65.1
    assert first["date"] == "2026-11-23"
    assert first["notes"] == "CIFAR-10 (JPEG copy), test split; measured by clzoo"
    assert "mean of 2 seeds, std 0.2" in second["notes"]


def test_an_entry_keeps_them_and_forgets_those_of_other_metrics(tmp_path):
    save_entry(small_encoder(), tmp_path, metrics={"results": [result(**ON_HUB)], "training": {}})
    assert (tmp_path / ".eval_results" / "uoft-cs--cifar10.yaml").is_file()
    save_entry(small_encoder(1), tmp_path, metrics=METRICS)
    assert not (tmp_path / ".eval_results").exists()
