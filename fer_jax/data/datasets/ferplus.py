"""FER+ (Barsoum et al. 2016): ten annotators' votes for each face of FER2013, as labels and soft labels."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fer_jax import files
from fer_jax.data.datasets.base import FaceBuilder, missing
from fer_jax.data.datasets.fer2013 import OFFICIAL, SIDE, USAGES, find_csv, read_csv
from fer_jax.data.emotions import BASIC7, CANONICAL, canonical, expressed, remap
from fer_jax.errors import UserError

VOTES_FILE = "fer2013new.csv"
# The file's columns after `Usage` and `Image name`; the last two are no emotions.
COLUMNS = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)
# Which column holds each canonical emotion.
_ORDER = remap(CANONICAL, [canonical(name) for name in COLUMNS[:8]])


class Ferplus(FaceBuilder):
    """FER+: eight emotions by majority of ten votes a face; the shares of the votes are the intensities.

    Variants, by which faces they keep:
      majority: the authors' rule: votes that stand alone are dropped, then one emotion must have more than half.
      strict_majority: one emotion must have more than half of all votes, those that stand alone included.
      soft: every face whose most frequent vote is an emotion; for training on the shares (head.loss=soft).
      fer2013: FER2013 itself, every face with its own label of seven emotions; in the training split the intensities
        are the votes in terms of these labels, see `translation`, to train on both (head.loss=soft, head.label_share).
        Elsewhere, and of a face without votes, they are the label alone: it is what networks are scored by.

    Source: https://github.com/microsoft/FERPlus, the votes under the MIT licence; the faces are FER2013's.
    Layout: fer2013new.csv beside fer2013.csv, its rows in the same order: the usage, a name, and the votes of COLUMNS.
    Expected: by majority 25,060 of Training's faces and 3,199 of PublicTest's.
    """

    EMOTIONS = CANONICAL
    IMAGE_SHAPE = (SIDE, SIDE, 1)
    VARIANTS = ("majority", "strict_majority", "soft", "fer2013")
    HAS_INTENSITY = True
    EXPECTED: ClassVar = {"majority train faces": 25_060, "majority validation faces": 3_199}
    CITATION = "Barsoum et al. 2016, Training Deep Networks with Crowd-Sourced Label Distribution (arXiv:1608.01041)"
    ORIGIN = (
        f"Expected in --data_dir: fer2013.csv (as for fer2013) and the votes, {VOTES_FILE}, from "
        f"https://github.com/microsoft/FERPlus"
    )

    def __init__(self, *, variant="", **options):
        if variant == "fer2013":
            self.EMOTIONS, self.HAS_INTENSITY = BASIC7, False
        super().__init__(variant=variant, **options)

    @classmethod
    def find_raw(cls, data_dir):
        path = data_dir and find_csv(data_dir)
        if not path:
            raise missing("ferplus", data_dir, cls.ORIGIN)
        votes = path.with_name(VOTES_FILE)
        if not votes.is_file():
            raise UserError(f"ferplus: {path.name} is there, {votes} is missing. {cls.ORIGIN}")
        return (path, votes)

    def extra_features(self):
        votes = tfds.features.Tensor(shape=(len(COLUMNS),), dtype=np.int32, encoding="bytes")
        return {"source": tfds.features.Text(), "votes": votes}

    def examples(self):
        images, votes_file = self.raw
        votes = read_votes(votes_file)
        rows = list(read_csv(images))
        counts = Counter(row.usage for row in rows)
        for usage, count in counts.items():
            if count != len(votes[usage]):
                raise UserError(
                    f"{votes_file} has {len(votes[usage]):,} rows of {usage}, {images} has {count:,}: "
                    f"the two files do not belong together"
                )
        place = {usage: iter(lines) for usage, lines in votes.items()}
        voted = [(row, next(place[row.usage])) for row in rows]
        rule = self._fer2013_rule(voted, images) if self.variant == "fer2013" else self._vote_rule
        labelled = {split: [] for usage, split in USAGES.items() if usage in counts}
        for row, row_votes in voted:
            if decided := rule(row, row_votes):
                labelled[USAGES[row.usage]].append((row, row_votes, *decided))
        for usage, split in USAGES.items():
            if split in labelled:
                kept, total = len(labelled[split]), counts[usage]
                self.notes.append(f"{self.variant}: {split} keeps {kept:,} of {total:,} faces ({kept / total:.1%})")
                if total == sum(OFFICIAL[usage]):
                    self.compare({f"{self.variant} {split} faces": kept})
        return {
            split: lambda chosen=chosen: (
                self.example(
                    row.image,
                    emotion,
                    shown,
                    source=f"{images.name}:{row.line}",
                    votes=row_votes,
                )
                for row, row_votes, emotion, shown in chosen
            )
            for split, chosen in labelled.items()
        }

    def _vote_rule(self, _row, votes):
        """(emotion, intensities) of a face by its votes [10]; None: it is dropped."""
        emotion = decide(votes, self.variant)
        return emotion and (emotion, intensities(votes))

    @staticmethod
    def _fer2013_rule(voted, path):
        """The like by FER2013's label and what the votes are in terms of it; None as intensities: the label."""
        training = [(row.emotion, votes) for row, votes in voted if row.usage == "Training"]
        if not training:
            raise UserError(f"{path} has no rows of Training, which tell what the votes are in FER2013's labels")
        translated = translation(*zip(*training, strict=True))

        def rule(row, votes):
            if row.usage != "Training" or not votes.any():
                return row.emotion, None
            return row.emotion, (votes / votes.sum() @ translated).astype(np.float32)

        return rule


