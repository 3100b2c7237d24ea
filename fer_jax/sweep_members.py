"""The members of a sweep: what a config file and the command line ask for, checked before anything is compiled."""

import ast
import contextlib
import dataclasses
import itertools
import json
import runpy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from fer_jax import config as config_lib
from fer_jax.errors import UserError

LONGEST_NAME = 200  # of a run directory, in bytes; file systems take 255
REPEATS = ("seed", "data.fold")  # fields whose values are repetitions of one cell
# Fields that affect speed, logs and storage, never a score: the same batches in the same order, the same weights.
WITHOUT_EFFECT = (
    *("data.residence", "data.workers", "eval.batch_size"),
    *("train.log_every", "train.keep_every", "train.saving_share"),
)


def cell_name(overrides: dict) -> str:
    """Of the cell that runs with these overrides are repetitions of."""
    return ", ".join(f"{field}={value}" for field, value in overrides.items() if field not in REPEATS) or "base"


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    overrides: dict
    config: ConfigDict

    @property
    def name(self) -> str:
        """Of its run directory: the overrides, made fit for a file system."""
        parts = (f"{field}={value}" for field, value in self.overrides.items())
        return ",".join(parts).translate(str.maketrans("/[]", "_()", " '\\")) or "base"

    @property
    def cell(self) -> str:
        """The line of the table that it belongs to: the overrides apart from those that only repeat it."""
        return cell_name(self.overrides)


def members(config: ConfigDict, axes: Sequence[Sequence[dict]]) -> list[Member]:
    """Every combination of one set of overrides from each axis.

    Raises:
      UserError: a field that the config lacks, a wrong value, or two members that are one run or want one directory.
    """
    found = []
    if not all(axes):
        raise UserError("the sweep has no members: sweep() of the config, or a --set, gives no values")
    for choice in itertools.product(*axes):
        if wrong := [part for part in choice if not isinstance(part, dict)]:
            raise UserError(
                f"sweep() of the config must give dicts of overrides such as {{'seed': 1}}: {wrong[0]!r} is none"
            )
        overrides = {field: value for part in choice for field, value in part.items()}
        member = Member(overrides, config_lib.overridden(config, overrides))
        config_lib.validate(member.config)
        found.append(member)
    _refuse_one_run_twice(found)
    return found


def _refuse_one_run_twice(found: Sequence[Member]) -> None:
    """Raises a UserError where two members have one directory, or would end in the same scores."""
    by_name, by_run = {}, {}
    for member in found:
        if len(member.name.encode()) > LONGEST_NAME:
            raise UserError(
                f"a member's run directory would have a name of more than {LONGEST_NAME} bytes: {member.name}; "
                f"override less in the sweep and more in the config"
            )
        if (other := by_name.setdefault(member.name, member)) is not member:
            same = other.overrides == member.overrides
            why = "alike" if same else f"{other.overrides} and {member.overrides}, which have one run directory"
            raise UserError(f"two members of the sweep are {why}: {member.name}")
        fields = config_lib.flatten(member.config.to_dict())
        run = json.dumps({field: value for field, value in fields.items() if field not in WITHOUT_EFFECT})
        if (other := by_run.setdefault(run, member)) is not member:
            raise UserError(
                f"two members of the sweep are the same run, {other.name} and {member.name}: they differ in nothing "
                f"that changes a score ({', '.join(WITHOUT_EFFECT)} do not)"
            )


def read_axis(text: str) -> list[dict]:
    """The overrides of `--set=field=value,value`.

    Raises:
      UserError: no field or no values.
    """
    field, _, values = text.partition("=")
    if not field or not values:
        raise UserError(f"--set={text}: expected field=value,value, e.g. --set=optim.learning_rate=1e-3,3e-3")
    if isinstance(config_lib.default_fields().get(field), str):
        # Names: 80_10_10 is no number.
        return [{field: value.strip().strip("'\"")} for value in values.split(",")]
    try:
        parsed = ast.literal_eval(f"({values},)")
    except (ValueError, SyntaxError):
        parsed = map(_literal, values.split(","))
    return [{field: value} for value in parsed]


