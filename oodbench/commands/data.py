"""``oodbench data``."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from oodbench.commands.options import F, reported

_INTERRUPTED = 130


@click.group("data", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Get, import, list and verify image data.

    The data lie in $OODBENCH_DATA or the user's data folder, or where --data-root says.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def _root_option(function: F) -> F:
    return click.option("--data-root", help="Folder of image data ($OODBENCH_DATA).")(function)


@command.command("import")
@click.argument("name")
@click.option(
    "--from",
    "path",
    required=True,
    help="A folder, tar, tar.gz or zip of pictures; a .npy array; or the published files.",
)
@click.option("--note", default="", help="What tables that use the set have to say of it.")
@click.option("--side", default=32, show_default=True, help="Height and width of the images.")
@click.option("--force", is_flag=True, help="Replace what is there under that name.")
@_root_option
def import_(name: str, path: str, note: str, side: int, force: bool, data_root: str | None) -> None:
    """Import images from a folder, an archive or published files as the set NAME.

    NAME is a set that `oodbench data list` shows, or a new one. Folders train, val and test are
    splits; folders below, or in their place, are classes. Every picture is made RGB, its shorter
    side resized, its centre cut out.
    """
    from oodbench.data.archives import open_source
    from oodbench.data.importing import import_set
    from oodbench.data.known import named_for_import, near
    from oodbench.data.listing import summary
    from oodbench.files import data_root as folder
    from oodbench.files import expanded

    known = named_for_import(name)
    close = near(name) if known is None else []
    with _interruptible("nothing was imported"), reported() as progress:
        if close:
            progress.note(f"{name} is a new set; did you mean {' or '.join(close)}?")
        root = folder(data_root)
        source = open_source(expanded(path))
        outcome = import_set(name, known, source, root, progress, note=note, side=side, force=force)
    click.echo(summary(outcome, root))


@command.command("download")
@click.argument("names", nargs=-1, required=True)
@click.option("--keep", is_flag=True, help="Keep the archives, in .downloads of the data folder.")
@click.option("--force", is_flag=True, help="Download and replace even what is there.")
@_root_option
def download(names: tuple[str, ...], keep: bool, force: bool, data_root: str | None) -> None:
    """Download sets from where they are published, and import them.

    Checksums are verified. A download that was cut goes on where it was.
    """
    from oodbench.data.known import named_for_download

    known = [named_for_download(name) for name in dict.fromkeys(names)]
    from oodbench.data.downloading import download_set, refuse_if_unavailable
    from oodbench.data.listing import summary
    from oodbench.files import data_root as folder

    root = folder(data_root)
    for one in known:
        refuse_if_unavailable(one, root)
    kept = "what has come is kept, and the same command goes on from there"
    with _interruptible(kept), reported() as progress:
        for one in known:
            outcome = download_set(one, root, progress, keep=keep, force=force)
            click.echo(summary(outcome, root))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@_root_option
def list_(as_json: bool, data_root: str | None) -> None:
    """List the sets there are, and how to get those that are not.

    official: all of the published archive, its checksum verified. complete: as many images as
    published. partial: fewer. stand-in: in place of a set that cannot be had. own: imported under
    a name that oodbench does not know. damaged: files are missing or have too few images; whether
    each pixel is what was imported says `oodbench data verify`.
    """
    from oodbench.data.listing import plain, rows
    from oodbench.files import data_root as folder

    root = folder(data_root)
    found = rows(root)
    click.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else plain(found, root))


@command.command("verify")
@click.argument("names", nargs=-1)
@_root_option
def verify(names: tuple[str, ...], data_root: str | None) -> None:
    """Compare images with what was imported; all sets by default.

    Exits with 2 if something is damaged or missing.
    """
    from oodbench.data.checking import verified
    from oodbench.data.known import checked_names
    from oodbench.errors import DamagedFileError
    from oodbench.files import data_root as folder
    from oodbench.imported import imported_names

    root = folder(data_root)
    chosen = checked_names(names, imported_names(root), root)
    damaged = []
    with reported() as progress, progress.task("verifying", len(chosen)) as task:
        for name in chosen:
            manifest, wrong = verified(root / name)
            splits = manifest.splits.items() if manifest else ()
            counts = ", ".join(f"{split} {one.images:,}" for split, one in splits)
            click.echo(f"{name}: {'; '.join(wrong) or f'ok, {counts}'}")
            if wrong:
                damaged.append(name)
            task.advance(1)
    if damaged:
        raise DamagedFileError(
            f"{len(damaged)} of {len(chosen)} sets are damaged: {', '.join(damaged)}; import them "
            "again"
        )


@contextmanager
def _interruptible(kept: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"oodbench: interrupted; {kept}", err=True)
        sys.exit(_INTERRUPTED)
