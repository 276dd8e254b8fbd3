"""clzoo explore."""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import max_pixels_option, output_file, quiet_option, say


@click.command("explore")
@click.argument("store", metavar="STORE", type=click.Path(path_type=Path))
@click.argument("other", metavar="[OTHER]", required=False, type=click.Path(path_type=Path))
@click.option("--html", "page", metavar="FILE", type=output_file(), help="Write one file, and no server.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="N of the images, drawn at random.")
@click.option("--flags", default="duplicates,labels,outliers", show_default=True, help="What is looked for; or none.")
@click.option("--leaks", metavar="CERT", type=click.Path(path_type=Path), help="Of clzoo curate leaks: flag those.")
@click.option("--map", "projection", type=click.Choice(["auto", "umap", "pca"]), default="auto", show_default=True)
@click.option("--images", metavar="PLACE", help="Where the images of STORE lie now, if they have moved.")
@click.option("--model", metavar="NAME", help="The model of STORE, where it has moved; other weights are refused.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), metavar="N", help="Of the server.  [default: free]")
@click.option("--no-browser", is_flag=True, help="Print the address only.")
@max_pixels_option
@quiet_option
def command(
    store: Path,
    other: Path | None,
    page: Path | None,
    sample: int | None,
    flags: str,
    leaks: Path | None,
    projection: str,
    images: str | None,
    model: str | None,
    port: int,
    no_browser: bool,
    quiet: bool,
) -> None:
    """Look at the images of STORE on a map: neighbors, labels, flags, search. Nothing is changed.

    OTHER is a store of the same images by another encoder: its neighbors are shown beside. The page is served on this
    machine alone, at an address with a random token; --html writes it as one file, for up to 20,000 images.
    """
    from clzoo.embed import open_store
    from clzoo.explorer import explore
    from clzoo.explorer.page import require_few
    from clzoo.explorer.server import require_server

    if page is not None and port:
        raise click.UsageError("--port is of the server, and --html writes a file without one. Leave one of them out.")
    opened = open_store(store, images=images)
    if page is None:
        require_server(port)
    elif other is None:  # of two stores the work tells how many images both hold
        require_few(opened, min(len(opened), sample or len(opened)), page)
    view = explore(
        opened,
        other,
        flags=[] if flags == "none" else [name.strip() for name in flags.split(",") if name.strip()],
        leaks=leaks,
        projection=projection,
        sample=sample,
        encoder=model,
    )
    for line in view.summary():
        say(line)
    if page is not None:
        written = view.write_page(page)
        say(f"wrote {written}, {written.stat().st_size / 1e6:.1f} MB")
    else:
        view.serve(port, browser=not no_browser, announce=say)