def read_votes(path: Path) -> dict[str, list[np.ndarray]]:
    """For each usage the votes of its rows, int32 [10] in the order of COLUMNS.

    Raises:
      UserError: no text in UTF-8, wrong header or a row that is not ten counts; names file and line.
    """
    with path.open(newline="", encoding="utf-8-sig") as file, files.csv_rows(file, path) as reader:
        header = [name.strip() for name in next(reader, [])]
        if tuple(header) != ("Usage", "Image name", *COLUMNS):
            raise UserError(
                f"{path}: the header must be Usage,Image name,{','.join(COLUMNS)}; it is {','.join(header)}"
            )
        votes = {usage: [] for usage in USAGES}
        for fields in filter(any, reader):
            where = f"{path}, line {reader.line_num}"
            if len(fields) != len(header) or fields[0] not in votes:
                raise UserError(f"{where}: expected a Usage ({', '.join(USAGES)}), an image name and ten counts")
            try:
                counts = np.array(fields[2:], np.int32)
            except (ValueError, OverflowError):
                raise UserError(f"{where}: the votes are not whole numbers") from None
            if counts.min() < 0:
                raise UserError(f"{where}: {counts.min()} votes; they are counted from 0")
            votes[fields[0]].append(counts)
    return votes


def decide(votes: np.ndarray, rule: str) -> str | None:
    """The emotion of a face by its votes [10] under a variant's rule, or None when the rule drops the face."""
    if rule == "majority":
        votes = np.where(votes > 1, votes, 0)
    top = votes.argmax()
    if top >= len(COLUMNS) - 2 or votes[top] == 0:
        return None
    if rule != "soft" and votes[top] <= votes.sum() / 2:
        return None
    return canonical(COLUMNS[top])


def intensities(votes: np.ndarray) -> np.ndarray:
    """The share of each expressed emotion in the votes for emotions [10]: float32 [7], neutral the rest."""
    shares = votes[_ORDER] / max(votes[_ORDER].sum(), 1)
    return shares[remap(expressed(CANONICAL), CANONICAL)].astype(np.float32)


def translation(labels: Sequence[str], votes: Sequence[np.ndarray]) -> np.ndarray:
    """What a vote is in terms of FER2013's labels: float64 [10, 6], the expressed emotions, neutral the rest of 1.

    The rows are COLUMNS: of all votes for one, `unknown` and `NF` included, the shares that faces of each label got.
    A third of the votes for disgust, say, are for faces that are labelled angry.

    Args:
      labels: of n faces.
      votes: n times [10].
    """
    one_hot = np.array(labels)[:, None] == np.array(expressed(BASIC7))
    votes = np.stack(votes)
    return votes.T @ one_hot / np.maximum(votes.sum(0), 1)[:, None]
