"""Speed, memory and latency of the networks here, as a table and as JSON.

    python -m fer_jax.benchmark [--suite train infer input end_to_end scaling] [--models mini_xception deep]
                                [--against=torch] [--output=FILE.json] [--figure=FILE.png]

  train       images/s of the training step alone and of an epoch from device memory, compile time, memory, FLOPs and
              their share of the device's peak
  infer       images/s of batches on the device; latency of one face, from host to host
  input       how batches come to the device, PNG decoding, each model's augmentation
  end_to_end  epochs and whole runs beside the bare step, time to the first step
  scaling     seconds against images, batch and members

Run it from a checkout, whose `configs/` it trains, on a machine that does nothing else. Everything is warmed up, sides
take turns over `--rounds` rounds; a cell is the median, the JSON has least, most and n too. With `--against=torch` the
same layers, batch and augmentation are timed in PyTorch (tests/benchmarks/torch_side.py), and the ratio is taken round
by round with the faster of its forms: above 1 = ours are faster. Compile times are without the cache.
"""

import argparse
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from fer_jax import files, process
from fer_jax.errors import UserError, exits_with_message
from fer_jax.files import user_path

SUITES = ("train", "infer", "input", "end_to_end", "scaling")
MODELS = ("mini_xception", "fcn_gap", "deep", "vggs_small", "resnet18")
DTYPES = ("float32", "bfloat16")
COUNTERPARTS = {"torch": "tests.benchmarks.torch_side"}


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    options = parse(arguments)
    process.set_up()
    process.share_gpu()  # with PyTorch and the processes of end_to_end
    from fer_jax import run_directory  # here: it imports JAX

    advice = "choose a smaller --batch, or fewer --models and --suite; what was measured before is in --output, if any"
    with run_directory.full_memory_explained(advice):
        run(options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = process.argument_parser("fer_jax.benchmark", __doc__)
    parser.add_argument(
        "--suite", nargs="+", default=("train", "infer", "input"), choices=SUITES, help="default: train infer input"
    )
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="files in configs/")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=DTYPES,
        help="of train and infer; default: float32 and what the device has",
    )
    parser.add_argument("--batch", type=_above_zero, help="default: the config's own")
    parser.add_argument("--rounds", type=_above_zero, default=7, help="default 7")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each side in a round, default 0.5")
    parser.add_argument("--dataset", default="synthetic", help="of input and end_to_end, default synthetic")
    parser.add_argument("--data_dir", metavar="PATH", help="where its raw data lie")
    parser.add_argument("--images", type=_above_zero, help="of its training split, for end_to_end; default: all")
    parser.add_argument("--epochs", type=_above_zero, default=10, help="of a whole run of end_to_end, default 10")
    parser.add_argument("--against", choices=sorted(COUNTERPARTS), help="also time train and infer there")
    parser.add_argument("--output", type=user_path, metavar="FILE.json")
    parser.add_argument("--figure", type=user_path, metavar="FILE.png", help="the picture of scaling")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> list[dict]:
    """Runs the suites, prints their tables and writes the JSON, after each row anew; returns the rows.

    Raises:
      UserError: a model without a config, no PyTorch, a batch that the devices cannot divide.
    """
    if options.figure and "scaling" not in options.suite:
        raise UserError("--figure is the picture of --suite=scaling")
    for option, path in (("output", options.output), ("figure", options.figure)):
        if path and not path.absolute().parent.is_dir():
            raise UserError(f"--{option}={path}: there is no folder {path.absolute().parent}")
        if path and path.is_dir():
            raise UserError(f"--{option}={path} is a folder: name a file")
    if options.figure and options.figure.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--figure={options.figure}: name it *.png, *.pdf or *.svg")
    import jax

    from fer_jax import benchmark_input, benchmark_models, benchmark_run, benchmark_scaling, logs, models
    from fer_jax.data import prepare

    suites = {
        "train": benchmark_models.train_suite,
        "infer": benchmark_models.infer_suite,
        "input": benchmark_input.input_suite,
        "end_to_end": benchmark_run.end_to_end_suite,
        "scaling": benchmark_scaling.scaling_suite,
    }
    default = DTYPES if models.compute_dtype("auto").name == "bfloat16" else DTYPES[:1]
    settings = benchmark_models.Settings(
        models=tuple(options.models),
        dtypes=tuple(options.dtypes or default),
        rounds=options.rounds,
        seconds=options.seconds,
        batch=options.batch,
        dataset=options.dataset,
        data_dir=options.data_dir,
        images=options.images,
        epochs=options.epochs,
        rival=counterpart(options.against) if options.against else None,
    )
    # What is wrong answers now, not after hours.
    for name in settings.models:
        config = benchmark_models.config_of(name, settings)
        if settings.rival and {"train", "infer"} & set(options.suite):
            settings.rival.refuse(config, training="train" in options.suite)
    if {"input", "end_to_end"} & set(options.suite):
        prepare.load(settings.dataset, data_dir=settings.data_dir)
    environment = logs.environment()
    if settings.rival:
        environment["packages"]["torch"] = settings.rival.torch.__version__
    print(f"{environment['processor']}, {os.cpu_count()} cores, JAX {jax.__version__}", flush=True)
    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    rows = []
    for suite in dict.fromkeys(options.suite):
        columns = COLUMNS[suite] | (AGAINST.get(suite, {}) if settings.rival else {})
        print(f"\n{suite}\n{_line(list(columns), list(columns))}", flush=True)
        for row in suites[suite](settings):
            rows.append(row)
            print(_line([column(row) for column in columns.values()], list(columns)), flush=True)
            if options.output:
                files.write_json(options.output, {"environment": environment, "options": chosen, "rows": rows})
    if options.figure:
        benchmark_scaling.draw([row for row in rows if row["suite"] == "scaling"], options.figure)
    return rows


