"""The report of tiny runs: the run's own scores, a page without requests, gaps and refusals, comparisons."""

import csv
import dataclasses
import io
import json
import re
import shutil

import jax
import numpy as np
import pytest

from fer_jax import checkpoint, evaluate, recognizer, report, run
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import write_fer2013


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one config on the same tiny data: (run directories, raw data)."""
    folder = tmp_path_factory.mktemp("runs")
    raw = write_fer2013(folder / "raw", train=112)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_CACHE", str(folder / "cache"))
        for seed in (0, 1):
            config = tiny_config.get_config()
            config.seed, config.train.epochs, config.train.batch_size, config.eval.batch_size = seed, 1, 16, 16
            run.run(config, folder / f"run_{seed}", data_dir=str(raw))
        yield [folder / "run_0", folder / "run_1"], raw


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
    assert found["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert found["megabytes"] == (workdir / "weights.safetensors").stat().st_size / 1e6
    assert len(found["mistakes"]) == 21 - np.trace(found["confusion"])
    confidences = [mistake["confidence"] for mistake in found["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    assert f"accuracy {found['accuracy']:.2%} (95 % interval {low:.2%}" in printed
    assert str(workdir / "report/index.html") in printed
    assert "Optimistic" not in printed


def test_the_page_asks_for_nothing_from_outside(answers):
    found = report.findings(answers)
    page = report.page(found, answers)
    assert set(re.findall(r"src='(.{21})", page)) == {"data:image/png;base64"}
    assert not re.findall(r"<script|<link|@import|url\(|https?:", page)
    pictures = page.count("<figure>")
    assert min(len(found["mistakes"]), 18) <= pictures <= 18 + 36
    assert "class=curves" in page
    assert f"{found['accuracy']:.2%}" in page
    assert "class=warning" not in page


def test_the_split_that_selected_is_marked_and_so_are_training_images(runs, tmp_path, capsys):
    (workdir, _), raw = runs
    for split, words in (("validation", "Optimistic: the validation split selected"), ("train", "Training images:")):
        output = tmp_path / split
        evaluate.main([f"--workdir={workdir}", f"--data_dir={raw}", f"--split={split}", f"--output={output}"])
        assert words in capsys.readouterr().out
        assert f"<p class=warning>{words}" in (output / "index.html").read_text()
        assert json.loads((output / "metrics.json").read_text())["split"] == split


def test_synthetic_faces_are_marked_in_title_and_warning(answers):
    synthetic = dataclasses.replace(answers, dataset=dataclasses.replace(answers.dataset, synthetic=True))
    page = report.page(report.findings(synthetic), synthetic)
    assert "(SYNTHETIC)</h1>" in page
    assert "<p class=warning>SYNTHETIC faces" in page


def test_an_absent_class_is_a_gap_and_no_zero(answers):
    kept = answers.label != 1
    fewer = {
        name: getattr(answers, name)[kept]
        for name in ("index", "image", "label", "target", "probabilities", "intensities")
    }
    without = dataclasses.replace(answers, **fewer)
    found = report.findings(without)
    assert found["classes"]["disgust"]["recall"] is None
    assert found["classes"]["disgust"]["support"] == 0
    page = report.page(found, without)
    assert page.count("no images of this class") == 3  # the scores and both matrices
    assert "nan" not in re.sub("base64,[^']*", "", page).lower()


def test_a_network_without_mistakes_and_a_run_without_curves(answers, tmp_path):
    shutil.copy(answers.workdir / "weights.safetensors", tmp_path)
    perfect = np.eye(7, dtype=np.float32)[answers.label]
    best = dataclasses.replace(answers, workdir=tmp_path, probabilities=perfect)
    found = report.findings(best)
    assert (found["accuracy"], found["accuracy_interval_95"], found["mistakes"]) == (1, [1, 1], [])
    page = report.page(found, best)
    assert page.count("None: every image is classified rightly") == 2
    assert "The run directory has no learning_curves.png" in page


def test_intensities_have_their_errors_and_a_constant_no_correlation(answers):
    generator = np.random.default_rng(0)
    target = generator.random(answers.target.shape).astype(np.float32)
    target[:, 2] = 0.5
    dataset = dataclasses.replace(answers.dataset, has_intensity=True)
    graded = dataclasses.replace(answers, dataset=dataset, target=target, intensities=np.clip(target + 0.1, 0, None))
    found = report.findings(graded)
    assert list(found["intensity"]) == ["angry", "disgust", "fear", "happy", "sad", "surprise"]
    assert found["intensity"]["angry"] == pytest.approx({"rmse": 0.1, "mae": 0.1, "pearson": 1}, abs=1e-5)
    assert found["intensity"]["fear"]["pearson"] is None
    page = report.page(found, graded)
    assert "<td>fear</td><td>0.100</td><td>0.100</td><td>-</td>" in page
    assert "probabilities stand in" in page
    assert report.findings(answers)["intensity"] is None


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
    assert "accuracy 12.30% of 20 images" in report.page(report.findings(again), again)
    other = report.ask(copy, data_dir=runs[1], split="validation")
    assert report.findings(other)["deduplicated"] is None
    assert "not scored: the run names no data.exclude" in report.page(report.findings(other), other)


def test_what_cannot_be_evaluated_is_refused_with_a_reason(copy, runs, tmp_path):
    _, raw = runs
    other = write_fer2013(tmp_path / "other", train=112, seed=3)
    rows = (other / "fer2013.csv").read_text().splitlines()
    (other / "fer2013.csv").write_text("\n".join(rows[:-2]) + "\n")
    with pytest.raises(UserError, match=r"was evaluated on 21 images of fer2013 test.*data_dir"):
        report.ask(copy, data_dir=other)
    (other / "fer2013.csv").write_text("\n".join(row for row in rows if "PublicTest" not in row) + "\n")
    with pytest.raises(UserError, match="has no validation split"):
        report.ask(copy, data_dir=other, split="validation")
    rewrite(copy, change=lambda leaf: np.full_like(leaf, np.nan))
    with pytest.raises(UserError, match=r"outputs that are not finite for 21 of 21 images"):
        report.ask(copy, data_dir=raw)
    rewrite(copy, emotions=["angry", "disgust", "fear", "happy", "sad", "surprise", "contempt"])
    with pytest.raises(UserError, match=r"knows angry.*contempt, the data set fer2013 has .*neutral"):
        report.ask(copy, data_dir=raw)
    (copy / "results.json").unlink()
    with pytest.raises(SystemExit, match=r"error: .*is not a finished run: results\.json is missing"):
        evaluate.main([f"--workdir={copy}", f"--data_dir={raw}"])


def test_a_report_that_cannot_be_written_says_so(answers, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write the report to .*file/report.*--output"):
        report.write(answers, tmp_path / "file/report")


def test_runs_are_compared_on_the_same_examples(runs, capsys):
    workdirs, raw = runs
    report.main(["compare", *map(str, workdirs), f"--data_dir={raw}", "--format=csv"])
    printed = capsys.readouterr().out
    single, seeds, pairs = (list(csv.DictReader(io.StringIO(part))) for part in printed.split("\n\n"))
    accuracies = [json.loads((w / "results.json").read_text())["metrics"]["accuracy"] for w in workdirs]
    assert [row["accuracy"] for row in single] == [f"{accuracy:.2%}" for accuracy in accuracies]
    assert seeds[0]["seeds"] == "n = 2"
    assert seeds[0]["accuracy"] == f"{np.mean(accuracies):.2%} ± {np.std(accuracies, ddof=1):.2%}"
    assert pairs[0]["a - b"] == f"{accuracies[0] - accuracies[1]:+.2%}"
    only = int(pairs[0]["only a right"]) - int(pairs[0]["only b right"])
    assert only == round(21 * (accuracies[0] - accuracies[1]))
    report.main(["compare", *map(str, workdirs), f"--data_dir={raw}", "--format=latex"])
    latex = capsys.readouterr().out
    assert r"run\_0" in latex
    assert r"$\pm$" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3


def test_a_seed_named_twice_is_one_seed_and_other_examples_are_no_comparison(answers, runs):
    tables = report.compare([answers, answers])
    assert len(tables) == 2  # no mean over seeds
    assert tables[1][1][0][2:] == ["+0.00%", "+0.00% to +0.00%", "1", "0", "0", "1"]
    assert report.as_text((["a", "b"], [["1|2", "3"]]), "markdown") == "| a | b |\n| --- | --- |\n| 1\\|2 | 3 |\n"
    other = report.ask(runs[0][1], data_dir=runs[1], split="validation")
    with pytest.raises(UserError, match="compare runs on the same examples"):
        report.compare([answers, other])
    with pytest.raises(SystemExit, match="compare wants two runs or more"):
        report.main(["compare", str(runs[0][0])])
