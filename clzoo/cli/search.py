"""clzoo search."""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import max_pixels_option, output_file, print_json, print_table, quiet_option, say


@click.command("search")
@click.argument("store", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("queries", metavar="QUERY...", nargs=-1, required=True)  # a Path would lose a slash of a URL
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="Neighbors per query.")
@click.option("--exclude-self", is_flag=True, help="Leave out the stored image that a query is itself.")
@click.option("--label", metavar="NAME", help="Find images of this label only.")
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="Of path, label, size, id or a column of the list."
)
@click.option("--threshold", type=float, metavar="SCORE", help="The least score of what is found.")
@click.option("--model", metavar="NAME", help="The model of DIR, where it has moved; other weights are refused.")
@click.option("--images", metavar="PLACE", help="Where the images of the store lie now, if they have moved.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", "page", metavar="FILE", type=output_file(), help="Write a page of thumbnails.")
@click.option("--mmap", is_flag=True, help="Leave a large index in its file instead of reading and checking all of it.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N: where vectors are compared.")
@max_pixels_option
@quiet_option
def command(
    store: Path,
    queries: tuple[str, ...],
    k: int,
    exclude_self: bool,
    label: str | None,
    where: tuple[str, ...],
    threshold: float | None,
    model: str | None,
    images: str | None,
    as_json: bool,
    page: Path | None,
    mmap: bool,
    device: str,
    quiet: bool,
) -> None:
    """Find the images of DIR nearest to each QUERY: an image, a folder of images, or the path in DIR or the id of an
    image that DIR holds.

    DIR is what `clzoo embed IMAGES --index faiss` made. The score is the cosine similarity. With --label or --where
    the search is exact among the images that are left. Up to 100,000 images need no index: all are compared.
    """
    from clzoo.embed import open_store
    from clzoo.index import open_index, query_images, search, write_page
    from clzoo.index.searching import load_encoder, query_labels

    index = open_index(open_store(store, images=images), mmap=mmap)
    wanted = [image for query in queries for image in query_images(query, index.store)]
    encoder = load_encoder(index, model) if model is not None else None
    conditions = (*where, *(() if label is None else (f"label={label}",)))
    results = search(
        index,
        wanted,
        k,
        encoder=encoder,
        device=device,
        exclude_self=exclude_self,
        where=conditions,
        threshold=threshold,
    )
    labels = query_labels(index.store, wanted)
    if as_json:
        print_json(
            {
                "model": index.description["model"],
                "root": index.store.manifest.root,
                "results": [
                    {"query": str(image), "label": group, "hits": [hit.as_json() for hit in hits]}
                    for image, group, hits in zip(wanted, labels, results, strict=True)
                ],
            }
        )
    elif page is None:
        for image, group, hits in zip(wanted, labels, results, strict=True):
            say(image)
            rows = [(rank, f"{hit.score:.4f}", hit.path, hit.label) for rank, hit in enumerate(hits, start=1)]
            print_table(("rank", "score", "path", "label"), rows)
            if group is not None:
                say(f"label of the query: {group}, as {sum(hit.label == group for hit in hits)} of {len(hits)}")
            say()
    if page is not None:
        write_page(page, index, wanted, results)
        say(f"wrote {page}", err=as_json)