def counterpart(name: str) -> ModuleType:
    """The other side of the comparison.

    Raises:
      UserError: the library is not installed, or this is no checkout.
    """
    try:
        return importlib.import_module(COUNTERPARTS[name])
    except ModuleNotFoundError as error:
        if error.name == name:
            raise UserError(f"--against={name} needs the library: pip install {name}") from error
        raise UserError(
            f"--against={name} needs {COUNTERPARTS[name]}, which is not installed but part of a checkout: "
            f"run the command in its root"
        ) from error


def _above_zero(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _speed(field: str) -> Callable[[dict], str]:
    return lambda row: _count(row[field]["median"]) if field in row else ""


def _against(field: str) -> Callable[[dict], str]:
    """The fastest form's images/s."""
    return lambda row: _count(max(form["median"] for form in row["against"][field].values()))


def _spread(find: Callable[[dict], dict | None], form: str = ".2f") -> Callable[[dict], str]:
    def show(row: dict) -> str:
        found = find(row)
        return "" if found is None else f"{found['median']:{form}} ({found['min']:{form}}..{found['max']:{form}})"

    return show


_IDENTITY: dict[str, Callable[[dict], str]] = {
    "model": lambda row: row["model"],
    "dtype": lambda row: row["dtype"],
    "batch": lambda row: str(row["batch"]),
}
_PROGRAM: dict[str, Callable[[dict], str]] = {
    "compile s": lambda row: f"{row['compile_seconds']:.1f}",
    "MB": lambda row: f"{row['program_bytes'] / 1e6:,.0f}",
    "MFLOPs/image": lambda row: f"{row['flops_per_image'] / 1e6:,.0f}",
    "of peak": lambda row: f"{row['mfu']:.1%}",
}
# Suite -> title -> cell.
COLUMNS: dict[str, dict[str, Callable[[dict], str]]] = {
    "train": _IDENTITY
    | {"step images/s": _speed("images_per_second"), "epoch images/s": _speed("epoch_images_per_second")}
    | _PROGRAM,
    "infer": _IDENTITY
    | {"images/s": _speed("images_per_second")}
    | {
        "one face ms": lambda row: f"{row['latency']['median_ms']:.2f}",
        "p95 ms": lambda row: f"{row['latency']['p95_ms']:.2f}",
    }
    | _PROGRAM,
    "input": {
        "what": lambda row: row["what"],
        "data": lambda row: f"{row['dataset']} {'x'.join(map(str, row['image_shape']))}",
        "batch": _IDENTITY["batch"],
        "images/s": _speed("images_per_second"),
    },
    "end_to_end": _IDENTITY
    | {
        "what": lambda row: row["what"],
        "images": lambda row: f"{row['images']:,}" if "images" in row else "",
        "images/s": _speed("images_per_second"),
        "step images/s": _speed("step_images_per_second"),
        "share of the step's": _spread(lambda row: row.get("share_of_step"), ".1%"),
        "s from start": lambda row: f"{row['seconds_from_start']:.1f}" if "seconds_from_start" in row else "",
    },
    "scaling": _IDENTITY
    | {
        "axis": lambda row: row["axis"],
        "sizes": lambda row: " ".join(f"{size:,}" for size in row["sizes"]),
        "seconds": lambda row: " ".join(f"{each['median']:.3g}" for each in row["seconds"]),
        "exponent": lambda row: f"{row['exponent']:.2f}",
    },
}
AGAINST: dict[str, dict[str, Callable[[dict], str]]] = {
    "train": {
        "theirs, step": _against("images_per_second"),
        "theirs, epoch": _against("epoch_images_per_second"),
        "ratio, step": _spread(lambda row: row["against"]["ratio"]),
        "ratio, epoch": _spread(lambda row: row["against"]["epoch_ratio"]),
    },
    "infer": {
        "theirs": _against("images_per_second"),
        "theirs, ms": lambda row: f"{min(form['median_ms'] for form in row['against']['latency'].values()):.2f}",
        "ratio": _spread(lambda row: row["against"]["ratio"]),
        "ratio, one face": _spread(lambda row: row["against"]["latency_ratio"]),
    },
}
_WIDTHS = {"model": 14, "what": 54, "data": 22, "sizes": 24, "seconds": 30, "dtype": 9, "batch": 6, "MB": 7, "axis": 8}
_WIDTHS |= {"ratio, step": 18, "ratio, epoch": 18, "ratio": 18, "ratio, one face": 18, "share of the step's": 24}
_LEFT = {"model", "dtype", "what", "data", "axis"}


def _line(cells: Sequence[str], titles: Sequence[str]) -> str:
    """The cells of a row under their titles."""
    placed = []
    for title, cell in zip(titles, cells, strict=True):
        width = _WIDTHS.get(title, max(9, len(title)))
        placed.append(f"{cell:<{width}}" if title in _LEFT else f"{cell:>{width}}")
    return "  ".join(placed).rstrip()


if __name__ == "__main__":
    main()
