"""Exported networks: the same answers as before, alone and among others, with their names in the file."""

import json
import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import lax

from fer_jax import checkpoint, export, export_onnx, heads, models, recognizer
from fer_jax.data import normalization, prepare
from fer_jax.data.emotions import BASIC7, expressed
from fer_jax.errors import UserError
from tests.faces import noise_arrays, write_fer2013
from tests.finished import finished_runs

FORMS = ("stablehlo", "onnx", "safetensors")
NEEDED = {"stablehlo": ("flatbuffers",), "onnx": ("jax2onnx", "onnx", "onnxruntime"), "safetensors": ()}


def need(form):
    for package in NEEDED[form]:
        pytest.importorskip(package, reason=f"{form} needs the extra `export`")


@pytest.fixture(params=FORMS)
def form(request):
    need(request.param)
    return request.param


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a tiny conv-affine net with BatchNorm: (run directory, raw data)."""
    with finished_runs(tmp_path_factory.mktemp("run"), epochs=2) as ((workdir,), raw):
        yield workdir, raw


@pytest.fixture(scope="module")
def test_images(trained):
    return prepare.load("fer2013", data_dir=trained[1]).arrays("test")["image"]


def write_untrained(path, name, *, head="classification", gain=1.0, normalizer="symmetric"):
    """Weights of a registered model, drawn at random, so large that its answers differ from face to face."""
    rng = np.random.default_rng(0)
    entry = models.MODELS[name]
    module = models.create(name, num_outputs=heads.make_head(head, BASIC7).num_outputs)
    images = jax.ShapeDtypeStruct((1, *entry.input_shape), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)

    def draw(path, leaf):
        if leaf.ndim > 1:
            return rng.normal(0, np.sqrt(gain / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32) + rng.uniform(0, 0.1, leaf.shape)

    variables = jax.tree.map(np.float32, jax.tree_util.tree_map_with_path(draw, shapes))
    normalizer = normalization.compute(normalizer, None, entry.input_shape, devices=1)
    metadata = {
        "model": {"name": name, "dtype": "auto", "options": {}},
        "head": {"name": head, "loss": "softmax"},
        "emotions": BASIC7,
        "input_shape": entry.input_shape,
    }
    checkpoint.save_weights(path, {**variables, "normalizer": normalizer}, metadata)
    return path


def faces_of_noise(shape):
    """Eight images of noise of different means, which even a net that averages can tell apart."""
    return (noise_arrays(8, shape)["image"] // 4 + np.arange(0, 192, 24).reshape(8, 1, 1, 1)).astype(np.uint8)


def assert_same_answers(exported, net, images):
    expected = net.predict(images)
    everything = exported.predict(images)
    assert everything.emotions == net.emotions
    assert np.ptp(expected.probabilities, axis=0).max() > 0.01  # else any file would do
    for count in (1, 3, 8):
        some = exported.predict(images[:count])
        for ours, theirs, among_others in zip(some[:2], expected[:2], everything[:2], strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs[:count], atol=1e-4)
            np.testing.assert_allclose(ours, among_others[:count], atol=1e-5)


def test_a_trained_network_answers_as_before(trained, test_images, form, tmp_path):
    workdir, raw = trained
    rows, asked = export.export(workdir, form, data_dir=raw, output=tmp_path)
    assert_same_answers(export.load(rows[1].path), recognizer.load(workdir), test_images)
    accuracy = json.loads((workdir / "results.json").read_text())["metrics"]["accuracy"]
    assert [row.accuracy for row in rows] == [pytest.approx(accuracy)] * 2
    assert asked == "fer2013, test split, 21 images"
    assert [file.name for file in tmp_path.iterdir()] == [f"{workdir.name}_float32.{form}"]


@pytest.mark.parametrize("form", ["stablehlo", "onnx"])
@pytest.mark.parametrize(
    ("name", "head", "gain", "normalizer"),
    [("mini_xception", "classification", 1.2, "symmetric"), ("l2svm", "intensity", 2.0, "per_image")],
)
def test_other_networks_answer_as_before(name, head, gain, normalizer, form, tmp_path):
    need(form)
    weights = write_untrained(tmp_path / "weights.safetensors", name, head=head, gain=gain, normalizer=normalizer)
    rows, asked = export.export(weights, form)
    assert rows[1].path.parent == tmp_path / "export"
    assert "not measured" in asked
    assert rows[1].accuracy is None
    images = faces_of_noise(models.MODELS[name].input_shape)
    assert_same_answers(export.load(rows[1].path), recognizer.load(weights), images)


def test_the_file_tells_what_it_holds(trained, form, tmp_path):
    workdir, raw = trained
    path = export.export(workdir, form, data_dir=raw, output=tmp_path)[0][1].path
    if form == "stablehlo":
        with zipfile.ZipFile(path) as file:
            metadata = json.loads(file.read("fer_jax"))
            program = jax.export.deserialize(bytearray(file.read("program")))
        assert program.platforms == ("cpu", "cuda", "tpu")
        assert str(program.in_avals[0].shape) == "(n, 48, 48, 1)"
        assert sorted(program.out_tree.unflatten(range(2))) == ["intensities", "probabilities"]
    elif form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        metadata = json.loads(session.get_modelmeta().custom_metadata_map["fer_jax"])
        (given,) = session.get_inputs()
        assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["n", 48, 48, 1])
        assert [out.name for out in session.get_outputs()] == ["probabilities", "intensities"]
        assert [out.shape for out in session.get_outputs()] == [["n", 7], ["n", 6]]
    else:
        _, metadata = checkpoint.load_weights(path)
    results = json.loads((workdir / "results.json").read_text())
    assert metadata["emotions"] == results["emotions"] == list(BASIC7)
    assert metadata["input_shape"] == [48, 48, 1]
    assert metadata["model"]["name"] == "shallow"
    assert metadata["results"]["dataset"] == "fer2013"
    assert metadata["results"]["accuracy"] == results["metrics"]["accuracy"]
    assert metadata["export"]["precision"] == "float32"


def test_the_same_network_is_the_same_bytes(trained, form, tmp_path):
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        contents.append(export.export(trained[0], form, data_dir=trained[1], output=folder)[0][1].path.read_bytes())
    assert contents[0] == contents[1]


def test_half_precision_halves_the_file_and_keeps_the_answers(trained, form, tmp_path):
    precisions = export.PRECISIONS[form][:2]
    rows, _ = export.export(trained[0], form, precisions, data_dir=trained[1], output=tmp_path)
    whole, half = (row.path.stat().st_size for row in rows[1:])
    assert 0.4 < half / whole < 0.6
    assert 0 < rows[2].difference < 0.01
    assert rows[2].accuracy == rows[0].accuracy
    if form == "safetensors":
        scores = [checkpoint.load_weights(row.path)[1]["results"].get("accuracy") for row in rows[1:]]
        assert scores == [rows[0].accuracy, None]  # of the run, whose network only the first is


def test_other_data_than_the_runs_are_refused(trained, tmp_path):
    workdir, _ = trained
    other = write_fer2013(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"was trained on fer2013 with the fingerprint .*give the --data_dir that it"):
        export.export(workdir, "safetensors", data_dir=other, output=tmp_path)
    _, asked = export.export(workdir, "safetensors", output=tmp_path)  # of the two that are prepared, the run's
    assert asked == "fer2013, test split, 21 images"


def test_only_kernels_lose_bits(trained, tmp_path):
    precisions = ("float32", "float16", "bfloat16")
    rows, _ = export.export(trained[0], "safetensors", precisions, data_dir=trained[1], output=tmp_path)
    original, _ = checkpoint.load_weights(rows[0].path)
    for row in rows[1:]:
        flat = traverse_util.flatten_dict(checkpoint.load_weights(row.path)[0], sep="/")
        kinds = {name.rsplit("/")[-1]: str(value.dtype) for name, value in flat.items()}
        assert kinds == dict.fromkeys(kinds, "float32") | {"kernel": row.precision}
        for name, value in traverse_util.flatten_dict(original, sep="/").items():
            np.testing.assert_array_equal(flat[name], value.astype(flat[name].dtype))


def test_int8_is_calibrated_on_training_images_and_smaller(trained, tmp_path):
    need("onnx")
    import onnx

    workdir, raw = trained
    rows, _ = export.export(workdir, "onnx", ("float32", "int8"), data_dir=raw, output=tmp_path)
    assert rows[2].path.stat().st_size < rows[1].path.stat().st_size / 2.5
    assert 0 < rows[2].difference < 0.2
    assert rows[2].accuracy == pytest.approx(rows[0].accuracy, abs=0.1)
    graph = onnx.load(rows[2].path).graph
    kernels = {str(onnx.numpy_helper.to_array(tensor).dtype) for tensor in graph.initializer if tensor.dims[1:]}
    assert "int8" in kernels
    with pytest.raises(UserError, match=r"int8 takes its ranges from training images: .*give the directory of a run"):
        export.export(workdir / "weights.safetensors", "onnx", ("int8",), output=tmp_path / "none")
    assert not list((tmp_path / "none").iterdir())


def test_what_cannot_be_exported_is_refused(trained, tmp_path, monkeypatch):
    workdir, raw = trained
    with pytest.raises(UserError, match=r"unknown format 'tflite'.*stablehlo, onnx, safetensors"):
        export.export(workdir, "tflite")
    for form, precision in (("stablehlo", "int8"), ("safetensors", "int8"), ("onnx", "bfloat16")):
        with pytest.raises(UserError, match=f"{form} has no precision '{precision}'; it has: float32, float16"):
            export.export(workdir, form, (precision,))
    with pytest.raises(UserError, match=r"there are no weights at .*nowhere"):
        export.export(tmp_path / "nowhere", "safetensors")
    with pytest.raises(UserError, match="nowhere"):
        export.export(workdir, "safetensors", data_dir=tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output=.*file cannot be made \(File exists\): name another folder"):
        export.export(workdir, "safetensors", output=tmp_path / "file")
    monkeypatch.setattr(export, "TOLERANCE", -1)
    with pytest.raises(UserError, match="not written: its answers differ by"):
        export.export(workdir, "safetensors", data_dir=raw, output=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_weights_are_checked_in_float32_where_networks_compute_in_bfloat16(trained, tmp_path, monkeypatch):
    """As on a GPU or TPU: in bfloat16 the answers of one and the same file differ."""
    known = models.compute_dtype
    monkeypatch.setattr(models, "compute_dtype", lambda name: known("bfloat16" if name == "auto" else name))
    workdir, raw = trained
    rows, _ = export.export(workdir, "safetensors", data_dir=raw, output=tmp_path)
    assert rows[1].difference == 0


def test_answers_that_are_not_finite_are_refused(trained, tmp_path):
    variables, metadata = checkpoint.load_weights(trained[0] / "weights.safetensors")
    flat = traverse_util.flatten_dict(variables, sep="/")
    kernel = next(name for name in flat if name.endswith("kernel"))
    large = traverse_util.unflatten_dict(flat | {kernel: flat[kernel] * 1e6}, sep="/")
    checkpoint.save_weights(tmp_path / "large.safetensors", large, metadata)
    with pytest.raises(UserError, match="in float16 some answers are not finite; choose another precision"):
        export.export(tmp_path / "large.safetensors", "safetensors", ("float16",))
    damaged = traverse_util.unflatten_dict(flat | {kernel: flat[kernel] * np.nan}, sep="/")
    checkpoint.save_weights(tmp_path / "damaged.safetensors", damaged, metadata)
    with pytest.raises(UserError, match=r"outputs that are not finite for \d+ of \d+ images: its weights are damaged"):
        export.export(tmp_path / "damaged.safetensors", "safetensors")


def test_files_that_are_none_of_ours_are_refused(trained, form, tmp_path):
    path = export.export(trained[0], form, data_dir=trained[1], output=tmp_path)[0][1].path
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no such thing"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=re.escape(str(path))):
            export.load(path)
    with pytest.raises(UserError, match=r"there (is|are) no .*gone"):
        export.load(tmp_path / f"gone.{form}")
    with pytest.raises(UserError, match=r"ending in .stablehlo, .onnx or .safetensors"):
        export.load(tmp_path / "model.tflite")


def test_a_zip_or_an_onnx_model_of_others_is_refused(tmp_path):
    need("stablehlo")
    with zipfile.ZipFile(tmp_path / "other.stablehlo", "w") as file:
        file.writestr("fer_jax", "{}")
    with pytest.raises(UserError, match="no StableHLO file of fer_jax"):
        export.load(tmp_path / "other.stablehlo")
    with zipfile.ZipFile(tmp_path / "other.stablehlo", "a") as file:
        file.writestr("program", b"something else altogether")
    with pytest.raises(UserError, match="cannot read its program"):
        export.load(tmp_path / "other.stablehlo")
    need("onnx")
    spec = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    (tmp_path / "other.onnx").write_bytes(export_onnx.program(lambda x: (x + 1,), spec, ("y",)))
    with pytest.raises(UserError, match="not an ONNX file of fer_jax"):
        export.load(tmp_path / "other.onnx")


def test_images_of_another_size_or_type_are_refused(trained, tmp_path):
    need("stablehlo")
    path = export.export(trained[0], "stablehlo", data_dir=trained[1], output=tmp_path)[0][1].path
    exported = export.load(path)
    assert exported.input_shape == (48, 48, 1)
    assert expressed(exported.emotions) == BASIC7[:6]
    for wrong in (np.zeros((2, 48, 48, 1)), np.zeros((2, 64, 64, 1), np.uint8), np.zeros((0, 48, 48, 1), np.uint8)):
        with pytest.raises(UserError, match=r"expected images uint8 \[n, 48, 48, 1\]"):
            exported.predict(wrong)


def test_packages_that_are_missing_are_named(trained, tmp_path, monkeypatch):
    for package in ("jax2onnx", "onnxruntime"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match="ONNX needs jax2onnx, onnx and onnxruntime: pip install"):
        export.export(trained[0], "onnx", data_dir=trained[1], output=tmp_path)
    (tmp_path / "some.onnx").touch()
    with pytest.raises(UserError, match="ONNX needs"):
        export.load(tmp_path / "some.onnx")


def test_the_command_prints_sizes_and_measured_accuracy(trained, tmp_path, capsys):
    workdir, raw = trained
    arguments = [f"--workdir={workdir}", "--format=safetensors", f"--output={tmp_path}", "--precision"]
    export.main([*arguments, "float32", "float16", f"--data_dir={raw}"])
    printed = capsys.readouterr().out
    accuracy = json.loads((workdir / "results.json").read_text())["metrics"]["accuracy"]
    assert "shallow, asked about fer2013, test split, 21 images" in printed
    assert printed.count(f"{accuracy:.2%}") == 3
    assert f"{(tmp_path / f'{workdir.name}_float16.safetensors').stat().st_size / 1e3:.0f} KB" in printed
    with pytest.raises(SystemExit, match=r"error: safetensors has no precision 'int4'"):
        export.main([*arguments, "int4"])


def test_a_network_of_the_package_is_exported_beside_whoever_asks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export.main(["--workdir=mini_xception_fer2013", "--format=safetensors"])
    path = Path("export/mini_xception_fer2013_float32.safetensors")  # the other one's has a name of its own
    assert str(path) in capsys.readouterr().out
    assert export.load(path).emotions == BASIC7


def test_papers_sizes_are_printed_beside_ours(tmp_path):
    weights = write_untrained(tmp_path / "weights.safetensors", "mini_xception")
    printed = export.table([export.Row(weights, "run", "float32", None, 0.0)], "noise")
    assert "size in its paper: 800 KB (Kaskun et al.)" in printed
    assert f"{weights.stat().st_size / 1e3:.0f} KB" in printed


@pytest.mark.parametrize(
    ("shape", "window", "strides", "padding"),
    [
        ((2, 7, 8, 3), (1, 3, 2, 1), (1, 2, 2, 1), ((0, 0), (1, 0), (0, 1), (0, 0))),
        ((2, 5, 4, 9), (1, 1, 1, 5), (1, 1, 1, 1), ((0, 0), (0, 0), (0, 0), (2, 2))),
        ((2, 6, 6, 3), (1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
    ],
)
def test_pools_and_pads_are_those_of_jax(shape, window, strides, padding):
    need("onnx")
    import onnxruntime

    def pools(x):
        x = jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=0.5)
        highest = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
        return highest, lax.reduce_window(x, 0.0, lax.add, window, strides, padding)

    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    spec = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *shape[1:]), jnp.float32)
    session = onnxruntime.InferenceSession(export_onnx.program(pools, spec, ("highest", "total")))
    for ours, theirs in zip(session.run(None, {"images": x}), pools(x), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_every_registered_model_can_be_exported(name, tmp_path):
    weights = write_untrained(tmp_path / "weights.safetensors", name)
    for form in ("stablehlo", "onnx"):
        need(form)
        if form == "onnx" and name.endswith("_hog"):
            pytest.xfail("the bins of HOG hang on the last bit of an angle, which differs between XLA and onnxruntime")
        rows, _ = export.export(weights, form)
        assert rows[1].difference < export.TOLERANCE
        rows[1].path.unlink()
