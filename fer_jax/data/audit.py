"""What is wrong with a data set: copies, conflicting labels, flat images, subjects in more than one split.

    python -m fer_jax.data.audit fer2013 --data_dir=PATH --output=DIR --write-clean=FILE

DIR receives `audit.html`, one page without outside requests, and `audit.json` with every group. FILE receives the
examples to leave out, by the rule of `to_leave_out`; `read_clean` reads it back. Nothing is changed in the data.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fer_jax import files, process
from fer_jax.data import prepare
from fer_jax.data.audit_page import page, summary
from fer_jax.data.crops import METHODS
from fer_jax.data.emotions import expressed
from fer_jax.data.rows import digests
from fer_jax.data.subjects import shared
from fer_jax.errors import UserError, exits_with_message

# Of two images of which one is taken for an altered copy of the other. On FER2013 all of 48 pairs looked at between
# 0.95 and 0.96 look like one photograph; 0.98 finds 221 of the 780 pairs that 0.95 does.
CORRELATION = 0.95
BINS = 10  # of the intensity histogram, over 0..1
KEEP_FIRST = ("test", "validation")  # of copies the one in these splits is kept, in this order

_FREQUENCIES = 12  # an axis: a face has about 87 % of its contrast in these, so that few candidates pass
_FEATURELESS = 1.0  # grey levels of standard deviation: a correlation of less contrast is one of noise
_READ_AT_ONCE = 1024  # images
_BLOCK = 2**24  # distances computed at once

Place = tuple[str, int]  # a split, and the index of an example in it
Images = dict[str, np.ndarray]  # split -> uint8 [N, H, W, C]
Labels = dict[str, np.ndarray]  # split -> int [N]


def flat_images(images: Images) -> list[Place]:
    """The images of one colour."""
    places = []
    for split, array in images.items():
        for start in range(0, len(array), _READ_AT_ONCE):
            some = array[start : start + _READ_AT_ONCE]
            flat = (some == some[:, :1, :1]).all((1, 2, 3))
            places += [(split, start + int(i)) for i in np.flatnonzero(flat)]
    return places


def exact_copies(images: Images) -> list[list[Place]]:
    """Groups of two or more images that are equal in every pixel, within and across splits."""
    groups = {}
    for split, array in images.items():
        for i, digest in enumerate(digests(array).tolist()):
            groups.setdefault(digest, []).append((split, i))
    return [group for group in groups.values() if len(group) > 1]


def near_copies(images: Images, exact: list[list[Place]], correlation: float = CORRELATION) -> list[list[Place]]:
    """Groups of images that are equal up to brightness, contrast and small changes such as compression.

    Two images belong together if the correlation of their grey levels is `correlation` or more; a group is what
    such pairs connect, together with the exact copies of its members. Shifted, cropped and mirrored copies are not
    found, and images with next to no contrast are not compared.

    All pairs of this correlation are found, at the cost of a short product for each pair of images: for vectors
    of length 1 a correlation of r is a distance of sqrt(2 - 2 r), and the distance between their low frequencies
    (an orthonormal projection, by DCT) cannot be larger. Only pairs that are so near are compared in full.

    Args:
      exact: what `exact_copies` gives.
    """
    copies = {group[0]: group for group in exact}
    further = {place for group in exact for place in group[1:]}
    places, projections = [], []
    for split, array in images.items():
        for start in range(0, len(array), _READ_AT_ONCE):
            unit, contrast = _standardized(array[start : start + _READ_AT_ONCE])
            used = [i for i in np.flatnonzero(contrast >= _FEATURELESS) if (split, start + int(i)) not in further]
            places += [(split, start + int(i)) for i in used]
            projections.append(_low_frequencies(unit[used]))
    if not places:
        return []
    projection = np.concatenate(projections)
    group = np.arange(len(places))  # of each image; the least of its members
    rows = max(1, _BLOCK // len(places))
    for start in tqdm(range(0, len(places), rows), "near copies", unit="block", disable=None):
        near = _near(projection[start : start + rows], projection[start:], 2 - 2 * correlation) + start
        near = near[near[:, 0] < near[:, 1]]
        # Of n alike images, as of a video, n pairs say what n**2 would.
        while len(near := near[group[near[:, 0]] != group[near[:, 1]]]):
            some, near = near[:_READ_AT_ONCE], near[_READ_AT_ONCE:]
            used, sides = np.unique(some, return_inverse=True)
            unit, _ = _standardized(np.stack([_at(images, places[i]) for i in used]))
            one, other = unit[sides.reshape(some.shape).T]
            group = _joined(group, some[(one * other).sum((1, 2)) >= correlation])
    members = {}
    for i, its in enumerate(group.tolist()):
        members.setdefault(its, []).append(i)
    groups = [each for each in members.values() if len(each) > 1]
    expanded = [[member for i in group for member in copies.get(places[i], [places[i]])] for group in groups]
    order = list(images)
    return [sorted(group, key=lambda place: (order.index(place[0]), place[1])) for group in expanded]


def _at(images: Images, place: Place) -> np.ndarray:
    split, index = place
    return images[split][index]


def _standardized(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey images float32 [n, H, W] of mean 0 and length 1, and their standard deviations in grey levels [n]."""
    grey = images.mean(-1, dtype=np.float32)
    grey -= grey.mean((1, 2), keepdims=True)
    length = np.sqrt((grey**2).sum((1, 2), keepdims=True))
    unit = np.divide(grey, length, out=np.zeros_like(grey), where=length > 0)
    return unit, length[:, 0, 0] / np.sqrt(grey[0].size)


