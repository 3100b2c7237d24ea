"""A trained network as one file for other programs: StableHLO, ONNX, or its weights in another precision.

    python -m fer_jax.export --workdir=RUN --format=stablehlo|onnx|safetensors
        [--precision float32 float16 ...] [--data_dir=PATH] [--output=DIR]

StableHLO and ONNX hold the whole way from pixels to answers. Input: `images`, uint8 [n, H, W, C] of the network's own
size, any n. Outputs: `probabilities` float32 [n, C] of the emotions, `intensities` float32 [n, E] of all but neutral.
Emotions, input shape, model, data and, in float32, the score are JSON inside the file, under `fer_jax`:

  *.stablehlo    a zip of `program`, to be read by `jax.export.deserialize`, and `fer_jax`; runs on CPU, CUDA and TPU
  *.onnx         metadata property `fer_jax`
  *.safetensors  as the run's own weights.safetensors

    network = export.load("RUN/export/mini_xception_float32.onnx")    # any of the three
    network.predict(faces).probabilities

Each file is read back and asked before it gets its name: for faces of the split on which the run reports, where its
data are at hand, and then the accuracy is printed as measured; otherwise for noise.
"""

import dataclasses
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from fer_jax import __version__, checkpoint, export_onnx, files, ops, process, recognizer, run_directory
from fer_jax.errors import UserError, exits_with_message, unknown
from fer_jax.recognizer import Prediction, Recognizer

PRECISIONS = {
    "stablehlo": ("float32", "float16", "bfloat16"),
    "onnx": ("float32", "float16", "int8"),  # onnxruntime's convolutions on CPUs know no bfloat16
    "safetensors": ("float32", "float16", "bfloat16"),
}
OUTPUTS = ("probabilities", "intensities")
# What the papers give for the file of a model.
PAPER_SIZES = {
    "vggs": "> 500 MB (Xu et al.)",
    "vggs_small": "12.1 MB (Xu et al.)",
    "mini_xception": "800 KB (Kaskun et al.)",
}
TOLERANCE = 1e-4  # of the probabilities in float32
CALIBRATION_IMAGES = 512
_PLATFORMS = ("cpu", "cuda", "tpu")
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Exported:
    """A StableHLO or ONNX file, ready to be asked: `predict` answers as that of `Recognizer`, of faces of one size."""

    run: Callable[[np.ndarray], Sequence[np.ndarray]]  # uint8 [n, H, W, C] -> (probabilities, intensities)
    metadata: dict

    @property
    def emotions(self) -> tuple[str, ...]:
        return tuple(self.metadata["emotions"])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return tuple(self.metadata["input_shape"])

    def predict(self, images: np.ndarray, *, batch_size: int = _BATCH) -> Prediction:
        """The emotions and intensities of faces: uint8 [n, H, W, C] of the network's own size, n at least 1.

        Raises:
          UserError: the images are of another type or shape.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.input_shape or not len(images):
            wanted = ", ".join(map(str, self.input_shape))
            raise UserError(f"expected images uint8 [n, {wanted}], n at least 1, not {images.dtype} {images.shape}")
        parts = [self.run(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
        return Prediction(*map(np.concatenate, zip(*parts, strict=True)), self.emotions)


def load(path: Path | str) -> Exported | Recognizer:
    """An exported file.

    Raises:
      UserError: there is none, it is damaged, or is none of ours.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return recognizer.load(path)
    if path.suffix not in (".stablehlo", ".onnx"):
        raise UserError(f"{path}: expected a file ending in .stablehlo, .onnx or .safetensors")
    if not path.is_file():
        raise UserError(f"there is no {path}")
    return Exported(*(export_onnx.load(path) if path.suffix == ".onnx" else _load_stablehlo(path)))


