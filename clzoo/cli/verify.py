"""`clzoo verify`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clzoo.cli.common import print_json, print_table, quiet_option, say
from clzoo.errors import ClzooError

if TYPE_CHECKING:
    from clzoo.export.elsewhere import Comparison


@click.command(name="verify")
@click.argument("name")
@click.option(
    "--in",
    "libraries",
    metavar="LIBRARIES",
    help="Also run it in these, separated by commas: timm, transformers, sentence-transformers, onnx, lite.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(name: str, libraries: str | None, as_json: bool, quiet: bool) -> None:
    """Check the hashes and the probe of NAME: a zoo name, hf-hub:ORG/REPO, timm:NAME, a folder or a .safetensors file.

    With --in, the probe image and three photographs go through each of those libraries, and their vectors are compared
    with ours. A library may refuse a network that only clzoo builds; it must not give other vectors.

    Exits with 1 if something differs, if no probe is recorded to compare with, or if a library of --in is not
    installed.
    """
    from clzoo.zoo import verify

    result = verify(name)
    compared: list[Comparison] = []
    if libraries is not None:
        from clzoo.export.elsewhere import compare_elsewhere

        compared = compare_elsewhere(name, [library.strip() for library in libraries.split(",")])
    if as_json:
        elsewhere = {} if libraries is None else {"elsewhere": [comparison.to_json() for comparison in compared]}
        print_json({**result.to_json(), **elsewhere})
    else:
        print_table(("", ""), result.facts())
        if compared:
            say()
            _print_matrix(compared)
    found = [result.problem, *(one.problem for one in compared)]
    problems = [problem for problem in found if problem]
    if problems:
        raise ClzooError(problems[0], problems[1:])


def _print_matrix(compared: list[Comparison]) -> None:
    images = next((list(one.cosines) for one in compared if one.cosines), [])
    rows = [
        [
            f"{one.library} {one.version or ''}".strip(),
            *(f"{one.cosines[image]:.6f}" if one.cosines else None for image in images),
            None if one.max_difference is None else f"{one.max_difference:.2g}",
            one.status,
        ]
        for one in compared
    ]
    print_table(("in", *(f"cosine, {image}" for image in images), "largest difference", ""), rows)
    for one in compared:
        if one.status == "refused":
            say(f"{one.library} refuses it, as it must: only clzoo builds this network. It says: {one.reason}")
