"""In which form a source holds images, and which split and class each belongs to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from oodbench.data.batches import Batches
from oodbench.data.digits import Digits, is_mat
from oodbench.data.layout import Arrangement, arrange, is_hidden, passed_over, pictures_among
from oodbench.data.readers import Array, Pictures, Published, Reader
from oodbench.data.sources import FileSource, Source, SourceError, shown
from oodbench.imported import ImportedSet


def understood(name: str, known: ImportedSet | None, source: Source) -> Reader:
    """Find out in which form a source holds images.

    Raises:
        SourceError: If it holds none, or those of another set.
    """
    wanted = tuple(known.card.images) if known else ()
    default = wanted[0] if wanted and "test" not in wanted else "test"
    entries = source.entries()
    published: Sequence[Published]
    if isinstance(source, FileSource):
        if not is_mat(source.file):
            return Array(source, default)
        published = [Digits(source, entries)]
    else:
        entries = [entry for entry in entries if not is_hidden(entry.path)]
        published = [*Digits.found(source, entries), *Batches.found(source, entries)]
    if published:
        return _published(name, known, published, wanted)
    paths = [entry.path for entry in entries]
    found = pictures_among(paths)
    if not found:
        raise SourceError(
            f"{shown(str(source.path))} holds no pictures, no CIFAR batches and no SVHN files"
        )
    arrangement = _with_splits(name, arrange(found), wanted, default)
    classes, labels, remarks = _labels(arrangement, known)
    remarks = [*passed_over(paths, found), *arrangement.remarks, *remarks]
    arrangement = replace(arrangement, remarks=remarks)
    sizes = {entry.path: entry.size for entry in entries}
    return Pictures(source, arrangement, sizes, classes, labels)


def _published(
    name: str, known: ImportedSet | None, found: Sequence[Published], wanted: Sequence[str]
) -> Published:
    """Return what is in the form of the set, of a set of the user's own the first.

    Raises:
        SourceError: If all are in forms of other sets, or of no split that the set has.
    """
    fitting = [one for one in found if known is None or one.form == known.form]
    if not fitting:
        raise SourceError(
            f"these are the files of {found[0].form}, not of {name}; import them under the name "
            "that fits"
        )
    reader = fitting[0]
    unused, remarks = _unused(name, reader.splits, wanted)
    reader.leave_out(unused)
    reader.remarks = remarks
    return reader


def _unused(
    name: str, splits: Collection[str], wanted: Sequence[str]
) -> tuple[set[str], list[str]]:
    """Return the splits that a known set does not have, and what is to be said of them.

    Raises:
        SourceError: If it has none of them.
    """
    unused = set(splits) - set(wanted) if wanted else set()
    there = ", ".join(sorted(splits))
    if unused == set(splits):
        raise SourceError(
            f"the splits {there} are there; {name} has {', '.join(wanted)}: import the folder that "
            "is meant"
        )
    left_out = ", ".join(sorted(unused))
    return unused, [f"{name} does not use {left_out}: left out"] if unused else []


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
    unused, told = _unused(name, [split for split in splits if split is not None], wanted)
    places = [place for place in arrangement.places if place.split not in unused]
    return Arrangement(places, [*remarks, *told])


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
