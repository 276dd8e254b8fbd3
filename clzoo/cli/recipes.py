"""clzoo recipes"""

from __future__ import annotations

import click

from clzoo.cli.common import print_json, print_table, quiet_option


@click.command("recipes")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(as_json: bool, quiet: bool) -> None:
    """List the shipped recipes: clzoo pretrain NAME --data DIR"""
    from clzoo.pretrain.recipe_files import find_recipe, load_recipe, recipe_names

    rows = []
    for name in recipe_names():
        recipe = load_recipe(find_recipe(name))
        schedule = recipe.schedule
        rows.append(
            {
                "name": name,
                "method": recipe.method.name,
                "backbone": recipe.backbone.name,
                "data": recipe.data.title,
                "views": len(recipe.view_policies()),
                "batch": schedule.batch_size,
                "epochs": schedule.epochs,
            }
        )
    if as_json:
        print_json(rows)
    else:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
