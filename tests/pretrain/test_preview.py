from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipes import small_recipe

from clzoo.augment import make_view
from clzoo.cli import main
from clzoo.errors import ClzooError
from clzoo.pretrain.preview import draw_views


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six noisy images of 32 px in two classes."""
    random = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "data" / "train" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "data"


def contains(sheet: np.ndarray, tile: np.ndarray) -> bool:
    """Whether the tile lies somewhere in the sheet, each pixel enlarged 192 // 24 = 8 times."""
    enlarged = tile.repeat(8, axis=0).repeat(8, axis=1)
    height, width = enlarged.shape[:2]
    top = 8 + 18  # margin and title
    return any(
        np.array_equal(sheet[top : top + height, left : left + width], enlarged)
        for left in range(sheet.shape[1] - width)
    )


def test_the_sheet_holds_every_view_exactly_as_the_run_makes_it(folder, tmp_path):
    recipe = small_recipe("mocov3_cifar10")
    draw_views(recipe, folder, tmp_path / "x.png", sample=3, epoch=7)
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    paths = sorted((folder / "train").glob("*/*.png"))
    stored = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths]))
    assert contains(sheet, stored[3].numpy())
    policies = recipe.view_policies()
    samples = torch.arange(6)
    for view, policy in enumerate(policies):
        made = make_view(stored, policy, seed=recipe.seed, epoch=7, samples=samples, view=view)  # with its neighbors
        levels = (made[3].permute(1, 2, 0) * 255).round().byte().numpy()
        assert contains(sheet, levels)
        other = make_view(stored, policy, seed=recipe.seed, epoch=8, samples=samples, view=view)
        assert not contains(sheet, (other[3].permute(1, 2, 0) * 255).round().byte().numpy())


def test_a_sample_that_is_not_there_is_refused_with_the_number_of_images(folder, tmp_path):
    with pytest.raises(ClzooError, match="6 images"):
        draw_views(small_recipe("simclr_cifar10"), folder, tmp_path / "x.png", sample=6, epoch=0)
    assert not (tmp_path / "x.png").exists()


def test_the_command_writes_the_picture_and_prints_its_path(folder, tmp_path, capsys):
    out = tmp_path / "sheets" / "x.png"
    arguments = ["--data", str(folder), "--sample", "1", "--epoch", "2", "--out", str(out), "--quiet"]
    main(["views", "cacr_cifar10", *arguments])
    assert capsys.readouterr().out.strip() == str(out)
    assert Image.open(out).width > 5 * 192  # the stored image and five views