def with_precision(net: Recognizer, precision: str) -> Recognizer:
    """The network with kernels kept and layers computed in a floating-point type.

    Biases, the numbers of BatchNorm and of the normalisation stay float32: they are few, and small errors in them
    shift whole channels.
    """
    dtype = jnp.dtype(precision)
    flat = traverse_util.flatten_dict(net.variables)
    with np.errstate(over="ignore"):  # `export` refuses answers that are not finite
        flat = {
            path: np.asarray(value, dtype if path[0] == "params" and np.ndim(value) > 1 else np.float32)
            for path, value in flat.items()
        }
    return dataclasses.replace(net, model=net.model.clone(dtype=dtype), variables=traverse_util.unflatten_dict(flat))


def stablehlo(net: Recognizer) -> bytes:
    """`net.answer` with its weights for any number of images, serialized by `jax.export`, for CPU, CUDA and TPU.

    Raises:
      UserError: flatbuffers is not installed.
    """
    named = jax.jit(lambda images: dict(zip(OUTPUTS, net.answer(net.variables, images), strict=True)))
    exported = jax.export.export(named, platforms=_PLATFORMS)(_spec(net))
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise UserError("StableHLO files need flatbuffers: pip install 'fer_jax[export]'") from error


def _spec(net: Recognizer) -> jax.ShapeDtypeStruct:
    """Any number of images."""
    return jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *net.input_shape), np.uint8)


def _load_stablehlo(path):
    try:
        with zipfile.ZipFile(path) as file:
            program, metadata = file.read("program"), json.loads(file.read("fer_jax"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged, or no StableHLO file of fer_jax") from error
    by = metadata.get("export", {}).get("jax", "another version")
    try:
        exported = jax.export.deserialize(bytearray(program))
        exported.mlir_module()  # what a newer JAX wrote is read only here, or when it is asked
        call = ops.jit(exported.call)
    except ImportError as error:
        raise UserError("StableHLO files need flatbuffers: pip install 'fer_jax[export]'") from error
    except Exception as error:  # flatbuffers and JAX raise whatever the content made them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: JAX {jax.__version__} cannot read its program, written by JAX {by}: export it again with "
            f"this JAX, or ask it with the other ({reason})"
        ) from error

    def run(images):
        # Filled up to a power of two, for each size is compiled.
        answers = recognizer.in_batches(call, images, 1 << (len(images) - 1).bit_length())
        return [answers[name] for name in OUTPUTS]

    return run, metadata


@dataclasses.dataclass(frozen=True)
class Faces:
    """Faces as the exported file takes them."""

    images: np.ndarray  # uint8 [n, H, W, C]
    labels: np.ndarray | None  # int [n], indices of the network's emotions; None: nobody knows
    source: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    path: Path
    form: str
    precision: str
    accuracy: float | None
    difference: float  # largest of a probability or intensity, from the float32 original


def export(
    workdir: Path | str,
    form: str,
    precisions: Sequence[str] = ("float32",),
    *,
    data_dir: Path | str | None = None,
    output: Path | str | None = None,
) -> tuple[list[Row], str]:
    """Writes one file for each precision, into `output` (default: the folder `export` of the run, or here).

    Args:
      workdir: a run directory; or a weights file or the name of a network of the package, for which nothing can be
        measured.
      form: a key of PRECISIONS.
      data_dir: where the run's raw data lie; without it they are taken if they were prepared before.
      output: the folder. Files in the default one are named after the model; in a folder given here, which may take the
        exports of several runs, after the run's folder.

    Returns:
      (a row for each file, after the original in float32; what they were asked for)

    Raises:
      UserError: no such run, form or precision; the network cannot be expressed in it; a file in float32 answers
        otherwise than the network (by more than TOLERANCE), or one of less precision nothing finite; no data where
        they are needed, at `data_dir` or to calibrate int8. The file in question is not written then.
    """
    workdir = Path(workdir)
    if form not in PRECISIONS:
        raise unknown("format", form, PRECISIONS)
    for precision in precisions:
        if precision not in PRECISIONS[form]:
            raise UserError(f"{form} has no precision {precision!r}; it has: {', '.join(PRECISIONS[form])}")
    net = with_precision(recognizer.load(workdir), "float32")
    source, metadata = _described(workdir)
    faces = _faces_to_ask(net, workdir, metadata, data_dir)
    # Of a run its model; weights files of which several may lie in one folder have names of their own.
    name = metadata["model"]["name"] if source.name == "weights.safetensors" else source.stem
    if not output:  # beside what was given, never within the package
        output = source.parent / "export" if workdir.exists() else "export"
    elif source.name == "weights.safetensors":  # the folder may take the exports of several runs
        name = source.resolve().parent.name
    output = Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output} cannot be made ({error.strerror}): name another folder") from error
    # Else a GPU or TPU multiplies float32 with fewer bits, and its answers are not those of other machines.
    with jax.default_matmul_precision("highest"):
        expected = net.predict(faces.images)
        expected.require_finite(f"the network of {source}")
        rows = [Row(source, "run", "float32", _accuracy(expected, faces), 0.0)]
        for precision in precisions:
            path = output / f"{name}_{precision}.{form}"
            # Of the same ending, by which `load` goes.
            unchecked = path.with_name(f".unchecked_{path.name}")
            try:
                written_by = {"precision": precision, "version": __version__, "jax": jax.__version__}
                about = metadata | {"export": written_by}
                if precision != "float32":  # whose score is not the run's
                    about["results"] = {k: v for k, v in metadata.get("results", {}).items() if k != "accuracy"}
                _write(unchecked, form, precision, net, about, workdir, data_dir)
                network = load(unchecked)
                if isinstance(network, Recognizer):  # which on a GPU or TPU would compute in bfloat16
                    network = with_precision(network, "float32")
                answers = network.predict(faces.images)
                difference = _checked(answers, expected, precision, path)
                unchecked.replace(path)
            finally:
                unchecked.unlink(missing_ok=True)
            rows.append(Row(path, form, precision, _accuracy(answers, faces), difference))
    return rows, faces.source