def _low_frequencies(images: np.ndarray) -> np.ndarray:
    """The first coefficients of the orthonormal DCT of float32 [n, H, W]: [n, up to 144]."""
    rows, columns = (_cosines(size) for size in images.shape[1:])
    return (rows @ images @ columns.T).reshape(len(images), len(rows) * len(columns))


def _cosines(size: int) -> np.ndarray:
    frequency = np.arange(min(size, _FREQUENCIES))[:, None]
    basis = np.cos(np.pi / size * (np.arange(size) + 0.5) * frequency) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def _near(some: np.ndarray, others: np.ndarray, limit: float) -> np.ndarray:
    """Pairs of rows whose squared distance is at most `limit`: int [n, 2]."""
    squared = some @ others.T
    squared *= -2
    squared += (some**2).sum(1)[:, None]
    squared += (others**2).sum(1)
    return np.argwhere(squared <= limit + 1e-5)  # the rounding of float32


def _joined(group: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The groups, each named by its least member, once the members of pairs int [n, 2] belong together: int [N]."""
    parent = group.copy()

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for one, other in pairs:
        least, greater = sorted((root(one), root(other)))
        parent[greater] = least
    while (parent != parent[parent]).any():
        parent = parent[parent]
    return parent


def intensity_histogram(intensity: np.ndarray) -> np.ndarray:
    """How often each emotion has an intensity in each tenth of 0..1, 0 itself left out: int [E, 10] of [N, E]."""
    return np.array([np.histogram(column[column > 0], BINS, (0, 1))[0] for column in intensity.T], np.int64)


def conflicting(group: list[Place], labels: Labels) -> bool:
    """Whether copies carry different labels."""
    return len({int(labels[split][i]) for split, i in group}) > 1


def to_leave_out(exact: list[list[Place]], flat: list[Place], labels: Labels) -> dict[str, list[int]]:
    """The examples to leave out, indices of each split in order.

    - Flat images, in every split.
    - Of exact copies all but one: the first in the test split is kept, else the first in validation, else the first
      of all. So training copies of evaluation images go, and so do an evaluation split's own second copies.
    - If all copies are in train and their labels differ, every one of them: nothing says which label is right.

    Near copies stay: that they are copies is inferred, and is for a person to decide.
    """
    leave_out = set(flat)
    for group in exact:
        if {split for split, _ in group} == {"train"} and conflicting(group, labels):
            leave_out.update(group)
        else:
            rank = [KEEP_FIRST.index(split) if split in KEEP_FIRST else len(KEEP_FIRST) for split, _ in group]
            kept = group[int(np.argmin(rank))]
            leave_out.update(place for place in group if place != kept)
    return {split: sorted(i for where, i in leave_out if where == split) for split in labels}


def write_clean(path: Path, dataset: prepare.Dataset, exclude: dict[str, list[int]]) -> None:
    """Writes which examples of which data to leave out.

    Raises:
      UserError: there is a file of another kind.
    """
    if path.exists():
        try:
            json.loads(path.read_text())["exclude"]
        except (ValueError, TypeError, KeyError):
            raise UserError(f"--write-clean={path} is a file of another kind, and stays: name another") from None
    record = {"dataset": dataset.name, "fingerprint": dataset.fingerprint, "exclude": exclude}
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as temporary:
        temporary.write_text(json.dumps(record) + "\n")


def read_clean(path: str | Path, dataset: prepare.Dataset, *, align: str = "") -> dict[str, np.ndarray]:
    """What `--write-clean` wrote: for each split of the data set the indices to leave out, int64 [n], ascending.

    Args:
      align: how the data set was aligned, for messages.

    Raises:
      UserError: there is no such file, it is no such list, or it is one of other data.
    """

    def told(file: str | Path) -> str:
        options = {"variant": dataset.variant, "align": align, "write-clean": file}
        given = " ".join(f"--{name}={value}" for name, value in options.items() if value)
        return f"write one for the data at hand: python -m fer_jax.data.audit {dataset.name} {given}"

    again = told(path)
    try:
        record = json.loads(files.user_path(path).read_text())
        name, fingerprint = record["dataset"], record["fingerprint"]
        exclude = {split: np.unique(np.array(indices, np.int64)) for split, indices in record["exclude"].items()}
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {again}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no list of examples to leave out: {told('clean.json')}") from error
    if (name, fingerprint) != (dataset.name, dataset.fingerprint):
        raise UserError(
            f"{path} was written for {name} with the fingerprint {fingerprint}, not for {dataset.name} with "
            f"{dataset.fingerprint}: its indices mean other examples. {again[0].upper()}{again[1:]}"
        )
    for split, indices in exclude.items():
        if len(indices) and (indices[0] < 0 or indices[-1] >= dataset.splits.get(split, 0)):
            raise UserError(f"{path} names examples of {split} that {name} does not have: {again}")
    return {split: exclude.get(split, np.empty(0, np.int64)) for split in dataset.splits}


def without_listed(path: str | Path, dataset: prepare.Dataset, *, align: str = "") -> prepare.Dataset:
    """The data set without the training images that a list names; arguments and errors as of `read_clean`."""
    return dataset.without({"train": read_clean(path, dataset, align=align)["train"]})


def audit(dataset: prepare.Dataset, correlation: float = CORRELATION) -> dict:
    """Everything that is found, as it goes into audit.json: the keys say what; places have the source of the image."""
    arrays = {split: dataset.arrays(split) for split in dataset.splits}
    images = {split: array["image"] for split, array in arrays.items()}
    labels = {split: array["label"] for split, array in arrays.items()}
    flat, exact = flat_images(images), exact_copies(images)
    near = near_copies(images, exact, correlation)
    in_near = {place for group in near for place in group}
    subjects = _subjects(dataset)
    sources = {split: dataset.sources(split) for split in dataset.splits}

    def named(group: list[Place]) -> list[dict]:
        return [
            {"split": split, "index": i, "label": dataset.emotions[labels[split][i]], "source": str(sources[split][i])}
            for split, i in group
        ]

    def described(groups: list[list[Place]]) -> list[dict]:
        return [
            {
                "conflict": conflicting(group, labels),
                "across_splits": len({split for split, _ in group}) > 1,
                "examples": named(group),
            }
            for group in groups
        ]

    count = sum(dataset.splits.values())
    return {
        "dataset": dataset.name,
        "variant": dataset.variant,
        "synthetic": dataset.synthetic,
        "fingerprint": dataset.fingerprint,
        "image_shape": list(dataset.image_shape),
        "splits": dataset.splits,
        "distinct": count - sum(len(group) - 1 for group in exact),
        "class_counts": {
            split: dict(zip(dataset.emotions, counts, strict=True)) for split, counts in dataset.class_counts.items()
        },
        "intensity": {
            split: dict(zip(expressed(dataset.emotions), intensity_histogram(array["intensity"]).tolist(), strict=True))
            for split, array in arrays.items()
        }
        if dataset.has_intensity
        else None,
        "flat": named(flat),
        "exact": described(exact),
        "near": described(near),
        "near_correlation": correlation,
        "with_exact_copy": _with_copy(exact, list(images)),
        "with_any_copy": _with_copy(near + [group for group in exact if group[0] not in in_near], list(images)),
        "subjects": subjects and len(set().union(*subjects.values()) - {""}),
        "shared_subjects": subjects and shared(subjects),
        "leave_out": to_leave_out(exact, flat, labels),
    }


def _subjects(dataset: prepare.Dataset) -> dict[str, list[str]] | None:
    """The subject of every example, or None where the data name none."""
    subjects = {split: dataset.subjects(split).tolist() for split in dataset.splits}
    return subjects if any(map(any, subjects.values())) else None


def _with_copy(groups: list[list[Place]], splits: list[str]) -> dict[str, dict[str, int]]:
    """[a][b]: how many images of split a have a copy, other than themselves, in split b."""
    table = {a: dict.fromkeys(splits, 0) for a in splits}
    for group in groups:
        counts = Counter(split for split, _ in group)
        for a, own in counts.items():
            for b, other in counts.items():
                table[a][b] += own if a != b or other > 1 else 0
    return table


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    from fer_jax.data.datasets import DATASETS

    parser = process.argument_parser("fer_jax.data.audit", __doc__)
    parser.add_argument("name", help=", ".join(DATASETS))
    parser.add_argument("--data_dir", type=files.user_path, help="where the raw data lie")
    parser.add_argument("--variant", help="of the data set, e.g. majority of ferplus")
    parser.add_argument(
        "--align", default="", choices=("", *METHODS), help="align the photographs first, as data.align does"
    )
    parser.add_argument("--output", type=files.user_path, metavar="DIR", help="default runs/audit-NAME")
    parser.add_argument("--write-clean", type=files.user_path, metavar="FILE", help="list the examples to leave out")
    parser.add_argument(
        "--correlation", type=float, default=CORRELATION, help=f"minimum for near copies; default {CORRELATION:g}"
    )
    options = parser.parse_args(arguments)
    process.set_up_logging()
    if not 0 < options.correlation <= 1:
        raise UserError(f"--correlation={options.correlation:g} must be above 0 and at most 1, e.g. {CORRELATION:g}")
    prepare.refuse_unread(options.data_dir, [options.name])
    asked = {"variant": options.variant, "align": options.align, "data_dir": options.data_dir}
    dataset = prepare.load(options.name, **asked)
    found = audit(dataset, options.correlation)
    output = options.output or Path("runs") / f"audit-{options.name}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        images = {split: dataset.arrays(split)["image"] for split in dataset.splits}
        written = {"audit.json": json.dumps(found, indent=1, allow_nan=False) + "\n"}
        written["audit.html"] = page(found, images)
        for name, text in written.items():
            with files.whole(output / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        if options.write_clean:
            write_clean(options.write_clean, dataset, found["leave_out"])
    except OSError as error:
        raise UserError(f"cannot write {error.filename or output} ({error.strerror}): choose another place") from error
    print(summary(found))
    print(f"page: {output / 'audit.html'}")
    if options.write_clean:
        print(f"to leave out: {options.write_clean}")


if __name__ == "__main__":
    main()
