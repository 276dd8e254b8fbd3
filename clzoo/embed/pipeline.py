"""embed_folder: from a source of images to an embedding store, again and again, whatever happens in between."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from clzoo.data.gpu_decoding import nvjpeg
from clzoo.data.listing import Failure, Listing, has_container_suffix, printable
from clzoo.data.opening import is_hub, open_source, selected
from clzoo.data.parallel import usable_cores
from clzoo.data.storage import is_remote
from clzoo.embed.batch import Encoded
from clzoo.embed.compute import choose, ready
from clzoo.embed.gpu import compile_pays
from clzoo.embed.manifest import MANIFEST, Manifest
from clzoo.embed.options import EmbedOptions
from clzoo.embed.plan import check_removals, fresh_manifest
from clzoo.embed.progress import progress_bar
from clzoo.embed.run import Run
from clzoo.embed.shares import Share, launched_processes
from clzoo.embed.store import ERRORS
from clzoo.embed.stream import Clock, Settings, default_batch_size, encode_items
from clzoo.embed.writer import make_folder, store_lock
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.wording import clzoo_command, plain
from clzoo.zoo.entries import DEFAULT_MODEL

log = logging.getLogger("clzoo")

_NAMED_FAILURES = 5  # in the log; all are in errors.parquet


@dataclass(frozen=True)
class Summary:
    """What a run did. `embedded + unchanged + kept == rows`; `embedded + unchanged + failed == images`."""

    store: Path
    model: str
    generation: int
    rows: int  # in the store now
    embedded: int  # new and changed images
    unchanged: int
    dropped: int  # rows whose file is gone
    kept: int  # rows of the store where the source could not be reached
    failed: int  # named in errors.parquet
    ignored: dict[str, int]  # files that do not look like images, by suffix
    seconds: float  # embedding, without listing and loading the model
    waiting: float  # share of them spent waiting for decoded images

    @property
    def images(self) -> int:
        """Images that the source was found to hold, failed ones included."""
        return self.embedded + self.unchanged + self.failed

    @property
    def images_per_second(self) -> float:
        """Of this run, failed ones not counted."""
        return self.embedded / self.seconds if self.seconds else 0.0

    def require_all(self) -> None:
        """Raise ClzooError if an image failed (`--strict`)."""
        if self.failed:
            raise ClzooError(
                f"{self.failed} of {self.images} images failed (--strict); the reasons are in {self.store / ERRORS}. "
                "Repair or remove them and run again."
            )

    def require_some(self) -> None:
        """Raise ClzooError if there were images and every one failed."""
        if self.failed and self.failed == self.images:
            kept = f" {self.kept} rows of before are kept." if self.kept else ""
            raise ClzooError(
                f"none of the {self.failed} images could be embedded; the reasons are in {self.store / ERRORS}.{kept} "
                "Is the disk mounted, are the paths right? The same command tries all of them again."
            )

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {**dataclasses.asdict(self), "store": str(self.store), "images_per_second": self.images_per_second}

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """What the run did, in three lines."""
        ignored = ", ".join(f"{count} {suffix}" for suffix, count in self.ignored.items())
        kept = f"kept {self.kept} that cannot be reached, " if self.kept else ""
        ignored = f"ignored {sum(self.ignored.values())}{f' ({ignored})' if ignored else ''}"
        speed = f"{self.seconds:.1f} s, {self.images_per_second:.1f} img/s"
        lines = (
            f"{self.store}: {self.rows} vectors of {self.model}",
            f"embedded {self.embedded}, unchanged {self.unchanged}, dropped {self.dropped}, {kept}"
            f"failed {self.failed}, {ignored}",
            f"{speed}, {self.waiting:.0%} of the time waiting for data",
        )
        return [plain(line) for line in lines]


def embed_folder(
    source: str | Path | Any,
    encoder: Encoder | str | Path = DEFAULT_MODEL,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    size: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    dtype: str = "auto",
    store_dtype: str = "fp16",
    normalize: bool = True,
    labels: bool | None = None,
    strict: bool = False,
    allow_removals: bool = False,
    share: Share | None = None,
    engine: str = "local",
    backend: str = "auto",
    decode: str = "cpu",
    progress: bool = True,
) -> Summary:
    """Embed the images of a source into a store; run again, only what is new or changed.

    Args:
        source: what `clzoo.data.opening.open_source` takes: a folder (searched recursively), a list of paths (text, or
            a table whose other columns are kept), `.tar`, `.zip` or `.parquet` files, a pack, torchvision's files,
            "hf-hub:ORG/NAME", or a URL such as "s3://bucket/prefix" (docs/data.md). Or images that the program holds: a
            list of paths, a dict of PIL images by id, a `datasets.Dataset`; then `out` must be given.
        encoder: an Encoder, or what `clzoo.load` takes.
        out: folder of the store; default `<name of the source>-embeddings` in the current folder.
        device: where to load an encoder that is given by name.
        size: side of its input in pixels, as in `clzoo.load`; the manifest says it, and searching takes it from there.
        batch_size: images in one forward pass; default 256 on a GPU, on a CPU 16 to 256 by the images' size.
        workers: threads that decode, and on a CPU run the model; default one per core.
        dtype: compute type "fp32", "bf16" or "fp16", as in `Encoder.encode`; or "auto", see `backend`.
        store_dtype: "fp16" or "fp32" on disk.
        normalize: divide each vector by its L2 norm.
        labels: keep the first sub-folder as a label; None: as the store has it, a new one without.
        strict: raise if an image failed, after all others were embedded and stored.
        allow_removals: let the store lose more than a tenth of its rows, because their files are gone. Rows where the
            source could not be reached are kept in any case.
        share: embed this share of the source alone, into the folder `share.folder(out)`; `merge_stores` joins them.
            Where torchrun started this process, all of them call `embed_folder` alike, and each takes its share.
        engine: "local", or "ray" for the workers of a Ray cluster (`clzoo.embed.ray_engine`); then the encoder is given
            by name, and `device` is that of the workers.
        backend: "torch", "onnx" or "auto", of an encoder that is given by name. On a CPU "auto" is what an existing
            store was made with, and for a new one the fastest that passes parity here (`clzoo.embed.compute`); the
            manifest says what it was. On CUDA the network is compiled then, if there are
            `clzoo.embed.gpu.COMPILE_FROM` images to embed.
        decode: "cpu", or "gpu" for plain JPEG files by nvJPEG, whose pixels differ a little (docs/scale.md); the
            manifest says so. All other files are decoded on the CPU as ever.
        progress: show a bar where standard error is a terminal, and elsewhere log a line every 30 s.

    Returns:
        Counts and times, of all processes together. Images that failed are in `errors.parquet` with their reasons.

    Raises:
        ClzooError: missing or empty source; a store of another model, preprocessing or kind; a store that another
            process is writing; more than a tenth of its rows to be dropped; no image at all that could be embedded;
            with `strict`, failed images.
    """
    options = EmbedOptions(
        device=device,
        size=size,
        batch_size=batch_size,
        workers=workers,
        dtype=dtype,
        store_dtype=store_dtype,
        normalize=normalize,
        labels=labels,
        engine=engine,
        backend=backend,
        decode=decode,
        progress=progress,
    )

    def check(dropped: int, rows: int) -> None:
        place = local_out(out, source)
        check_removals(share.folder(place) if share else place, dropped, rows, allowed=allow_removals)

    if launched_processes() > 1:
        if share is not None or engine != "local":
            raise ClzooError("torchrun shares out the work already; leave out --share and --engine.")
        from clzoo.embed.processes import embed_with_processes

        summary = embed_with_processes(source, encoder, out, options, allow_removals=allow_removals)
    else:
        summary, failures = embed_share(source, encoder, out, options, share=share, check=check)
        report(summary, failures)
    if share is None or summary.failed > 1:  # a small share may by chance hold nothing but the one broken image
        summary.require_some()
    if strict:
        summary.require_all()
    return summary


def embed_share(
    source: str | Path | Any,
    encoder: Encoder | str | Path,
    out: str | Path | None,
    options: EmbedOptions,
    *,
    share: Share | None,
    check: Callable[[int, int], None],
) -> tuple[Summary, list[Failure]]:
    """As `embed_folder`; the failures are returned and not yet reported.

    Args:
        check: is told how many rows would be dropped, of how many, before anything is written; raises to refuse.
    """
    folder = local_out(out, source)
    opened = open_source(source)
    listing, origin, root = opened.listing, opened.origin, opened.root
    assert listing is not None  # of a whole source
    if odd := [place for place in (origin, root, str(folder)) if printable(place) != place]:
        raise ClzooError(
            f"{printable(odd[0])}: the name is not UTF-8, and no store could record it. Rename the folder."
        )
    images = len(listing.items)  # of all shares: the choice of what computes is the same for each
    if share is not None:
        folder, listing = share.folder(folder), share.of(listing)
    _require_names(source, encoder, options)
    on_ray = options.engine == "ray"
    by_name = not on_ray and not isinstance(encoder, Encoder)
    encoder, load = _loaded(encoder, "cpu" if on_ray else options.device, options.size)
    if options.decode == "gpu":
        nvjpeg(encoder.device)  # what it cannot do is said before anything is written
    manifest = Manifest.load_from(folder) if (folder / MANIFEST).is_file() else None
    compute = choose(encoder, options.backend if by_name else "torch", options.dtype, images, manifest)
    if manifest is None and images:
        encoder = ready(encoder, compute)  # before a store says so
    log.info("model: %s (%d values, on %s, %s)", encoder.config.name, encoder.dim, encoder.device, compute)
    log.info("output: %s", folder)
    fresh = fresh_manifest(
        encoder,
        load,
        origin,
        root,
        store_dtype=options.store_dtype,
        normalize=options.normalize,
        compute=str(compute) if options.decode == "cpu" else f"{compute}, JPEG decoded by nvJPEG",
        share=share,
    )
    make_folder(folder)
    settings = Settings(
        options.batch_size or default_batch_size(encoder),
        options.workers or usable_cores(),
        compute.dtype,
        options.store_dtype,
        options.normalize,
        options.decode,
    )
    clock = Clock()
    try:
        with store_lock(folder):
            run = Run(folder, listing, fresh, encoder, options.labels, check)
            is_long = compile_pays(encoder.device, len(run.plan.todo))
            settings = replace(settings, compile=by_name and options.backend == "auto" and is_long)
            started = time.perf_counter()
            if on_ray:
                stream = _encode_on_ray(run, listing, encoder, load, settings, options)
            else:
                encoder = ready(encoder, compute) if len(run.plan.todo) else encoder  # nothing new, nothing exported
                stream = encode_items(listing.items, run.plan.todo, encoder, settings, clock)
            # Closing the stream cancels what is still to be decoded, if the run is cut short.
            with closing(stream), progress_bar(len(run.plan.todo), clock, enabled=options.progress) as advance:
                run.embed(stream, advance)
            run.finish()
            seconds = time.perf_counter() - started
    except OSError as error:
        raise ClzooError(
            f"{folder} cannot be written: {error.strerror or error}. What is saved is kept; the same command continues."
        ) from error
    return _summary(run, listing, seconds, clock), run.failures


def _require_names(source: Any, encoder: Encoder | str | Path, options: EmbedOptions) -> None:
    """Refuse images or an encoder that the program holds, where only what has a name will do.

    Raises:
        ClzooError: the workers of a Ray cluster would not find them; a held encoder has its backend already.
    """
    on_ray, is_held = options.engine == "ray", isinstance(encoder, Encoder)
    if on_ray and not isinstance(source, str | Path):
        raise ClzooError("the workers of a Ray cluster read the images themselves: name a source.")
    if on_ray and is_held:
        raise ClzooError("the workers of a Ray cluster load the model themselves: give its name or path.")
    if options.backend == "onnx" and (on_ray or is_held):
        raise ClzooError("backend 'onnx' is for a model that is given by name and embedded on this machine.")


def _encode_on_ray(
    run: Run, listing: Listing, encoder: Encoder, load: str, settings: Settings, options: EmbedOptions
) -> Generator[Encoded, None, None]:
    from clzoo.embed.ray_engine import encode_on_ray

    # In the type that the manifest names: a GPU worker's "auto" would be another one.
    todo, device, batch_size = run.plan.todo, options.device, options.batch_size
    return encode_on_ray(listing.items, todo, encoder, load, settings, device, batch_size)


def local_out(out: str | Path | None, source: Any) -> Path:
    """The folder of the store.

    Raises:
        ClzooError: a URL.
    """
    if out is not None and is_remote(str(out)):
        raise ClzooError(
            f"{out}: a store is written to a local folder (it needs locks and renames). Give --out DIR, then: "
            f"{clzoo_command('store', 'copy', 'DIR', out)}"
        )
    if out is None and not isinstance(source, str | Path):
        raise ClzooError(f"a {type(source).__name__} has no name to call the store by. Give out='DIR'.")
    return Path(out) if out is not None else default_out(source)


def default_out(source: str | Path) -> Path:
    """`<name of the source>-embeddings` in the current folder; of a URL the last part is its name.

    Raises:
        ClzooError: the source has no name (the root of a file system).
    """
    source, _ = selected(source)
    if is_remote(source) or is_hub(source):
        name = str(source).rstrip("/").rpartition("/")[2].rpartition(":")[2]
        name = name.removesuffix(PurePosixPath(name).suffix) if has_container_suffix(name) else name
    else:
        source = Path(source)
        name = source.resolve().name if source.is_dir() else source.stem
    if not name:
        raise ClzooError(f"{source} has no name to derive the output's from. Give --out DIR.")
    return Path(f"{name}-embeddings")


def _loaded(encoder: Encoder | str | Path, device: str, size: int | None) -> tuple[Encoder, str]:
    """The encoder, and what `clzoo.load` takes to get it again from any folder."""
    if isinstance(encoder, Encoder):
        if size not in (None, encoder.config.preprocessing.size):
            raise ClzooError(f"size {size} is for a model that is given by name: clzoo.load(NAME, size={size})")
        return encoder, encoder.place or encoder.config.name
    from clzoo.loading import load

    loaded = load(encoder, device=device, size=size)
    return loaded, loaded.place or str(encoder)


def _summary(run: Run, listing: Listing, seconds: float, clock: Clock) -> Summary:
    manifest = run.writer.manifest
    return Summary(
        store=run.writer.folder,
        model=manifest.model,
        generation=manifest.generation,
        rows=manifest.rows,
        embedded=run.embedded,
        unchanged=len(listing.items) - len(run.plan.todo),
        dropped=run.plan.dropped,
        kept=run.plan.kept,
        failed=len(run.failures),
        ignored=dict(listing.ignored.most_common()),
        seconds=seconds,
        waiting=min(clock.waiting / seconds, 1.0) if len(run.plan.todo) else 0.0,
    )


def report(summary: Summary, failures: list[Failure]) -> None:
    """Name the first failures in the log, and count them."""
    for failure in failures[:_NAMED_FAILURES]:
        log.warning("%s: %s", failure.path, failure.reason)
    if summary.kept:
        log.warning("%d rows are kept although their images cannot be reached", summary.kept)
    if failures:
        log.warning("%d of %d images failed; all reasons: %s", len(failures), summary.images, summary.store / ERRORS)