def _described(workdir):
    """The weights file, and its metadata with the score of the run if there is one."""
    source = checkpoint.weights_file(workdir)
    _, metadata = checkpoint.load_weights(source)
    results = source.with_name("results.json")
    if workdir.is_dir() and results.exists():
        score = json.loads(results.read_text()).get("metrics", {}).get("accuracy")
        metadata["results"] = metadata.get("results", {}) | {"accuracy": score}
    return source, metadata


def _faces_to_ask(net, workdir, metadata, data_dir):
    split = metadata.get("results", {}).get("split")
    try:
        if split:
            return split_faces(net, workdir, split, data_dir)
        reason = f"{workdir} names no split that it was evaluated on"
    except UserError as error:
        if data_dir:
            raise
        reason = str(error)
    noise = np.random.default_rng(0).integers(0, 256, (8, *net.input_shape), dtype=np.uint8)
    return Faces(noise, None, f"8 images of noise; the accuracy was not measured: {reason}")


def split_faces(
    net: Recognizer, workdir: Path, split: str, data_dir: Path | str | None, *, most: int | None = None
) -> Faces:
    """The faces of a split of a run's data whose label the network knows, at its own size; of them `most`.

    Raises:
      UserError: no run directory, no such data or split, other data than the run's, or nothing in them that the network
        knows.
    """
    images, labels, source = run_directory.dataset(workdir, data_dir).showing(split, net.emotions, most=most)

    def at_size(some: np.ndarray) -> jax.Array:
        return jnp.round(net.to_input(jnp.asarray(some))).astype(jnp.uint8)

    return Faces(recognizer.in_batches(at_size, images, _BATCH), labels, source)


