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


def main(_argv: Sequence[str]) -> None:
    """Runs the config; exits with 1 and a message on what the user can mend, 128 + signal when interrupted."""
    process.set_up()
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
    """Parses the flags; a field that the config lacks is answered with the one that was meant.

    Raises:
      UserError: no config, or an override that names no field.
    """
    try:
        rest = flags.FLAGS(list(argv))
    except (AttributeError, KeyError) as error:
        raise UserError(_no_such_field(str(error))) from error
    except flags.Error as error:
        raise UserError(str(error)) from error
    except OSError as error:  # an override of a file that could not be loaded
        raise _not_loaded(argv, error) from error
    except ValueError as error:
        names = [argument.partition("=")[0] for argument in argv if argument.startswith("--config.")]
        odd = next((name for name in names if "-" in name[2:]), None)
        raise UserError(f"{odd} names no field: write _ for -" if odd else f"--config: {error}") from error
    if len(rest) > 1:
        raise UserError(f"unexpected arguments {rest[1:]}: flags begin with --, e.g. --config=configs/vggs_small.py")
    if not flags.FLAGS["config"].present:
        raise UserError("which config? e.g. --config=configs/vggs_small.py")
    try:
        _CONFIG.value.to_dict()  # a file that could not be loaded answers here
    except OSError as error:
        raise _not_loaded(argv, error) from error
    return rest


def _not_loaded(argv: Sequence[str], error: OSError) -> UserError:
    """What to say of a config file that cannot be loaded; where it is not there, which one may have been meant."""
    place = next(i for i, argument in enumerate(argv) if re.match(r"--?config(=|$)", argument))
    path = Path((argv[place].partition("=")[2] or argv[place + 1]).partition(":")[0])
    if path.exists():
        return UserError(str(error))
    return unknown("config file", str(path), sorted(map(str, path.parent.glob("*.py"))))


def _no_such_field(message: str) -> str:
    """What ml_collections says of an override that names no field, in one line."""
    if near := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', message):
        return f"the config has no field {near[2]!r}: did you mean {near[1]!r}?"
    return f"--config: {message}"


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
