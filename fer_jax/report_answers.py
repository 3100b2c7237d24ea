"""What a run's network answers on a split of a data set: its own, or another one whose emotions are matched by name."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_jax import ensemble, recognizer, run_directory, seen
from fer_jax.data import combine, prepare
from fer_jax.data.emotions import expressed, relabel, remap
from fer_jax.errors import UserError
from fer_jax.recognizer import Recognizer

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a network answers on a split; examples of emotions that it does not know are left out.

    The emotions are the data set's that the network knows, in the data set's order, then those that it alone knows.
    """

    workdir: Path
    config: dict
    results: dict  # results.json
    net: Recognizer
    dataset: prepare.Dataset
    split: str
    align: str  # the method by which the photographs were aligned; empty: none, or they are crops already
    transfer: bool  # another data set than the run's
    emotions: tuple[str, ...]  # C of them
    unknown: dict[str, int]  # emotion of the data that the network does not know -> its images, left out
    index: np.ndarray  # int [n], of each example in the split
    image: np.ndarray  # uint8 [n, H, W, 1 or 3]
    label: np.ndarray  # int [n], of `emotions`
    target: np.ndarray  # float32 [n, S], the intensities of the data: the first S of expressed(emotions)
    probabilities: np.ndarray  # float32 [n, C]
    intensities: np.ndarray  # float32 [n, E]
    copied: np.ndarray | None  # bool [n], exact copies of images that trained or selected it; None: not known
    alternatives: dict[str, np.ndarray]  # name -> probabilities of an ensemble or of several views
    optimistic: dict[str, str]  # the alternatives with a member that has seen these images, and which one and how

    @property
    def predicted(self) -> np.ndarray:
        """int [n]."""
        return self.probabilities.argmax(1)

    @property
    def correct(self) -> np.ndarray:
        """bool [n]."""
        return self.predicted == self.label

    @property
    def subjects(self) -> np.ndarray | None:
        """The name of the subject of each example, str [n], empty where unknown; None where the data name none."""
        names = self.dataset.subjects(self.split)[self.index]
        return names if (names != "").any() else None


def ask(
    workdir: Path | str,
    *,
    split: str | None = None,
    dataset: str | None = None,
    variant: str | None = None,
    align: str | None = None,
    data_dir: Path | str | None = None,
    views: Sequence[str] = (),
    members: Sequence[Path] = (),
) -> Answers:
    """The answers of a finished run.

    Args:
      split: default: the one that its results are given on; of another data set the test split, else validation.
      dataset, variant: another data set; default: the run's own.
      align: how photographs of another data set are aligned; default: as the run's own.
      data_dir: where the raw data lie.
      views: keys of `ensemble.VIEWS`, for an alternative each.
      members: further runs, whose mean with this one is an alternative.

    Raises:
      UserError: no finished run, no such data or split or one without images to score, other data than the run's
        under the same name, an alignment for them, other emotions, or outputs that are not finite.
    """
    workdir = Path(workdir)
    config, results = run_directory.read_finished(workdir)
    data, align = _data(config, results, dataset, variant, align, data_dir)
    name, transfer = data.name, not seen.trained_on(config, results, data)
    if transfer and not (dataset or variant):
        raise UserError(
            f"{workdir} was trained on {name} with the fingerprint {run_directory.fingerprint(config, results)}, the "
            f"data at hand have {data.fingerprint}: give the --data_dir that it was trained on, or --dataset={name} to "
            f"score it on other data than its own"
        )
    split = split or (data.reported_split if transfer else results["split"])
    if not split:
        raise UserError(f"{name} has neither a test nor a validation split: name one with --split")
    arrays = data.arrays(split)
    net = recognizer.load(workdir)
    emotions = _match(net, data, workdir, transfer=transfer)
    label = relabel(arrays["label"], data.emotions, emotions)
    unknown = {
        emotion: int((arrays["label"] == i).sum())
        for i, emotion in enumerate(data.emotions)
        if emotion not in net.emotions
    }
    chosen = np.flatnonzero(label >= 0)
    if not len(chosen):
        raise UserError(f"the {split} split of {name} has no images with a label to score: choose another --split")
    image = arrays["image"][chosen]
    prediction = net.predict(image)
    prediction.require_finite(f"the network of {workdir}")
    order = remap(emotions, net.emotions)
    alternatives = {
        ensemble.VIEWS[each].told: ensemble.viewer(net, each)(image).probabilities[:, order] for each in views
    }
    optimistic = {}
    digests = data.digests(split)[chosen]
    copied = seen.copies(digests, config, results, data, split, transfer=transfer)
    if members:
        joint = f"ensemble: mean of {len(members) + 1} networks (with {', '.join(map(str, members))})"
        others = []
        for each in members:
            member = recognizer.load(each)
            recognizer.warn_of_other_alignment(str(each), member.align, align)
            others.append(ensemble.probabilities(member, each, image, emotions))
        alternatives[joint] = np.mean([prediction.probabilities[:, order], *others], 0)
        if reasons := [why for each in members if (why := seen.optimistic_because(each, digests, data, split, copied))]:
            optimistic[joint] = "; ".join(reasons)
    shared = tuple(emotion for emotion in emotions if emotion in data.emotions)
    return Answers(
        workdir=workdir,
        config=config,
        results=results,
        net=net,
        dataset=data,
        split=split,
        align=align,
        transfer=transfer,
        emotions=emotions,
        unknown={emotion: count for emotion, count in unknown.items() if count},
        index=chosen,
        image=image,
        label=label[chosen],
        target=arrays["intensity"][chosen][:, remap(expressed(shared), expressed(data.emotions))],
        probabilities=prediction.probabilities[:, order],
        intensities=prediction.intensities[:, remap(expressed(emotions), expressed(net.emotions))],
        copied=copied,
        alternatives=alternatives,
        optimistic=optimistic,
    )


def _data(
    config: dict,
    results: dict,
    dataset: str | None,
    variant: str | None,
    align: str | None,
    data_dir: Path | str | None,
) -> tuple[prepare.Dataset, str]:
    """The data to score, the run's own unless others are named, and how their photographs are aligned."""
    if dataset or variant:
        name = dataset or config["data"]["name"]
        align = _alignment(config, name) if align is None else align
        return prepare.load(name, variant=variant, align=align, data_dir=data_dir), align
    if align is not None:
        raise UserError(
            "--align is for the photographs of another data set: name it by --dataset, or leave --align out"
        )
    wanted = run_directory.fingerprint(config, results)
    return combine.load(config["data"], data_dir, fingerprint=wanted), config["data"]["align"]


def _alignment(config: dict, name: str) -> str:
    """The alignment of the run's own photographs, for another data set of photographs."""
    method = config["data"]["align"]
    if method and not prepare.of_photographs(name):
        log.warning("%s has faces that are cut out already, they are not aligned as in training: %s", name, method)
        return ""
    return method


def _match(net: Recognizer, data: prepare.Dataset, workdir: Path, *, transfer: bool) -> tuple[str, ...]:
    """The emotions to score."""
    known = f"the network of {workdir} knows {', '.join(net.emotions)}, the data set {data.name} has "
    known += ", ".join(data.emotions)
    shared = tuple(emotion for emotion in data.emotions if emotion in net.emotions)
    if transfer and not shared:
        raise UserError(f"{known}: evaluate it on a data set with some of the same emotions")
    if not transfer and set(net.emotions) != set(data.emotions):
        raise UserError(f"{known}: these are not the weights that were trained on it; train again")
    return shared + tuple(emotion for emotion in net.emotions if emotion not in shared)
