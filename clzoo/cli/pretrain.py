"""clzoo pretrain RECIPE --data DIR"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clzoo.cli.common import (
    Minutes,
    Remembering,
    max_pixels_option,
    private_option,
    quiet_option,
    say,
    this_command,
)
from clzoo.wording import clzoo_command

if TYPE_CHECKING:
    from clzoo.pretrain.recipe import Recipe
    from clzoo.pretrain.uploads import CheckpointUploads


@click.command("pretrain", cls=Remembering)
@click.argument("recipe")
@click.option(
    "--data", help="Image folder, list, shards, torchvision's files, a pack, hf-hub:ORG/NAME, or a URL (docs/data.md)."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, e.g. schedule.epochs=10.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [default: runs/<recipe>].")
@click.option("--init", metavar="NAME", help="Start from a model of the zoo, or a folder, instead of random weights.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--engine", default="local", show_default=True, type=click.Choice(["local", "ray"]), help="Who computes.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes of --engine ray [default: one for each GPU].")
@click.option("--max-minutes", type=Minutes(zero=True), help="Stop with a checkpoint after this time, all included.")
@click.option("--push", "repo_id", metavar="ORG/NAME", help="Publish and push at the end; access is checked at once.")
@private_option
@click.option(
    "--push-every-epochs",
    "push_every",
    type=click.IntRange(min=1),
    metavar="N",
    help="Push checkpoints too, to the branch `checkpoints`.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out; an error if it has no checkpoint.")
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and its sizes, and train nothing.")
@max_pixels_option
@quiet_option
def command(
    recipe: str,
    data: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    init: str | None,
    device: str,
    engine: str,
    workers: int | None,
    max_minutes: float | None,
    repo_id: str | None,
    private: bool,
    push_every: int | None,
    resume: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Train an encoder from RECIPE: a shipped name (see `clzoo recipes`), or a YAML file.

    Ctrl-C, SIGTERM (exit code 130) and --max-minutes (0) stop with a checkpoint; a second Ctrl-C at once, without one.
    Run the same command again and an unfinished run goes on where it stopped. On several GPUs: torchrun
    --nproc-per-node=8 -m clzoo pretrain RECIPE --data DIR
    """
    from clzoo.distributed import processes, rank
    from clzoo.errors import ClzooError
    from clzoo.pretrain.checkpoint import has_checkpoint
    from clzoo.pretrain.loop import pretrain
    from clzoo.pretrain.recipe_files import find_recipe, load_recipe
    from clzoo.pretrain.run_folder import is_encoder_alone
    from clzoo.pretrain.stopping import was_asked

    path = find_recipe(recipe)
    loaded = load_recipe(path, overrides)
    if dry_run:
        _print_plan(loaded)
        return
    if data is None:
        raise ClzooError(
            f"{path.name} trains on {loaded.data.title}, but no --data was given. "
            f"Type: {clzoo_command('pretrain', recipe, '--data', 'DIR')}, where DIR/train/<class>/ holds the images."
        )
    out = out or Path("runs") / path.stem
    if resume and not ((out / "recipe.yaml").is_file() and has_checkpoint(out)):
        from clzoo.pretrain.trained import without_checkpoint

        if is_encoder_alone(out):
            raise without_checkpoint(out)
        raise ClzooError(f"--resume: {out} holds no checkpoint of a run. Start one without --resume.")
    if repo_id is None and (private or push_every is not None):
        raise click.UsageError(f"{'--private' if private else '--push-every-epochs'} needs --push ORG/NAME.")
    if workers is not None and engine != "ray":
        raise click.UsageError("--workers needs --engine ray; on one machine: torchrun --nproc-per-node=N -m clzoo ...")
    if engine == "ray":
        if push_every is not None:
            raise click.UsageError("--push-every-epochs is for --engine local.")
        options = {"workers": workers, "device": device, "max_minutes": max_minutes, "init": init}
        _on_ray(loaded, data, out, repo_id, private, **options)
        return
    with processes(device) as own_device:
        uploads = _uploads(loaded, out, repo_id, private, push_every) if rank() == 0 else None
        finished = pretrain(
            loaded, data, out, device=own_device, max_minutes=max_minutes, init=init, on_checkpoint=uploads
        )
        if finished and rank() == 0:
            from clzoo.publish import publish_and_push, publish_command

            if uploads is not None:
                uploads.wait()
            say(f"finished: {out}. Next: {publish_command(out, data)}" if repo_id is None else f"finished: {out}")
            if repo_id is not None:
                say(publish_and_push(out, data, repo_id, device=own_device))
        elif rank() == 0:
            logging.getLogger("clzoo").warning("to go on, type: %s", this_command())
    if not finished and was_asked():
        raise KeyboardInterrupt  # the exit code: what stands after && would take it for trained


def _on_ray(recipe: Recipe, data: str, out: Path, repo_id: str | None, private: bool, **options: Any) -> None:
    from clzoo.pretrain.ray_train import pretrain_on_ray
    from clzoo.publish import publish_and_push, publish_command

    _uploads(recipe, out, repo_id, private, None)  # access is checked before the first step
    if not pretrain_on_ray(recipe, data, out, **options):
        logging.getLogger("clzoo").warning("to go on, type: %s", this_command())
    elif repo_id is None:
        say(f"finished: {out}. Next: {publish_command(out, data)}")
    else:
        say(publish_and_push(out, data, repo_id, device="auto"))


def _uploads(
    recipe: Recipe, out: Path, repo_id: str | None, private: bool, every: int | None
) -> CheckpointUploads | None:
    """What pushes the checkpoints, if asked for; without access to the repository nothing begins."""
    if repo_id is None:
        return None
    from clzoo.pretrain.uploads import BRANCH, CheckpointUploads
    from clzoo.zoo.pushing import prepare_push

    prepare_push(repo_id, private=private, branch=None if every is None else BRANCH)
    return None if every is None else CheckpointUploads(out, recipe, repo_id, every)


def _print_plan(recipe: Recipe) -> None:
    from clzoo.pretrain.optim import warning_of_curve
    from clzoo.pretrain.plan import plan

    p = plan(recipe)
    for line in [*recipe.to_yaml().splitlines(), ""]:
        say(line)
    say(f"# backbone      {p.backbone_parameters:,} parameters")
    say(f"# trained       {p.trained_parameters:,} parameters, with the heads")
    say(f"# momentum      {p.momentum_parameters:,} parameters; queue {p.queue_entries:,} entries")
    say(f"# state         {p.state_bytes / 2**20:,.0f} MiB: weights, gradients, optimiser; activations come on top")
    say(f"# views         {', '.join(str(shape) for shape in p.view_shapes)}: {p.view_bytes / 2**20:,.0f} MiB")
    say(f"# learning rate {recipe.learning_rate:g}")
    if (warning := warning_of_curve(recipe.schedule)) is not None:
        logging.getLogger("clzoo").warning(warning)
