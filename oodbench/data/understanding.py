"""In which form a source holds images, and which split and class each belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from oodbench.data.batches import Batches
from oodbench.data.digits import Digits
from oodbench.data.layout import Arrangement, arrange, pictures_among
from oodbench.data.readers import Array, Pictures, Reader
from oodbench.data.sources import FileSource, Source, shown
from oodbench.errors import RequestError
from oodbench.imported import ImportedSet


def understood(name: str, known: ImportedSet | None, source: Source) -> Reader:
    """Find out in which form a source holds images.

    Raises:
        RequestError: If it holds none, or those of another set.
    """
    wanted = tuple(known.card.images) if known else ()
    default = wanted[0] if wanted and "test" not in wanted else "test"
    entries = source.entries()
    digits = Digits.found(source, entries)
    if digits is not None:
        _refuse_if_foreign(name, known, 10, "SVHN")
        return digits
    if isinstance(source, FileSource):
        return Array(source, default)
    batches = Batches.found(source, entries)
    if batches is not None:
        _refuse_if_foreign(name, known, batches.form.classes, batches.form.title)
        return batches
    found = pictures_among([entry.path for entry in entries])
    if not found:
        raise RequestError(
            f"{shown(str(source.path))} holds no pictures, no CIFAR batches and no SVHN files"
        )
    arrangement = _with_splits(name, arrange(found), wanted, default)
    classes, labels, remarks = _labels(arrangement, known)
    arrangement = replace(arrangement, remarks=[*arrangement.remarks, *remarks])
    sizes = {entry.path: entry.size for entry in entries}
    return Pictures(source, arrangement, sizes, classes, labels)


def _with_splits(
    name: str, arrangement: Arrangement, wanted: Sequence[str], default: str
) -> Arrangement:
    """Give every picture a split, and leave out splits that a known set does not have."""
    splits = {place.split for place in arrangement.places}
    remarks = list(arrangement.remarks)
    # Of a set that is only tested on, the one split there is serves, whatever its name.
    if splits == {None} or (tuple(wanted) == ("test",) and len(splits) == 1):
        if splits.isdisjoint({None, default}):
            remarks.append(f"its split {min(map(str, splits))} is taken for {default}")
        places = [replace(place, split=default) for place in arrangement.places]
        return Arrangement(places, remarks)
    unused = splits - set(wanted) if wanted else set()
    if unused == splits:
        raise RequestError(
            f"the splits {', '.join(sorted(map(str, splits)))} are there; {name} has "
            f"{', '.join(wanted)}: import the folder that is meant"
        )
    if unused:
        remarks.append(f"{name} does not use {', '.join(sorted(map(str, unused)))}: left out")
    places = [place for place in arrangement.places if place.split not in unused]
    return Arrangement(places, remarks)


def _labels(
    arrangement: Arrangement, known: ImportedSet | None
) -> tuple[tuple[str, ...] | None, Mapping[str, int], list[str]]:
    """Return the classes, the label of each class folder, and what is to be said of them."""
    groups = sorted({place.group for place in arrangement.places if place.group is not None})
    if known is None or known.classes is None:
        classes = tuple(map(shown, groups)) or None
        return classes, {group: i for i, group in enumerate(groups)}, []
    classes = tuple(known.classes)
    by_name = {label: i for i, label in enumerate(classes)}
    numbers = {str(i): i for i in range(len(classes))}
    for labels in (by_name, numbers):
        if groups and labels.keys() >= set(groups):
            return classes, {group: labels[group] for group in groups}, []
    if not groups:
        return classes, {}, []
    foreign = next(group for group in groups if group not in by_name)
    remark = f"{shown(foreign)} is none of its classes; imported without labels"
    return classes, {}, [remark]


def _refuse_if_foreign(name: str, known: ImportedSet | None, classes: int, title: str) -> None:
    """Refuse published files under the name of a known set with other classes."""
    if known is not None and len(known.classes or ()) != classes:
        raise RequestError(
            f"these are the files of {title}, not of {name}; import them under the name that fits"
        )