def _literal(text: str) -> object:
    """The value that a text writes down in Python, or the text."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def declared(path: Path, *, quick: bool = False) -> tuple[dict, list[dict]]:
    """What a config file declares: overrides of its config, and the members.

    They are those of `quick()` if asked for, else none and what `sweep()` returns, or [{}] in a file without one.

    Raises:
      UserError: the file has no `quick()`.
    """
    module = runpy.run_path(str(path))
    if quick and "quick" not in module:
        raise UserError(f"--quick: {path} has no quick(); those in configs/ablations have, or leave --quick out")
    if quick:
        overrides, members = module["quick"]()
        return overrides, list(members)
    return {}, list(module["sweep"]()) if "sweep" in module else [{}]


@contextlib.contextmanager
def _naming(member: Member) -> Iterator[None]:
    """Says of which member a `UserError` is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{member.name}: {error}") from error


def check(
    planned: Sequence[Member],
    data_dir: str | None = None,
    *,
    halving: int = 0,
    done: Mapping[str, dict] | None = None,
) -> None:
    """Prepares the data of the members to train and makes their networks' shapes: mistakes show before a long wait.

    Nothing is compiled.

    Args:
      done: the results of the finished members by their names.

    Raises:
      UserError: of one of them, as `run.build`; members of one config that were trained on different data or learnt
        from different networks.
    """
    from fer_jax import checkpoint, run, seen, stack
    from fer_jax.data import audit, combine, pipeline

    datasets, done = {}, done or {}
    to_train = [member for member in planned if member.name not in done]
    kinds = {stack.structure(member.config): member for member in to_train}.values()
    for member in kinds:
        with _naming(member):
            run.refuse_unknown_names(member.config)
    for member in kinds:
        config, data = member.config, member.config.data
        asked = json.dumps(data.to_dict())
        if asked not in datasets:
            datasets[asked] = combine.load(data, data_dir)
            datasets[asked].require("train")
            if data.exclude:
                datasets[asked] = audit.without_listed(data.exclude, datasets[asked], align=data.align)
        dataset = datasets[asked]
        if dataset.reported_split is None:
            raise UserError(
                f"{member.name}: a sweep compares its members on a test or a validation split, and {dataset.name} has "
                f'neither; data.folds=5 with data.fold_by="image" makes one of its training split'
            )
        if halving and "validation" not in dataset.splits:
            raise UserError(f"--halving compares members on a validation split, and {dataset.name} has none")
        images, batch_size = dataset.splits["train"], config.train.batch_size
        if images < batch_size:
            pipeline.train_order(images, batch_size, config.seed)  # says what is wrong
        with _naming(member):
            run.make_recipe(config, dataset, images // batch_size)
    fingerprints = {asked: (dataset.fingerprint, "the data at hand") for asked, dataset in datasets.items()}
    learnt = {name for each in to_train for name in (each.config.model.pretrained, *each.config.head.teachers) if name}
    weights = {name: checkpoint.digest_of_weights(name) for name in learnt}
    for member in planned:
        results = done.get(member.name, {})
        for each in seen.learnt_from(results):
            if weights.setdefault(each["name"], each["weights"]) != each["weights"]:
                raise UserError(
                    f"{member.name} learnt from other weights than those of {each['name']} now, one table would mix "
                    f"them: put those back, or choose another --workdir"
                )
        if found := results.get("fingerprint"):
            asked = json.dumps(member.config.data.to_dict())
            other, where = fingerprints.setdefault(asked, (found, member.name))
            if found != other:
                raise UserError(
                    f"{member.name} was trained on other data ({found}) than {where} ({other}), one table would mix "
                    f"them: give the --data_dir of the first ones (and their data.exclude), or another --workdir"
                )
