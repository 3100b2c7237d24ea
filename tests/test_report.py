"""The report of tiny runs: the run's own scores, other data, views and ensembles, gaps and refusals, comparisons."""

import csv
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from fer_jax import (
    augment,
    checkpoint,
    ensemble,
    evaluate,
    heads,
    models,
    recognizer,
    report,
    report_compare,
    report_cost,
    report_figures,
    report_page,
    seen,
    statistics,
)
from fer_jax.data import prepare
from fer_jax.errors import UserError
from fer_jax.models.__main__ import describe
from fer_jax.tables import as_text
from tests.faces import write_fer2013
from tests.finished import finished_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one config on the same tiny data: (run directories, raw data)."""
    with finished_runs(tmp_path_factory.mktemp("runs"), epochs=1, seeds=(0, 1)) as finished:
        yield finished


@pytest.fixture(scope="module")
def answers(runs):
    return report.ask(runs[0][0], data_dir=runs[1])


@pytest.fixture
def copy(runs, tmp_path):
    return shutil.copytree(runs[0][0], tmp_path / "copy")


def rewrite(workdir, *, emotions=None, change=lambda leaf: leaf):
    """The weights of a run with other emotions or values."""
    variables, metadata = checkpoint.load_weights(workdir / "weights.safetensors")
    variables["params"] = jax.tree.map(change, variables["params"])
    metadata["emotions"] = emotions or metadata["emotions"]
    checkpoint.save_weights(workdir / "weights.safetensors", variables, metadata)


SPEED = {
    "images_per_second": 1234.5,
    "batch_size": 256,
    "batch_rounds": 5,
    "latency_p50_ms": 1.5,
    "latency_p95_ms": 2.5,
    "latency_rounds": 20,
    "device": "a machine",
    "cores": 2,
    "jax": "0",
}


@pytest.fixture
def quick(monkeypatch):
    """Reports without what has to be measured or drawn."""
    monkeypatch.setattr(report_cost, "speed", lambda _net, _images: SPEED)
    monkeypatch.setattr(report, "pictures", lambda _answers: {})


def page_of(answers, pictures=None):
    """(findings, page) without what has to be measured or drawn."""
    found = report.findings(answers) | {"speed": SPEED}
    return found, report.page(found, answers, pictures or {})


def other_data(folder, change):
    """The raw data of `runs` with changed rows of the CSV."""
    path = write_fer2013(folder, train=112) / "fer2013.csv"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    return folder


def trained_on(workdir, raw):
    """Makes it look as if the run had been trained on these data."""
    results = json.loads((workdir / "results.json").read_text())
    results["fingerprint"] = prepare.load("fer2013", data_dir=raw).fingerprint
    (workdir / "results.json").write_text(json.dumps(results))
    return raw


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_the_report_has_the_scores_of_the_run(runs, capsys):
    (workdir, _), raw = runs
    evaluate.main([f"--workdir={workdir}", f"--data_dir={raw}"])
    printed = capsys.readouterr().out
    found = json.loads((workdir / "report/metrics.json").read_text(), parse_constant=refuse)
    results = json.loads((workdir / "results.json").read_text())
    assert (found["split"], found["selected_on"], found["examples"]) == ("test", "validation", 21)
    assert found["confusion"] == results["confusion"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert found[name] == pytest.approx(results["metrics"][name])
    assert found["calibration"]["ece"] == pytest.approx(results["metrics"]["ece"], abs=1e-5)
    low, high = found["accuracy_interval_95"]
    assert 0 <= low <= found["accuracy"] <= high <= 1
    variables, _ = checkpoint.load_weights(workdir / "weights.safetensors")
    assert found["size"]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert found["size"]["megabytes_file"] == (workdir / "weights.safetensors").stat().st_size / 1e6
    assert found["fingerprint"] == results["fingerprint"]
    assert found["alternatives"] == []
    assert min(found["speed"][name] for name in ("images_per_second", "latency_p50_ms", "latency_rounds")) > 0
    page = (workdir / "report/index.html").read_text()
    assert page.count("<img class=look ") == 4  # explanations, activations, filters, embedding
    assert not re.findall(r"<script|<link|@import|url\(|https?:", page)
    assert len(found["mistakes"]) == 21 - np.trace(found["confusion"])
    confidences = [mistake["confidence"] for mistake in found["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    assert f"accuracy {found['accuracy']:.2%} (95 % interval {low:.2%}" in printed
    assert str(workdir / "report/index.html") in printed
    assert "Optimistic" not in printed


def test_the_page_shows_what_was_found_and_asks_for_nothing_from_outside(answers):
    picture = cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes()
    reason = "Net has no convolution <whose> filters could be shown"
    found, page = page_of(answers, {"Embedding": picture, "First layer": reason})
    assert set(re.findall(r"src='(\w+:image/\w+;base64)", page)) == {"data:image/png;base64", "data:image/jpeg;base64"}
    assert page.count(" src=") == page.count(" src='data:image/")
    assert not re.findall(r"<script|<link|@import|url\(|https?:", page)
    pictures = page.count("<figure>")
    assert min(len(found["mistakes"]), 18) <= pictures <= 18 + 36
    assert "class=curves" in page
    assert f"{found['accuracy']:.2%}" in page
    assert "class=warning" not in page
    assert "<p class=gap>Net has no convolution &lt;whose&gt; filters could be shown" in page
    assert f"<td>{found['size']['parameters']:,}</td>" in page
    assert "1.50 ms for one face, 95 % within 2.50 ms, 20 calls" in page
    assert "a machine, 2 cores, JAX 0" in page


def test_the_size_is_that_of_the_model_table(tmp_path, answers):
    row = describe("mini_xception")
    module = models.create("mini_xception", num_outputs=7)
    images = jax.ShapeDtypeStruct((1, 48, 48, 1), np.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    head = heads.make_head("classification", answers.emotions)
    net = recognizer.Recognizer(module, head, dict(variables), answers.emotions, (48, 48, 1))
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(bytes(250_000))
    size = report_cost.size(net, weights)
    assert f"{size['parameters']:,}" == row["parameters"]
    assert f"{size['mflops']:,.0f}" == row["MFLOPs"]
    assert f"{size['megabytes_float32']:.2f}" == row["MB float32"]
    assert f"{size['megabytes_bfloat16']:.2f}" == row["MB bf16"]
    assert size["megabytes_file"] == 0.25


def test_precision_and_recall_stand_in_their_columns():
    scores = {"precision": 0.25, "recall": 0.5, "f1": 1 / 3, "support": 8}
    page = report_page._classes({"classes": {"happy": scores, "sad": scores | {"precision": None}}})
    heads = re.findall(r"<th[^>]*>(.*?)</th>", page)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in page.split("<tr>")[2:]]
    expected = {"emotion": "happy", "precision": "0.250", "recall": "0.500", "F1": "0.333", "images": "8"}
    assert dict(zip(heads, rows[0], strict=True)) == expected
    assert dict(zip(heads, rows[1], strict=True))["precision"] == "never predicted"


def test_the_surest_face_of_each_emotion_is_shown():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    faces = report_figures.Faces(np.zeros((4, 8, 8, 1)), np.array([0, 0, 1, 1]), probabilities, "four")
    assert faces.shown().tolist() == [1, 3]
    unknown = dataclasses.replace(faces, labels=np.full(4, -1))
    assert unknown.shown().tolist() == [0, 1, 2, 3]
    assert unknown.targets().tolist() == [0, 0, 0, 1]


def test_the_speed_is_the_median_of_the_rounds(monkeypatch):
    times = {report_cost.BATCH: [2.0, 9.0, 1.0], 1: [1.0, 2.0, 3.0, 4.0]}
    monkeypatch.setattr(report_cost, "_seconds", lambda net, images: times[len(images)])
    found = report_cost.speed(None, np.zeros((1, 8, 8, 1), np.uint8))
    assert found["images_per_second"] == report_cost.BATCH / 2
    assert (found["latency_p50_ms"], found["latency_p95_ms"]) == pytest.approx((2500, 3850))


def test_the_split_that_selected_is_marked_and_so_are_training_images(runs, tmp_path, capsys, quick):
    (workdir, _), raw = runs
    for split, words in (("validation", "Optimistic: the validation split selected"), ("train", "Training images:")):
        output = tmp_path / split
        evaluate.main([f"--workdir={workdir}", f"--data_dir={raw}", f"--split={split}", f"--output={output}"])
        assert words in capsys.readouterr().out
        assert f"<p class=warning>{words}" in (output / "index.html").read_text()
        assert json.loads((output / "metrics.json").read_text())["split"] == split


def test_synthetic_faces_are_marked_in_title_and_warning(answers):
    synthetic = dataclasses.replace(answers, dataset=dataclasses.replace(answers.dataset, synthetic=True))
    _, page = page_of(synthetic)
    assert "(SYNTHETIC)</h1>" in page
    assert "<p class=warning>SYNTHETIC faces" in page


def test_an_absent_class_is_a_gap_and_no_zero(answers):
    kept = answers.label != 1
    names = ("index", "image", "label", "target", "probabilities", "intensities", "copied")
    without = dataclasses.replace(answers, **{name: getattr(answers, name)[kept] for name in names})
    found, page = page_of(without)
    assert found["classes"]["disgust"]["recall"] is None
    assert found["classes"]["disgust"]["support"] == 0
    assert page.count("no images of this class") == 3  # the scores and both matrices
    assert "nan" not in re.sub("base64,[^']*", "", page).lower()


def test_a_network_without_mistakes_and_a_run_without_curves(answers, tmp_path):
    shutil.copy(answers.workdir / "weights.safetensors", tmp_path)
    perfect = np.eye(7, dtype=np.float32)[answers.label]
    best = dataclasses.replace(answers, workdir=tmp_path, probabilities=perfect)
    found, page = page_of(best)
    low, high = found["accuracy_interval_95"]
    assert (found["accuracy"], high, found["mistakes"]) == (1, 1, [])
    assert 0.8 < low < 0.9  # 21 right answers are no proof that there are no wrong ones
    assert page.count("None: every image is classified rightly") == 2
    assert "The run directory has no learning_curves.png" in page


def test_intensities_have_their_errors_and_a_constant_no_correlation(answers):
    generator = np.random.default_rng(0)
    target = generator.random(answers.target.shape).astype(np.float32)
    target[:, 2] = 0.5
    dataset = dataclasses.replace(answers.dataset, has_intensity=True)
    graded = dataclasses.replace(answers, dataset=dataset, target=target, intensities=np.clip(target + 0.1, 0, None))
    found, page = page_of(graded)
    scores = found["intensity"]["emotions"]
    assert list(scores) == ["angry", "disgust", "fear", "happy", "sad", "surprise"]
    errors = {name: scores["angry"][name] for name in ("rmse", "mae", "pearson")}
    assert errors == pytest.approx({"rmse": 0.1, "mae": 0.1, "pearson": 1}, abs=1e-5)
    assert scores["fear"]["pearson"] is None
    assert [(level["target"], level["count"]) for level in scores["fear"]["levels"]] == [(0.5, 21)]
    assert sum(level["count"] for level in scores["angry"]["levels"]) == 21
    assert found["intensity"]["rmse"] == pytest.approx(0.1, abs=1e-5)
    assert "<td>fear</td><td>0.100</td><td>0.100</td><td>-</td>" in page
    assert "probabilities stand in" in page
    assert page.count("<div class='chart small'>") == 6
    assert report.findings(answers)["intensity"] is None


def test_the_category_derived_from_intensities_is_the_strongest_or_neutral_below_a_half(answers):
    dataset = dataclasses.replace(answers.dataset, has_intensity=True)
    strength = np.where(np.arange(21) < 14, 0.8, 0.4)  # the last 7 say neutral, which one of them is
    intensities = strength[:, None] * np.eye(7)[answers.label][:, :6]
    graded = dataclasses.replace(answers, dataset=dataset, intensities=intensities.astype(np.float32))
    found = report.findings(graded)
    assert found["intensity"]["accuracy"] == pytest.approx(15 / 21)


def test_emotions_are_matched_by_name(answers, copy, runs):
    rewrite(copy, emotions=answers.dataset.emotions[::-1])
    backwards = report.ask(copy, data_dir=runs[1])
    np.testing.assert_allclose(backwards.probabilities, answers.probabilities[:, ::-1], rtol=1e-6)
    plain = recognizer.load(answers.workdir).predict(answers.image).probabilities
    np.testing.assert_allclose(answers.probabilities, plain, rtol=1e-6)
    # The expressed emotions of the reversed names: neutral, at another place, is left out by name.
    np.testing.assert_allclose(backwards.intensities, answers.probabilities[:, :0:-1], rtol=1e-6)


def test_the_deduplicated_score_of_the_run_is_shown(answers, copy, runs):
    results = answers.results | {"deduplicated": {"examples": 20, "metrics": {"accuracy": 0.123}}}
    (copy / "results.json").write_text(json.dumps(results))
    again = report.ask(copy, data_dir=runs[1])
    assert "accuracy 12.30% of 20 images" in page_of(again)[1]
    other = report.ask(copy, data_dir=runs[1], split="validation")
    found, page = page_of(other)
    assert found["deduplicated"] is None
    assert "no image is an exact copy" in page


def test_copies_of_training_images_are_counted_and_scored_without(answers, copy, tmp_path):
    assert report.findings(answers)["copies"]["images"] == 0

    def repeat(rows):  # the first test image becomes a training image, the second a validation image
        pixels = {
            usage: next(row.split(",")[1] for row in rows if usage in row) for usage in ("Training", "PublicTest")
        }
        first = next(i for i, row in enumerate(rows) if "PrivateTest" in row)
        for i, new in enumerate(pixels.values()):
            emotion, _, usage = rows[first + i].split(",")
            rows[first + i] = f"{emotion},{new},{usage}"
        return rows

    asked = report.ask(copy, data_dir=trained_on(copy, other_data(tmp_path / "other", repeat)))
    assert np.flatnonzero(asked.copied).tolist() == [0, 1]
    found, page = page_of(asked)
    assert (found["copies"]["images"], found["copies"]["examples_without"]) == (2, 19)
    assert found["copies"]["accuracy_without"] == pytest.approx(asked.correct[2:].mean())
    assert "of 19 images; 2 images are exact copies" in page


def test_views_and_ensembles_are_rows_beside_the_plain_score(answers, runs):
    workdirs, raw = runs
    asked = report.ask(workdirs[0], data_dir=raw, views=["flip"], members=[workdirs[1]])
    np.testing.assert_array_equal(asked.probabilities, answers.probabilities)
    flipped, joint = asked.alternatives.values()
    mirrored = answers.net.predict(answers.image[:, :, ::-1]).probabilities
    np.testing.assert_allclose(flipped, (answers.probabilities + mirrored) / 2, atol=1e-5)
    member = recognizer.load(workdirs[1]).predict(answers.image).probabilities
    np.testing.assert_allclose(joint, (answers.probabilities + member) / 2, atol=1e-5)
    found, page = page_of(asked)
    assert found["accuracy"] == report.findings(answers)["accuracy"]
    for row, probabilities in zip(found["alternatives"], (flipped, joint), strict=True):
        accuracy = (probabilities.argmax(1) == answers.label).mean()
        assert row["accuracy"] == pytest.approx(accuracy)
        assert row["difference"]["difference"] == pytest.approx(accuracy - found["accuracy"])
        assert row["name"] in page
        assert not row["optimistic"]
    selected = report.ask(workdirs[0], data_dir=raw, split="validation", members=[workdirs[1]])
    assert report.findings(selected)["alternatives"][0]["optimistic"] == f"{workdirs[1]} was selected on this split"
    trained = report.ask(workdirs[0], data_dir=raw, split="train", members=[workdirs[1]])
    assert list(trained.optimistic.values()) == [f"{workdirs[1]} was trained on this split"]


def test_other_photographs_are_aligned_as_those_of_the_training(copy, own_faces, runs, monkeypatch, caplog):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"data": config["data"] | {"align": "landmarks"}}))
    asked, load = [], prepare.load

    def seen(name, *, align="", **options):
        asked.append((name, align))
        return load(name, **options)

    monkeypatch.setattr(prepare, "load", seen)
    found, page = page_of(report.ask(copy, dataset="csv", data_dir=own_faces))
    assert asked[0] == ("csv", "landmarks")
    assert found["align"] == "landmarks"
    assert "aligned by the method landmarks" in page
    assert report.ask(copy, dataset="csv", align="", data_dir=own_faces).align == ""
    assert report.ask(copy, dataset="fer2013", data_dir=runs[1]).align == ""
    assert asked[-1] == ("fer2013", "")
    assert "fer2013 has faces that are cut out already, they are not aligned as in training: landmarks" in caplog.text
    with pytest.raises(UserError, match=r"--align is for the photographs of another data set: name it by --dataset"):
        report.ask(copy, align="landmarks", data_dir=runs[1])


def test_one_person_says_nothing_of_others(answers):
    found, _ = page_of(answers)
    of_one = {
        "without_subject": 0,
        "accuracy_interval_95": [None, None],
        "each": {"a": {"examples": 9, "accuracy": 0.5}},
    }
    page = report.page(found | {"subjects": of_one}, answers, {})
    assert "One person, with an accuracy of 50.0%, who says nothing of others." in page


@pytest.mark.parametrize(
    ("transfer", "variant", "align", "split", "folder"),
    [
        (False, None, "", "test", "report"),
        (False, None, "", "train", "report_train"),
        (True, None, "", "test", "report_jaffe"),
        (True, None, "landmarks", "test", "report_jaffe_landmarks"),
        (True, "all", "", "validation", "report_jaffe_all_validation"),
    ],
)
def test_another_report_does_not_take_the_place_of_the_first(answers, transfer, variant, align, split, folder):
    dataset = dataclasses.replace(answers.dataset, name="jaffe")
    other = dataclasses.replace(answers, transfer=transfer, align=align, split=split, dataset=dataset)
    assert report.folder(other, variant) == folder


def test_runs_of_a_sweep_are_told_apart_by_what_differs():
    sweep = Path("runs/sweep")
    long = "train.batch_size=16,optim.learning_rate=0.001,seed="
    assert report_compare.labels([sweep / f"{long}0", sweep / f"{long}1"]) == ["seed=0", "seed=1"]
    assert report_compare.labels([sweep / "a", Path("runs/other/a")]) == ["sweep/a", "other/a"]
    assert report_compare.labels([Path("runs/a/b/c"), Path("runs/d/b/c")]) == ["runs/a/b/c", "runs/d/b/c"]
    sizes = [sweep / f"hidden=(128,256),seed={seed}" for seed in (0, 1)] + [sweep / "hidden=(256,512),seed=0"]
    assert report_compare.labels(sizes) == [
        "hidden=(128,256)\nseed=0",
        "hidden=(128,256)\nseed=1",
        "hidden=(256,512)\nseed=0",
    ]
    assert report_compare.labels([sweep / "a"]) == ["a"]


def test_the_28_variants_are_those_of_the_augmentation(answers):
    faces = answers.image[:3]
    seen = ensemble.viewer(answers.net, "variants", batch_size=56)(faces)  # a batch of two, one of one
    for face, probabilities in zip(faces, seen.probabilities, strict=True):
        variants = np.asarray(augment.variants(face, strength=ensemble.STRENGTH))
        np.testing.assert_allclose(probabilities, answers.net.predict(variants).probabilities.mean(0), atol=1e-5)
    with pytest.raises(UserError, match=r"unknown test-time augmentation 'flop'\. Did you mean 'flip'"):
        ensemble.viewer(answers.net, "flop")


@pytest.fixture
def own_faces(tmp_path):
    """A CSV data set of 12 faces by 4 people: no surprise, and contempt, which FER2013 lacks."""
    rng, lines = np.random.default_rng(0), ["path,emotion,intensity,subject,split"]
    for i, emotion in enumerate(["happy", "sad", "neutral", "contempt"] * 3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
        strength = "" if emotion == "neutral" else f"{0.25 * (i % 4 + 1)}"
        lines.append(f"{i}.png,{emotion},{strength},person{i % 5 // 2},test")
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "own.csv"


def test_another_data_set_is_scored_on_the_emotions_in_common(runs, own_faces, tmp_path, capsys, quick):
    arguments = [f"--workdir={runs[0][0]}", "--dataset=csv", f"--data_dir={own_faces}"]
    asked = report.ask(runs[0][0], dataset="csv", data_dir=own_faces)
    assert asked.emotions == ("happy", "sad", "neutral", "angry", "disgust", "fear", "surprise")
    assert asked.unknown == {"contempt": 3}
    named = [asked.dataset.emotions[i] for i in asked.dataset.arrays("test")["label"][asked.index]]
    assert [asked.emotions[i] for i in asked.label] == named
    plain = asked.net.predict(asked.image)
    np.testing.assert_array_equal(asked.probabilities[:, 3], plain.probabilities[:, asked.net.emotions.index("angry")])
    np.testing.assert_array_equal(asked.intensities[:, 1], plain.intensities[:, 4])  # sad
    assert asked.target.shape == (9, 2)
    found, page = page_of(asked)
    assert found["examples"] == 9
    assert found["absent_emotions"] == ["angry", "disgust", "fear", "surprise"]
    assert found["balanced_accuracy"] == pytest.approx(np.mean([found["classes"][e]["recall"] for e in named[:3]]))
    assert list(found["intensity"]["emotions"]) == ["happy", "sad"]
    people = found["subjects"]["each"]
    assert sum(each["examples"] for each in people.values()) == 9
    right = sum(each["examples"] * each["accuracy"] for each in people.values())
    assert right == pytest.approx(9 * found["accuracy"])
    assert "left out, since the network does not know the emotion: 3 of contempt" in page
    assert "possible answers of the network: angry, disgust, fear, surprise" in page
    assert "trained on fer2013, on csv" in page
    assert "class=warning" not in page
    evaluate.main([*arguments, f"--output={tmp_path / 'report'}"])
    assert "3 of contempt" in capsys.readouterr().out


def test_data_of_the_same_name_are_other_data(copy, runs, tmp_path):
    def change(rows):
        emotion, pixels, usage = rows[-1].split(",")
        return [*rows[:-1], f"{emotion},{pixels[:-2]} 7,{usage}"]

    other = other_data(tmp_path / "other", change)
    with pytest.raises(UserError, match=r"trained on fer2013 with the fingerprint \w+, the data at hand have \w+"):
        report.ask(copy, data_dir=other)
    asked = report.ask(copy, dataset="fer2013", data_dir=other)
    assert asked.transfer
    assert not report.ask(copy, dataset="fer2013", data_dir=runs[1]).transfer
    assert not report.ask(copy).transfer  # of the two that are prepared, its own
    found, _ = page_of(asked)
    assert found["copies"]["images"] == 0  # of test images: it was neither trained nor selected on them
    training = report.ask(copy, dataset="fer2013", data_dir=other, split="train")
    found, page = page_of(training)
    assert found["copies"]["images"] == 112
    assert "<p class=warning>112 of 112 images also trained or selected the network" in page
    few = found["copies"] | {"images": 1}  # of 112
    for change, remark in (
        ({}, " (optimistic)"),
        ({"copies": few}, ""),
        ({"copies": None}, " (copies not known)"),
        ({"transfer": False}, " (optimistic)"),  # its own training images
        ({"transfer": False, "split": "validation"}, " (optimistic)"),
        ({"transfer": False, "split": "test"}, ""),
    ):
        (header, rows), *_ = report_compare.compare([training], [found | change])
        assert rows[0][header.index("selected on")] == f"validation{remark}", change
    (copy / "results.json").write_text(json.dumps(asked.results | {"fingerprint": "of data that are gone"}))
    asked = report.ask(copy, dataset="fer2013", data_dir=other)
    assert asked.copied is None
    assert "not scored: the data that the network was trained on are not at hand" in page_of(asked)[1]


def test_a_run_that_began_with_other_weights_says_so(copy, runs):
    _, raw = runs
    config = json.loads((copy / "config.json").read_text())
    config["model"]["pretrained"] = "mini_xception_fer2013"
    (copy / "config.json").write_text(json.dumps(config))
    asked = report.ask(copy, data_dir=raw)
    found, page = page_of(asked)
    assert "mini_xception_fer2013; how many of these images that was trained on is not known" in page
    (header, rows), *_ = report_compare.compare([asked], [found])
    assert rows[0][header.index("selected on")] == "validation (began with mini_xception_fer2013)"
    joined = report.ask(runs[0][0], data_dir=raw, members=[copy])
    told = f"what {copy} learnt from, mini_xception_fer2013, may have been trained on these images"
    assert list(joined.optimistic.values()) == [told]
    results = json.loads((copy / "results.json").read_text())
    doubt = "runs/a was trained on 3 of the 21 images of test"
    known = {"name": "mini_xception_fer2013", "weights": "0", "doubts": [doubt]}
    (copy / "results.json").write_text(json.dumps(results | {"began_with": known}))
    asked = report.ask(copy, data_dir=raw)
    found, page = page_of(asked)
    assert f"mini_xception_fer2013; {doubt}" in page
    assert "is not known" not in page
    (header, rows), *_ = report_compare.compare([asked], [found])
    assert rows[0][header.index("selected on")] == f"validation (began with mini_xception_fer2013; {doubt})"
    joined = report.ask(runs[0][0], data_dir=raw, members=[copy])
    assert list(joined.optimistic.values()) == [doubt]
    (copy / "results.json").write_text(json.dumps(results | {"began_with": known | {"doubts": []}}))
    assert not report.ask(runs[0][0], data_dir=raw, members=[copy]).optimistic
    (copy / "results.json").write_text(json.dumps(results))
    joined = report.ask(runs[0][0], data_dir=raw, members=[copy], split="validation")  # what is known goes before
    assert list(joined.optimistic.values()) == [f"{copy} was selected on this split"]


def test_a_run_that_had_teachers_names_them_and_what_is_doubtful(copy, runs, monkeypatch):
    _, raw = runs
    config, results = (json.loads((copy / name).read_text()) for name in ("config.json", "results.json"))
    config["head"]["teachers"] = ["runs/a", "runs/b"]
    results["teachers"] = [
        {"name": "runs/a", "weights": "0", "doubts": []},
        {"name": "runs/b", "weights": "1", "doubts": ["runs/b was trained on 3 of the 21 images of test"]},
    ]
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "results.json").write_text(json.dumps(results))
    asked = report.ask(copy, data_dir=raw)
    found, page = page_of(asked)
    assert "runs/a; runs/b; runs/b was trained on 3 of the 21 images of test" in page
    assert "they were trained on" not in page
    page = report.page(found | {"transfer": True}, asked, {})
    assert "runs/a; runs/b; how many of these images they were trained on is not known" in page
    (header, rows), *_ = report_compare.compare([asked], [found])
    told = "validation (taught by runs/a) (taught by runs/b; runs/b was trained on 3 of the 21 images of test)"
    assert rows[0][header.index("selected on")] == told
    joined = report.ask(runs[0][0], data_dir=raw, members=[copy])
    assert list(joined.optimistic.values()) == ["runs/b was trained on 3 of the 21 images of test"]
    (copy / "results.json").write_text(json.dumps(results | {"fingerprint": "of other data"}))
    monkeypatch.setattr(seen, "copies", lambda digests, *_, **__: np.zeros(len(digests), bool))
    why = seen.optimistic_because(copy, asked.dataset.digests("test"), asked.dataset, "test", None)
    assert why == f"what {copy} learnt from, runs/a, runs/b, may have been trained on these images"


def test_what_cannot_be_evaluated_is_refused_with_a_reason(copy, runs, tmp_path):
    _, raw = runs
    other = other_data(tmp_path / "none", lambda rows: [row for row in rows if "PublicTest" not in row])
    with pytest.raises(UserError, match="has no validation split"):
        report.ask(copy, dataset="fer2013", data_dir=other, split="validation")
    rewrite(copy, change=lambda leaf: np.full_like(leaf, np.nan))
    with pytest.raises(UserError, match=r"outputs that are not finite for 21 of 21 images"):
        report.ask(copy, data_dir=raw)
    with pytest.raises(UserError, match=rf"the network of {copy} gives outputs that are not finite for 21 of"):
        report.ask(runs[0][0], data_dir=raw, members=[copy])
    rewrite(copy, emotions=["angry", "disgust", "fear", "happy", "sad", "surprise", "contempt"])
    with pytest.raises(UserError, match=r"knows angry.*contempt, the data set fer2013 has .*neutral"):
        report.ask(copy, data_dir=raw)
    with pytest.raises(UserError, match=r"there are no weights at .*nothing"):
        report.ask(runs[0][0], data_dir=raw, members=[tmp_path / "nothing"])
    with pytest.raises(
        UserError, match=r"mini_xception_fer2013 is a network without its data: give the directory of a run"
    ):
        report.ask("mini_xception_fer2013", data_dir=raw)
    (copy / "results.json").unlink()
    with pytest.raises(SystemExit, match=r"error: .*is not a finished run: results\.json is missing"):
        evaluate.main([f"--workdir={copy}", f"--data_dir={raw}"])


def test_a_report_that_cannot_be_written_says_so(answers, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write the report to .*file/report.*--output"):
        report.write(answers, tmp_path / "file/report")


def test_runs_are_compared_on_the_same_examples(runs, tmp_path, capsys):
    workdirs, raw = runs
    figure = tmp_path / "compared.png"
    report.main(["compare", *map(str, workdirs), f"--data_dir={raw}", "--format=csv", f"--figure={figure}"])
    printed = capsys.readouterr().out
    single, seeds, pairs = (list(csv.DictReader(io.StringIO(part))) for part in printed.split("\n\n"))
    accuracies = [json.loads((w / "results.json").read_text())["metrics"]["accuracy"] for w in workdirs]
    assert [row["accuracy"] for row in single] == [f"{accuracy:.2%}" for accuracy in accuracies]
    assert seeds[0]["seeds"] == "n = 2"
    assert seeds[0]["accuracy"] == f"{np.mean(accuracies):.2%} ± {np.std(accuracies, ddof=1):.2%}"
    assert pairs[0]["a - b"] == f"{accuracies[0] - accuracies[1]:+.2%}"
    only = int(pairs[0]["only a right"]) - int(pairs[0]["only b right"])
    assert only == round(21 * (accuracies[0] - accuracies[1]))
    picture = cv2.imread(str(figure))
    assert min(picture.shape[:2]) > 200
    assert picture.std() > 5
    wrong = tmp_path / "none/compared.png"
    with pytest.raises(SystemExit, match=r"error: cannot draw .*compared.png.*choose another --figure"):
        report.main(["compare", *map(str, workdirs), f"--data_dir={raw}", "--format=latex", f"--figure={wrong}"])
    latex = capsys.readouterr().out
    assert r"run\_0" in latex
    assert r"$\pm$" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3


def test_a_config_from_before_a_field_existed_is_still_the_same(answers, copy, runs):
    old = json.loads((copy / "config.json").read_text())
    del old["augment"]["erase"], old["data"]["align"]
    (copy / "config.json").write_text(json.dumps(old))
    again = report.ask(copy, data_dir=runs[1])
    found = report.findings(again)
    tables = report_compare.compare([answers, again], [found, found | {"seed": 7}])
    assert tables[1][1][0][1] == "n = 2"


def test_a_pair_of_runs_has_both_of_its_tests_and_a_run_its_balanced_accuracy(answers):
    right = np.eye(7, dtype=np.float32)[answers.label]
    wrong = right[:, ::-1] + 2 * np.roll(right, 1, 1)
    place = np.arange(21)[:, None]
    a, b = (
        dataclasses.replace(answers, probabilities=np.where(mistaken, wrong, right))
        for mistaken in (place < 2, (place >= 2) & (place < 10))
    )
    tables = report_compare.compare([a, b], [report.findings(each) for each in (a, b)])
    row = dict(zip(tables[-1][0], tables[-1][1][0], strict=True))
    drawn, exact = (test(a.correct, b.correct) for test in (statistics.paired_bootstrap, statistics.mcnemar))
    assert (row["only a right"], row["only b right"]) == ("8", "2")
    assert row["95 %"] == f"{drawn['low']:+.2%} to {drawn['high']:+.2%}"
    assert row["p (paired bootstrap)"] == f"{drawn['p']:.2g}"
    assert row["p (McNemar, exact)"] == f"{exact['p']:.2g}" != row["p (paired bootstrap)"]
    single = dict(zip(tables[0][0], tables[0][1][0], strict=True))
    assert single["balanced accuracy"] == f"{report.findings(a)['balanced_accuracy']:.2%}"


def test_a_seed_named_twice_is_one_seed_and_other_examples_are_no_comparison(answers, runs):
    found = report.findings(answers)
    tables = report_compare.compare([answers, answers], [found, found])
    assert len(tables) == 2  # no mean over seeds
    assert tables[1][1][0][2:] == ["+0.00%", "+0.00% to +0.00%", "1", "0", "0", "1"]
    assert as_text((["a", "b"], [["1|2", "3"]]), "markdown") == "| a | b |\n| --- | --- |\n| 1\\|2 | 3 |\n"
    assert as_text((["a", "b"], [["1 ± 2", "3"]]), "latex", bold={(0, 1)}) == (
        "\\begin{tabular}{lr}\n\\toprule\na & b \\\\\n\\midrule\n1 $\\pm$ 2 & \\textbf{3} \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )
    fewer = dataclasses.replace(answers, dataset=answers.dataset.without({"train": np.arange(9)}))
    assert fewer.dataset.fingerprint != answers.dataset.fingerprint
    report_compare.compare([answers, fewer], [found, found])  # trained on fewer images, they answer the same
    other = report.ask(runs[0][1], data_dir=runs[1], split="validation")
    relabelled = dataclasses.replace(answers, label=(answers.label + 1) % 7)
    for each in (other, relabelled):
        with pytest.raises(UserError, match="compare runs on the same examples"):
            report_compare.compare([answers, each], [found, report.findings(each)])
    with pytest.raises(SystemExit, match="compare wants two runs or more"):
        report.main(["compare", str(runs[0][0])])
