"""Any shipped recipe, reduced until a step takes milliseconds."""

from __future__ import annotations

from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import find_recipe, load_recipe


def small_recipe(name: str, *overrides: str, batch_size: int = 8) -> Recipe:
    """The recipe with a tiny backbone, narrow heads, small views, a short queue and one epoch; all else as shipped."""
    full = load_recipe(find_recipe(name))
    is_vit = full.backbone.architecture.startswith("vit")
    changes = [
        "schedule.epochs=1",
        f"schedule.batch_size={batch_size}",
        "schedule.warmup_epochs=0",
        "schedule.milestones=[]",
        "compile=false",
        "data.size=32",
        "backbone.batchnorm_groups=2" if full.backbone.batchnorm_groups > 1 else "backbone.batchnorm_groups=1",
        *(f"views.{number}.size={32 if is_vit else 24}" for number in range(len(full.views))),
        f"method.projector={[16] * (len(full.method.projector) - 1) + [8]}",
    ]
    if is_vit:
        tiny = "{img_size: 32, patch_size: 16, embed_dim: 24, depth: 2, num_heads: 2}"
        changes += ["backbone.architecture=vit_tiny_patch16_224", f"backbone.model_args={tiny}"]
    else:
        narrow = "{channels: [4, 8, 8, 8], stem_type: deep, stem_width: 4}"
        changes += ["backbone.architecture=resnet10t", f"backbone.model_args={narrow}", "backbone.stem_stride=2"]
    if getattr(full.method, "predictor", None):
        changes.append("method.predictor=[16, 8]")
    if hasattr(full.method, "queue"):
        changes.append(f"method.queue={batch_size * 4}")
    if getattr(full.method, "group", None):
        changes.append(f"method.group={batch_size // 2}")
    return load_recipe(find_recipe(name), (*changes, *overrides))
