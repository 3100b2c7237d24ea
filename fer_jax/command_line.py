"""The flags that training, sweeps and previews of the augmentation share, and what is said of wrong ones. No JAX."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from fer_jax import config as config_lib
from fer_jax.data import prepare
from fer_jax.errors import UserError, exits_with_message, unknown

CONFIG = config_flags.DEFINE_config_file("config", help_string="config file, e.g. configs/mini_xception.py:fer2013")
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "run directory; given again with the same command, the run goes on (default: runs/<config>[-<argument>]-<time>, of "
    "a sweep runs/sweep-<config>)",
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "where the raw data lie, e.g. the unpacked Kaggle download of FER2013")

_WHICH = "which config? e.g. --config=configs/vggs_small.py"


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the flags; a config or field that there is not is answered with the one that was meant.

    Raises:
      UserError: no config, or an override that names no field.
    """
    try:
        rest = flags.FLAGS(list(argv))
    except OSError as error:  # an override of a file that could not be loaded
        raise _not_loaded(argv, error) from error
    except flags.Error as error:
        wrong = _wrong_override(argv, error) if isinstance(error, flags.IllegalFlagValueError) else None
        raise UserError(wrong or str(error)) from error
    except (AttributeError, KeyError, ValueError) as error:
        raise UserError(_wrong_override(argv, error) or f"--config: {error}") from error
    if len(rest) > 1:
        raise UserError(f"unexpected arguments {rest[1:]}: flags begin with --, e.g. --config=configs/vggs_small.py")
    if not flags.FLAGS["config"].present:
        raise UserError(_WHICH)
    try:
        CONFIG.value.to_dict()  # a file that could not be loaded answers here
    except OSError as error:
        raise _not_loaded(argv, error) from error
    return rest


def refuse_unread_data_dir(configs: Iterable[ConfigDict]) -> None:
    """`prepare.refuse_unread` of the data sets that configs name."""
    names = {config.data.name for config in configs}
    prepare.refuse_unread(DATA_DIR.value, names, such_as="--config=configs/vggs_small.py:fer2013")


def _not_loaded(argv: Sequence[str], error: OSError) -> UserError:
    """What to say of a config file that cannot be loaded; where it is not there, which one may have been meant."""
    place = next((i for i, argument in enumerate(argv) if re.match(r"--?config(=|$)", argument)), None)
    if place is None:  # in a --flagfile
        return UserError(str(error))
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
    fields = config_lib.default_fields()
    names = [match[1] for argument in argv if (match := re.match(r"--?config\.([^=]*)", argument))]
    for name in names:
        section, _, last = name.rpartition(".")
        if "-" in name:
            return f"--config.{name} names no field: write _ for -"
        if name == "model.options" or section == "model.options":
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
    options = [option for option in options if re.search(rf"\b{option}\b", str(error))]
    if not options or not isinstance(error, AttributeError | KeyError):
        return None
    if near := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', str(error)):
        return f"the config sets no option {near[2]!r} of its model: did you mean {near[1]!r}?"
    return (
        f"--config.model.options.{options[0]} changes only an option that the config file sets: give all at once, e.g. "
        f"--config.model.options=\"{{'{options[0]}': ...}}\""
    )


def entry(main: Callable[[Sequence[str]], None]) -> None:
    """`absl.app.run` of a command with these flags."""
    app.run(exits_with_message(main), flags_parser=exits_with_message(parse_flags))