def _write(path, form, precision, net, metadata, workdir, data_dir):
    if form == "safetensors":
        checkpoint.save_weights(path, with_precision(net, precision).variables, metadata)
    elif form == "stablehlo":
        program = stablehlo(with_precision(net, precision))
        with zipfile.ZipFile(path, "w") as file:
            for name, content in (("program", program), ("fer_jax", json.dumps(metadata))):
                file.writestr(zipfile.ZipInfo(name), content)  # without the time: the same network is the same bytes
    else:
        calibration = _calibration(net, workdir, data_dir) if precision == "int8" else None
        kept = with_precision(net, precision if calibration is None else "float32")
        program = export_onnx.program(lambda images: kept.answer(kept.variables, images), _spec(kept), OUTPUTS)
        if calibration is not None:
            program = export_onnx.quantized(program, calibration)
        path.write_bytes(export_onnx.with_metadata(program, metadata))


def _calibration(net, workdir, data_dir):
    try:
        return split_faces(net, workdir, "train", data_dir, most=CALIBRATION_IMAGES).images
    except UserError as error:
        raise UserError(f"int8 takes its ranges from training images: {error}") from error


def _checked(answers, expected, precision, path):
    """The largest difference of the answers."""
    difference = float(np.max([np.abs(a - b).max() for a, b in zip(answers[:2], expected[:2], strict=True)]))
    if precision == "float32" and not difference <= TOLERANCE:
        raise UserError(
            f"{path} is not written: its answers differ by {difference:.1e} from the network's, more than {TOLERANCE}. "
            f"With HOG features that is known of ONNX, where angles are rounded otherwise: export to stablehlo. Else "
            f"please report it with the model and the versions of JAX, jax2onnx and onnxruntime"
        )
    if not np.isfinite(difference):
        raise UserError(f"{path} is not written: in {precision} some answers are not finite; choose another precision")
    return difference


def _accuracy(answers, faces):
    return None if faces.labels is None else float((answers.probabilities.argmax(1) == faces.labels).mean())


def table(rows: Sequence[Row], asked: str) -> str:
    """The files beside the original and the size in the model's paper, in thousands of bytes."""
    model = checkpoint.load_weights(rows[0].path)[1]["model"]["name"]
    lines = [f"{model}, asked about {asked}"]
    if paper := PAPER_SIZES.get(model):
        lines.append(f"size in its paper: {paper}")
    lines.append(f"  {'format':<12}{'precision':<11}{'size':>10}{'accuracy':>11}{'largest difference':>20}  file")
    for row in rows:
        accuracy = "?" if row.accuracy is None else f"{row.accuracy:.2%}"
        difference = f"{row.difference:.1e}"
        lines.append(
            f"  {row.form:<12}{row.precision:<11}{_size(row.path):>10}{accuracy:>11}{difference:>20}  {row.path}"
        )
    return "\n".join(lines)


def _size(path):
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} KB"


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = process.argument_parser("fer_jax.export", __doc__)
    parser.add_argument(
        "--workdir",
        type=files.user_path,
        required=True,
        metavar="RUN",
        help="a run directory, a weights file or a network's name",
    )
    parser.add_argument("--format", required=True, help=", ".join(PRECISIONS))
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["float32"],
        help="; ".join(f"{form}: {', '.join(known)}" for form, known in PRECISIONS.items()) + " (default: float32)",
    )
    parser.add_argument("--data_dir", type=files.user_path, help="where the raw data lie, to measure the accuracy")
    parser.add_argument(
        "--output",
        type=files.user_path,
        metavar="DIR",
        help="default: export beside the weights, files named after the model; with --output, after the run",
    )
    options = parser.parse_args(arguments)
    process.set_up()
    try:
        rows, asked = export(
            options.workdir, options.format, options.precision, data_dir=options.data_dir, output=options.output
        )
        print(table(rows, asked))
    except OSError as error:
        if not (reason := files.refusal(error)):
            raise
        where = error.filename or options.output or "the export"
        raise UserError(f"{where} cannot be written ({reason}): name another --output") from error


if __name__ == "__main__":
    main()
