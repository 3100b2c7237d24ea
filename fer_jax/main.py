"""Command line: python -m fer_jax.main --config=configs/vggs_small.py [--workdir=...] [--data_dir=...]

Trains what the config says, evaluates it and prints where the results lie. The same command with the same
--workdir resumes. On several machines, each with its own devices, the same command with --distributed is given on all
of them, with a --workdir that they share. Flags and dispatch only; the work is in `run.py`.
"""

import datetime
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from fer_jax import config as config_lib
from fer_jax import process
from fer_jax.errors import UserError, unknown

_CONFIG = config_flags.DEFINE_config_file("config", help_string="config file, e.g. configs/mini_xception.py:fer2013")
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "run directory; given again with the same command, the run goes on (default: runs/<config>[-<argument>]-<time>, of "
    "a sweep runs/sweep-<config>)",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "where the raw data lie, e.g. the unpacked Kaggle download of FER2013"
)

_WHICH = "which config? e.g. --config=configs/vggs_small.py"


def main(_argv: Sequence[str]) -> None:
    """Runs the config; exits with 1 and a message on what the user can mend, 128 + signal when interrupted."""
    # JAX lets the first process alone keep programs, and on GPUs all compile a program together: where machines have
    # caches of their own, the first would find it there and the others wait for it for a day. One in
    # JAX_COMPILATION_CACHE_DIR is the user's, on a disk that they share.
    process.set_up(keep_programs=not _DISTRIBUTED.value)
    if _DISTRIBUTED.value:
        if not _WORKDIR.value:
            raise UserError("--distributed needs --workdir, the same for all processes, on a disk that they share")
        process.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    elif (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value) != (None, None, None):
        raise UserError("--coordinator, --processes and --process are for training with --distributed")
    import jax  # here, so that --help needs no JAX

    from fer_jax import run, train

    config_file = flags.FLAGS["config"].config_filename
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = Path(_WORKDIR.value or config_lib.default_workdir(config_file, stamp))
    try:
        results = run.run(_CONFIG.value, workdir, data_dir=_DATA_DIR.value)
    except train.Interrupted as interrupted:
        print(f"{interrupted}; to resume: the same command with --workdir={workdir}", file=sys.stderr)
        sys.exit(128 + interrupted.signum)
    if jax.process_index() == 0:
        print(run.format_results(results))
        print(f"results: {workdir.resolve()}")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the flags; a config or field that there is not is answered with the one that was meant.

    Raises:
      UserError: no config, or an override that names no field.
    """
    try:
        rest = flags.FLAGS(list(argv))
    except OSError as error:  # an override of a file that could not be loaded
        raise _not_loaded(argv, error) from error
    except (AttributeError, KeyError, ValueError, flags.IllegalFlagValueError) as error:
        raise UserError(_wrong_override(argv, error) or str(error)) from error
    except flags.Error as error:
        raise UserError(str(error)) from error
    if len(rest) > 1:
        raise UserError(f"unexpected arguments {rest[1:]}: flags begin with --, e.g. --config=configs/vggs_small.py")
    if not flags.FLAGS["config"].present:
        raise UserError(_WHICH)
    try:
        _CONFIG.value.to_dict()  # a file that could not be loaded answers here
    except OSError as error:
        raise _not_loaded(argv, error) from error
    return rest


def _not_loaded(argv: Sequence[str], error: OSError) -> UserError:
    """What to say of a config file that cannot be loaded; where it is not there, which one may have been meant."""
    place = next(i for i, argument in enumerate(argv) if re.match(r"--?config(=|$)", argument))
    given = argv[place].partition("=")[2] if "=" in argv[place] else argv[place + 1]
    path = Path(given.partition(":")[0])
    if path.is_file():
        return UserError(str(error))
    beside = path if given and path.is_dir() else path.parent
    known = sorted(map(str, beside.glob("*.py"))) or sorted(map(str, Path("configs").glob("*.py")))
    if not given:
        return UserError(_WHICH)
    if not known:
        return UserError(
            f"there is no config file {path}: give this command in the root of a checkout, or the whole path"
        )
    alike = [file for file in known if Path(file).stem == path.stem]
    return unknown("config file", str(path), alike or known)


def _wrong_override(argv: Sequence[str], error: Exception) -> str | None:
    """What is wrong with the first override that names no single field of a config, in a line; None: nothing."""
    fields = config_lib.flatten(config_lib.default_config().to_dict())
    names = [match[1] for argument in argv if (match := re.match(r"--?config\.([^=]*)", argument))]
    for name in names:
        section, _, last = name.rpartition(".")
        if "-" in name:
            return f"--config.{name} names no field: write _ for -"
        if section == "model.options":
            continue  # those of the config's own model, see below
        if inside := [field for field in fields if field.startswith(f"{name}.")]:
            one = f"{name}.name" if f"{name}.name" in inside else inside[0]
            return f"--config.{name} has several fields: set one of them, e.g. --config.{one}=..."
        if name not in fields:
            alike = [field for field in fields if field.rpartition(".")[2] == last]
            beside = [field.removeprefix(f"{section}.") for field in fields if field.startswith(f"{section}.")]
            if beside and not alike:
                return str(unknown(f"field of config.{section}", last, beside))
            return str(unknown("config field", name, alike or fields))
    options = [name.removeprefix("model.options.") for name in names if name.startswith("model.options.")]
    if not options or not isinstance(error, AttributeError | KeyError):
        return None
    if near := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', str(error)):
        return f"the config sets no option {near[2]!r} of its model: did you mean {near[1]!r}?"
    return (
        f"--config.model.options.{options[0]} changes only an option that the config file sets: give all at once, e.g. "
        f"--config.model.options=\"{{'{options[0]}': ...}}\""
    )


def entry(main: Callable[[Sequence[str]], None], parser: Callable[[Sequence[str]], list[str]]) -> None:
    """`absl.app.run` in which a `UserError` ends in its message and exit code 1, not in a traceback."""

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    def guarded_parser(argv: Sequence[str]) -> list[str]:
        try:
            return parser(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    app.run(guarded, flags_parser=guarded_parser)


if __name__ == "__main__":
    # Here, not above: sweep and augment, which adopt the flags of this module, have none of these.
    _DISTRIBUTED = flags.DEFINE_bool(
        "distributed",
        False,
        "train with other processes: those that SLURM, Open MPI or a TPU pod tell of, or those that --coordinator, "
        "--processes and --process name",
    )
    _COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, a port that is free there")
    _PROCESSES = flags.DEFINE_integer("processes", None, "how many there are", lower_bound=1)
    _PROCESS = flags.DEFINE_integer("process", None, "the number of this one, from 0", lower_bound=0)
    entry(main, parse_flags)
