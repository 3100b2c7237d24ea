"""Sweeps: which members there are, tables against known statistics, and a sweep of tiny runs that is cut short."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from fer_jax import checkpoint, run_directory, sweep, sweep_members, sweep_plan, sweep_table
from fer_jax import config as config_lib
from fer_jax.data import combine, prepare
from fer_jax.errors import UserError
from fer_jax.scores import ACCURACY, RMSE
from tests import tiny_config
from tests.faces import write_fer2013

ROOT = Path(__file__).parents[1]


def test_fields_may_go_together_instead_of_crossing():
    together = config_lib.zipped(optim__name=("sgd", "adam"), optim__learning_rate=(0.02, 1e-3))
    assert together == [
        {"optim.name": "sgd", "optim.learning_rate": 0.02},
        {"optim.name": "adam", "optim.learning_rate": 1e-3},
    ]
    with pytest.raises(UserError, match=r"as many values of each field, not .*'optim.learning_rate': 1"):
        config_lib.zipped(optim__name=("sgd", "adam"), optim__learning_rate=(0.02,))


def test_members_are_every_combination_in_order_with_a_name_each():
    axes = [config_lib.product(optim__learning_rate=(1e-3, 1e-2)), config_lib.seeds(2)]
    planned = sweep_members.members(tiny_config.get_config(), axes)
    assert [member.overrides for member in planned] == [
        {"optim.learning_rate": rate, "seed": seed} for rate in (1e-3, 1e-2) for seed in (0, 1)
    ]
    assert [member.config.optim.learning_rate for member in planned] == [1e-3, 1e-3, 1e-2, 1e-2]
    assert [member.config.seed for member in planned] == [0, 1, 0, 1]
    assert [member.name for member in planned][:2] == [
        "optim.learning_rate=0.001,seed=0",
        "optim.learning_rate=0.001,seed=1",
    ]
    assert {member.cell for member in planned} == {"optim.learning_rate=0.001", "optim.learning_rate=0.01"}
    assert sweep_members.members(tiny_config.get_config(), [[{}]])[0].name == "base"
    (listed,) = sweep_members.members(tiny_config.get_config(), [[{"model.options.filters": [8, 8]}]])
    assert listed.name == "model.options.filters=(8,8)"  # Orbax finds no checkpoint in a folder with [...] in its name
    assert tiny_config.get_config().optim.learning_rate == 0.05  # the base is left as it was


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim.learning_rat": 0.1}, r"unknown config field 'optim.learning_rat'. Did you mean 'optim.learning_rate'"),
        ({"optim.learning_rate": "fast"}, r"optim\.learning_rate = 'fast'"),
        ({"augment.flip": 2.0}, r"augment\.flip = 2\.0 must lie in 0\.\.1"),
        ({"seed": 1.5}, r"seed = 1\.5 must be of type int, as 0 is"),
        ({"seed": True}, r"seed = True must be of type int"),
        ({"optim.learning_rate": None}, r"optim\.learning_rate = None must be of type float"),
        ({"model.input_shape": 48}, r"model\.input_shape = 48 must be of type tuple, as \(48, 48, 1\) is"),
        ({"model.options.hidden.width": 48}, r"unknown config field 'model\.options\.hidden\.width'"),
        ({"optim": 3}, r"unknown config field 'optim'"),
    ],
)
def test_wrong_overrides_are_refused_by_name(overrides, message):
    with pytest.raises(UserError, match=message):
        sweep_members.members(tiny_config.get_config(), [[overrides]])


def test_members_alike_are_refused():
    with pytest.raises(UserError, match="two members of the sweep are alike: seed=0"):
        sweep_members.members(tiny_config.get_config(), [[{"seed": 0}, {"seed": 0}]])
    with pytest.raises(UserError, match=r"'a b'.* and .*'ab'.*, which have one run directory: data.exclude=ab"):
        sweep_members.members(tiny_config.get_config(), [[{"data.exclude": "a b"}, {"data.exclude": "ab"}]])


@pytest.mark.parametrize("field", sweep_members.WITHOUT_EFFECT)
def test_members_that_can_only_have_the_same_scores_are_refused(field):
    value = {"data.residence": "stream", "train.saving_share": 1.0}.get(field, 7)
    pattern = rf"the same run, base and {field}={value}: they differ in nothing that changes a score"
    with pytest.raises(UserError, match=pattern):
        sweep_members.members(tiny_config.get_config(), [[{}, {field: value}]])
    # Beside something else such a field may be set.
    assert len(sweep_members.members(tiny_config.get_config(), [[{"seed": 1}, {"seed": 2, field: value}]])) == 2


def test_an_override_with_the_value_that_the_config_has_is_refused_beside_the_config():
    with pytest.raises(UserError, match=r"the same run, base and optim.learning_rate=0.05"):
        sweep_members.members(tiny_config.get_config(), [[{}, {"optim.learning_rate": 0.05}]])


def test_directories_of_names_too_long_are_refused_and_not_cut():
    with pytest.raises(UserError, match=r"more than 200 bytes: data\.exclude=x"):
        sweep_members.members(tiny_config.get_config(), [[{"data.exclude": "x" * 190}]])


def test_what_gives_no_overrides_is_refused():
    with pytest.raises(UserError, match=r"sweep\(\) of the config must give dicts .* 'seed' is none"):
        sweep_members.members(tiny_config.get_config(), [["seed"]])


def test_quick_is_of_the_config_file(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("def sweep():\n    return [{'seed': 1}]\n")
    assert sweep_members.declared(path) == ({}, [{"seed": 1}])
    with pytest.raises(UserError, match=r"--quick: .*some\.py has no quick\(\)"):
        sweep_members.declared(path, quick=True)
    path.write_text("def quick():\n    return {'train.epochs': 1}, [{'seed': 2}]\n")
    assert sweep_members.declared(path, quick=True) == ({"train.epochs": 1}, [{"seed": 2}])
    assert sweep_members.declared(path) == ({}, [{}])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.name": "shalow"}, r"unknown model 'shalow'. Did you mean 'shallow'"),
        ({"model.options.widths": (8,)}, r"shallow has no options \['widths'\]; it has: filters"),
        ({"model.options.strides": "a"}, r"model\.options\.strides=a: shallow cannot be made with .*'strides': 'a'"),
        ({"model.options.kernels": (3,)}, r"kernels = \(3,\) has 1 items, filters has 2"),
        ({"head.name": "intensities"}, r"head\.name = 'intensities' is unknown"),
        ({"optim.name": "adamm"}, r"optim\.name = 'adamm' is unknown"),
        ({"data.name": "fer2014"}, r"unknown data set 'fer2014'"),
        ({"data.emotions": ("happy", "bored")}, r"unknown emotion 'bored'"),
        ({"train.batch_size": 71}, r"70 examples, fewer than one batch of 71"),
    ],
)
def test_mistakes_in_the_last_member_are_found_before_the_first_is_compiled(
    overrides, message, tmp_path, cache, monkeypatch
):
    from fer_jax import train

    monkeypatch.setattr(train, "compile_step", lambda *_: pytest.fail("a step was compiled"))
    data = write_fer2013(tmp_path / "raw")
    planned = sweep_members.members(tiny_config.get_config(), [[{}, overrides]])
    sweep_members.check(planned[:1], str(data))
    with pytest.raises(UserError, match=message):
        sweep_members.check(planned, str(data))


def test_a_misspelt_name_is_told_before_the_data_are_prepared(monkeypatch):
    monkeypatch.setattr(combine, "load", lambda *_: pytest.fail("the data were prepared"))
    planned = sweep_members.members(tiny_config.get_config(), [[{}, {"optim.name": "adamm"}]])
    with pytest.raises(UserError, match=r"^optim\.name=adamm: optim\.name = 'adamm' is unknown"):
        sweep_members.check(planned)


def test_a_sweep_over_data_with_nothing_to_compare_on_is_refused_before_it_trains(tmp_path, cache):
    data = write_fer2013(tmp_path / "raw", train=140, validation=0, test=0)
    planned = sweep_members.members(tiny_config.get_config(), [config_lib.seeds(2)])
    with pytest.raises(UserError, match=r"seed=1: a sweep compares .* fer2013 has neither; data\.folds=5 with"):
        sweep_members.check(planned, str(data))
    folds = {"data.folds": 2, "data.fold_by": "image"}
    sweep_members.check(
        sweep_members.members(config_lib.overridden(tiny_config.get_config(), folds), [[{}]]), str(data)
    )


def test_a_sweep_without_members_is_refused():
    with pytest.raises(UserError, match="the sweep has no members"):
        sweep_members.members(tiny_config.get_config(), [[], config_lib.seeds(2)])


def test_successive_halving_multiplies_the_epochs_of_those_that_go_on():
    config = config_lib.overridden(tiny_config.get_config(), {"train.epochs": 27, "data.normalization": "unit"})
    planned = sweep_members.members(config, [config_lib.product(optim__weight_decay=tuple(range(9)))])
    assert sweep_plan.stops(planned, 3) == [(3, 3), (9, 1), (None, 9)]
    repeated = sweep_members.members(config, [config_lib.product(optim__weight_decay=range(3)), config_lib.seeds(3)])
    assert sweep_plan.stops(repeated, 3) == [(9, 1), (None, 3)]  # of cells, each with its seeds
    assert sweep_plan.stops(planned, 0) == [(None, 9)]
    assert sweep_plan.stops(planned[:2], 3) == [(None, 2)]
    for halving in (1, -3):
        with pytest.raises(UserError, match=f"--halving={halving} stops nobody"):
            sweep_plan.stops(planned, halving)
    for field, one, other in (
        ("train.epochs", 9, 27),
        ("train.smaller_first", (), ((3, 32),)),
        ("head.name", "classification", "intensity"),
        ("data.emotions", (), ("happy", "sad")),
    ):
        differ = sweep_members.members(config, [[{field: one}, {field: other}]])
        with pytest.raises(UserError, match=rf"{field} must not differ"):
            sweep_plan.stops(differ, 3)


def test_the_effect_of_each_factor_is_drawn(tmp_path):
    runs = [({"optim.learning_rate": rate, "seed": seed}, 0.5 + rate) for rate in (0.01, 0.1) for seed in (0, 1)]
    assert sweep_table.draw(runs, tmp_path) == ["effects.png"]
    searched = [(overrides | {"model.name": name}, score) for overrides, score in runs for name in ("deep", "shallow")]
    assert sweep_table.draw(searched, tmp_path) == ["effects.png", "parallel.png"]
    assert all(cv2.imread(str(tmp_path / name)).std() > 5 for name in ("effects.png", "parallel.png"))
    assert sweep_table.draw([({"seed": 0}, 0.5), ({"seed": 1}, 0.6)], tmp_path) == []
    # Fields that only some runs override: their means would compare unlike runs, so the cells are drawn.
    apart = [({"model.name": "deep"}, 0.5), ({"optim.weight_decay": 0.0, "seed": 1}, 0.6)]
    apart += [({"optim.weight_decay": 0.0, "seed": 2}, 0.7), ({"seed": 1}, 0.4)]
    assert sweep_table.draw(apart, tmp_path) == ["cells.png"]
    assert cv2.imread(str(tmp_path / "cells.png")).std() > 5
    # So they are where combinations are missing, as of runs that failed or were stopped.
    assert sweep_table.draw(searched[1:], tmp_path) == ["cells.png"]
    # The best on top, whichever way is better: the same picture but for the names of the scores.
    for name, measure, sign in (("up", ACCURACY, 1), ("down", RMSE, -1)):
        measure = dataclasses.replace(measure, heading="", unit="", scale=0, decimals=0)
        (tmp_path / name).mkdir()
        sweep_table.draw([(overrides, sign * score) for overrides, score in searched], tmp_path / name, measure)
    up, down = (cv2.imread(str(tmp_path / name / "parallel.png")) for name in ("up", "down"))
    assert np.abs(up.astype(int) - down).mean() < 0.1


def test_the_interval_of_an_effect_is_over_repetitions_not_over_what_the_other_fields_do(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    rng, runs = np.random.default_rng(0), []
    for rate, more in ((0.01, 0.0), (0.1, 0.02)):
        for name, much in (("deep", 0.2), ("shallow", 0.0)):
            runs += [
                ({"optim.learning_rate": rate, "model.name": name, "seed": seed}, 0.5 + more + much + noise)
                for seed, noise in enumerate(rng.normal(0, 0.003, 5))
            ]
    sweep_table.draw(runs, tmp_path)
    halves = [np.ptp(container.lines[2][0].get_segments()[0][:, 1]) / 2 for container in drawn[0].axes[0].containers]
    for half, rate in zip(halves, (0.01, 0.1), strict=True):
        cells = [
            [s for o, s in runs if (o["optim.learning_rate"], o["model.name"]) == (rate, name)]
            for name in ("deep", "shallow")
        ]
        pooled = np.sqrt(np.mean([np.var(cell, ddof=1) for cell in cells]))
        assert half == pytest.approx(100 * stats.t.ppf(0.975, 8) * pooled / np.sqrt(10))
    drawn.clear()
    sweep_table.draw([(overrides, score) for overrides, score in runs if overrides["seed"] == 0], tmp_path)
    assert all(not container.lines[2] for axes in drawn[0].axes for container in axes.containers)


def test_axes_are_read_from_the_command_line():
    assert sweep_members.read_axis("optim.learning_rate=1e-3,3e-3") == [
        {"optim.learning_rate": 1e-3},
        {"optim.learning_rate": 3e-3},
    ]
    assert sweep_members.read_axis("model.name=shallow,deep") == [{"model.name": "shallow"}, {"model.name": "deep"}]
    assert sweep_members.read_axis("model.options.global_pool=True") == [{"model.options.global_pool": True}]
    assert sweep_members.read_axis("data.variant=80_10_10,official") == [
        {"data.variant": "80_10_10"},
        {"data.variant": "official"},
    ]
    assert sweep_members.read_axis("optim.learning_rate=0.1,fast") == [
        {"optim.learning_rate": 0.1},
        {"optim.learning_rate": "fast"},
    ]
    with pytest.raises(UserError, match="expected field=value,value"):
        sweep_members.read_axis("optim.learning_rate")


def test_cells_have_mean_deviation_and_students_interval():
    scores = (0.61, 0.64, 0.62, 0.66, 0.63)
    cell = sweep_table.Cell("x", scores, failed=0)
    low, high = stats.t.interval(0.95, 4, np.mean(scores), stats.sem(scores))
    assert cell.mean - cell.half_width == pytest.approx(low)
    assert cell.mean + cell.half_width == pytest.approx(high)
    assert np.isnan(sweep_table.Cell("x", (0.5,), 0).half_width)
    assert np.isnan(sweep_table.Cell("x", (), 2).mean)


def test_the_best_is_marked_only_where_it_is_significantly_so():
    rng = np.random.default_rng(0)
    clear, near, low = (sweep_table.Cell(f"{m}", tuple(rng.normal(m, 0.01, 5)), 0) for m in (0.7, 0.6, 0.5))
    close = sweep_table.Cell("close", tuple(np.array(clear.scores) - 0.002), 0)
    assert sweep_table.significantly_best([low, clear, near]) is clear
    assert sweep_table.significantly_best([low, clear, close]) is None
    assert sweep_table.significantly_best([clear]) is None
    assert sweep_table.significantly_best([clear, sweep_table.Cell("one run", (0.1,), 0)]) is None
    # Two that happen to be equal say nothing of how others would differ.
    lucky = sweep_table.Cell("lucky", (0.7, 0.7), 0), sweep_table.Cell("less so", (0.6975, 0.6975), 0)
    assert sweep_table.significantly_best(lucky) is None
    assert sweep_table.significantly_best([sweep_table.Cell("equal", (0.25, 0.25), 0), low]) is low
    assert sweep_table.significantly_best([low, clear, near], RMSE) is low
    assert sweep_table.significantly_best([clear, close], RMSE) is None
    # Of what failed the others may be the luckier seeds, or with folds the easier images.
    unlucky = dataclasses.replace(near, failed=2)
    assert sweep_table.significantly_best([low, clear, unlucky]) is clear
    assert sweep_table.significantly_best([low, dataclasses.replace(clear, failed=2), near]) is None
    assert sweep_table.significantly_best([low, clear, near, sweep_table.Cell("cut", (), 0, stopped=5)]) is None
    assert sweep_table.significantly_best([low, clear, dataclasses.replace(unlucky, lacks_folds=True)]) is None


def metrics(accuracy):
    return {"accuracy": accuracy, "balanced_accuracy": accuracy / 2}


def test_the_best_is_found_by_welchs_test_corrected_for_the_number_of_tests():
    best = sweep_table.Cell("best", (0.70, 0.71, 0.72, 0.73), 0)
    near = sweep_table.Cell("near", tuple(np.array(best.scores) - 0.026), 0)
    assert 0.025 < stats.ttest_ind(best.scores, near.scores, equal_var=False).pvalue < 0.05
    assert sweep_table.significantly_best([best, near]) is best
    assert sweep_table.significantly_best([best, near, near]) is None
    steady = sweep_table.Cell("steady", (0.700, 0.701, 0.702, 0.703), 0)
    wild = sweep_table.Cell("wild", (0.6315, 0.6515, 0.6715, 0.6915), 0)
    assert stats.ttest_ind(steady.scores, wild.scores).pvalue < 0.05  # were their variances one
    assert sweep_table.significantly_best([steady, wild]) is None


def test_halving_compares_the_best_scores_until_its_stop(tmp_path):
    scores = enumerate((0.5, 0.4, 0.9), 1)
    rows = [{"split": "validation", "epoch": float(i), "accuracy": score} for i, score in scores]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sweep.best_until(tmp_path, tiny_config.get_config(), 2) == 0.5


@pytest.mark.parametrize("folds", [0, 5])
def test_nothing_is_the_best_where_the_images_differ(tmp_path, folds):
    scores = {"synthetic": (0.95, 0.96, 0.97), "fer2013": (0.62, 0.63, 0.61)}
    axes = [[{"data.name": name} for name in scores], config_lib.seeds(3)]
    planned = sweep_members.members(tiny_config.get_config(), axes)
    outcomes = {
        member.name: {"metrics": metrics(scores[member.config.data.name][member.config.seed])} for member in planned
    }
    unlike = sweep_plan.differing(planned, sweep_plan.same_images(planned))
    assert unlike == "data.name"
    cells = sweep.tabulate(planned, outcomes, ACCURACY)
    text = sweep_table.write_tables(cells, "test", tmp_path, unlike=unlike)
    assert "| data.name=synthetic | 3 | 96.00 ± 1.00 |" in text
    assert "scored on different images (data.name), so none is compared" in text
    assert "Optimistic" not in text
    text = sweep_table.write_tables(cells, "test", tmp_path, optimistic=True)
    assert "**" in text
    assert "Optimistic on validation: the epoch of a run was chosen on the images that it is scored on." in text
    assert "% Optimistic" in (tmp_path / "table.tex").read_text()
    text = sweep_table.write_tables(cells, "test", tmp_path, doubts=["runs/a was trained on 3 of them"])
    assert "Scores may be too high: runs/a was trained on 3 of them." in text
    assert json.loads((tmp_path / "table.json").read_text())["doubts"] == ["runs/a was trained on 3 of them"]
    assert "| 48.00 |" in text  # the balanced accuracy beside it
    assert sweep_plan.differing(planned[:3], sweep_plan.same_images(planned)) is None
    # The limit is set before the folds are made, whose images are those scored on; without folds it is of training.
    axes = [[{"data.limit": 100}, {"data.limit": 200}], [{"data.folds": folds}]]
    limited = sweep_members.members(tiny_config.get_config(), axes)
    unlike = sweep_plan.differing(limited, sweep_plan.same_images(limited))
    assert unlike == ("data.limit" if folds else None)


def test_a_member_whose_answers_are_not_finite_failed(capsys):
    good = {"split": "test", "metrics": {"loss": 1.0, "accuracy": 0.5}}
    bad = {"split": "test", "metrics": {"loss": None, "accuracy": 0.5, "rmse": None}}
    assert sweep._without_those_not_finite("a", good) is good
    assert sweep._without_those_not_finite("b", bad) == sweep.Failed("its loss on test is not finite")
    assert capsys.readouterr().err == "failed: b: its loss on test is not finite\n"


def test_intensity_heads_are_compared_by_the_rmse_that_their_runs_are_selected_by(tmp_path):
    intensity = {"head.name": "intensity"}
    axes = [config_lib.product(optim__learning_rate=(1e-3, 1e-2)), config_lib.seeds(3)]
    planned = sweep_members.members(config_lib.overridden(tiny_config.get_config(), intensity), axes)
    rmse = dict(zip([member.name for member in planned], (0.2, 0.21, 0.2, 0.1, 0.11, 0.1), strict=True))
    outcomes = {name: {"split": "test", "metrics": {"accuracy": 3 * x, "rmse": x}} for name, x in rmse.items()}
    by = sweep.compared_by(planned, outcomes)
    assert by is RMSE
    cells = sweep.tabulate(planned, outcomes, by)
    text = sweep_table.write_tables(cells, "test", tmp_path, by)
    assert text.splitlines()[0] == "|  | n | RMSE, test | mean, 95 % interval | accuracy (%) |"
    assert "| optim.learning_rate=0.001 | 3 | 0.2033 ± 0.0058 |" in text
    assert "| optim.learning_rate=0.01 | 3 | **0.1033 ± 0.0058** | 0.0890 to 0.1177 | 31.00 |" in text  # lower, better
    assert json.loads((tmp_path / "table.json").read_text())["measure"] == "rmse"
    assert (tmp_path / "table.csv").read_text().splitlines()[0].endswith("significantly_best,accuracy")
    assert r"\begin{tabular}{lrrrr}" in (tmp_path / "table.tex").read_text()
    # Of data without intensities, or beside a classification head, the accuracy is what all have.
    without = {name: {"metrics": {"accuracy": x}} for name, x in rmse.items()}
    assert sweep.compared_by(planned, without) is ACCURACY
    mixed = sweep_members.members(tiny_config.get_config(), [[{}, intensity]])
    outcomes = {member.name: {"metrics": {"accuracy": 0.5, "rmse": 0.1}} for member in mixed}
    assert sweep.compared_by(mixed, outcomes) is ACCURACY
    assert sweep.compared_by(mixed[1:], outcomes) is RMSE


def test_of_equal_cells_one_in_twenty_is_said_to_be_the_best():
    rng = np.random.default_rng(0)
    found = [
        sweep_table.significantly_best([sweep_table.Cell(name, tuple(rng.normal(0, 1, 5)), 0) for name in "ab"])
        for _ in range(2000)
    ]
    assert 0.03 < np.mean([best is not None for best in found]) < 0.065


def test_seeds_of_one_fold_are_one_score():
    """They share its images: as scores of their own they would make the interval far too narrow."""
    axes = [[{"data.folds": 3}], config_lib.product(data__fold=range(3)), config_lib.seeds(2)]
    planned = sweep_members.members(tiny_config.get_config(), axes)
    scores = dict(zip([member.name for member in planned], (0.1, 0.3, 0.4, 0.6, 0.7, 0.9), strict=True))
    outcomes = {name: {"metrics": metrics(score)} for name, score in scores.items()}
    (cell,) = sweep.tabulate(planned, outcomes, ACCURACY)
    assert cell.scores == pytest.approx((0.2, 0.5, 0.8))
    last = planned[-1].name
    (cell,) = sweep.tabulate(planned, outcomes | {last: sweep.Failed("")}, ACCURACY)
    assert (cell.scores, cell.failed) == (pytest.approx((0.2, 0.5, 0.7)), 1)


def test_pictures_show_the_scores_of_the_table_and_none_of_an_earlier_sweep(tmp_path):
    axes = [config_lib.product(optim__learning_rate=(0.1, 0.2)), [{"data.folds": 2}]]
    axes += [config_lib.product(data__fold=range(2)), config_lib.seeds(2)]
    planned = sweep_members.members(tiny_config.get_config(), axes)
    outcomes = {member.name: {"metrics": metrics(0.1 * i)} for i, member in enumerate(planned)}
    found = sweep.scores(planned, outcomes, ACCURACY)
    assert [score for _, score in found] == pytest.approx([0.05, 0.25, 0.45, 0.65])  # the means over seeds
    cells = sweep.tabulate(planned, outcomes, ACCURACY)
    assert [score for cell in cells for score in cell.scores] == pytest.approx([score for _, score in found])
    single = sweep_members.members(tiny_config.get_config(), [config_lib.seeds(2)])  # without folds each counts
    assert len(sweep.scores(single, {each.name: {"metrics": {"rmse": 1}} for each in single}, RMSE)) == 2
    assert sweep_table.draw(found, tmp_path) == ["effects.png"]
    assert sweep_table.draw(found[:3], tmp_path) == ["cells.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["cells.png"]


def test_members_that_were_trained_on_other_data_are_in_no_table(tmp_path, cache):
    data = str(write_fer2013(tmp_path / "raw", train=140))
    planned = sweep_members.members(tiny_config.get_config(), [config_lib.seeds(3)])
    with pytest.raises(UserError, match=r"seed=0 was trained on other data \(abc\) than the data at hand \(\w{16}\)"):
        sweep_members.check(planned, data, done={"seed=0": {"fingerprint": "abc"}})
    done = {f"seed={i}": {"fingerprint": "abc" if i < 2 else "def"} for i in range(3)}
    with pytest.raises(UserError, match=r"seed=2 was trained on other data \(def\) than seed=0 \(abc\), one table"):
        sweep_members.check(planned, None, done=done)


LEARNT = [
    ({"head.loss": "soft", "head.teachers": ("mini_xception_fer2013",)}, lambda known: {"teachers": [known]}),
    ({"model.pretrained": "mini_xception_fer2013"}, lambda known: {"began_with": known}),
]


@pytest.mark.parametrize(("fields", "results"), LEARNT)
def test_members_that_learnt_from_other_weights_are_in_no_table(tmp_path, cache, fields, results):
    data = str(write_fer2013(tmp_path / "raw", train=140))
    planned = sweep_members.members(config_lib.overridden(tiny_config.get_config(), fields), [config_lib.seeds(2)])
    name = "mini_xception_fer2013"
    now = checkpoint.digest_of_weights(name)
    sweep_members.check(planned, data, done={"seed=0": results({"name": name, "weights": now})})
    before, after = (results({"name": name, "weights": weights}) for weights in ("before", "after"))
    with pytest.raises(UserError, match=r"seed=0 learnt from other weights than those of mini_xception_fer2013 now"):
        sweep_members.check(planned, data, done={"seed=0": before})
    with pytest.raises(UserError, match=r"seed=1 learnt from other weights"):  # none is left to train
        sweep_members.check(planned, data, done={"seed=0": before, "seed=1": after})


def test_members_trained_without_other_images_are_in_no_table(tmp_path, cache):
    data = str(write_fer2013(tmp_path / "raw", train=140))
    dataset = prepare.load("fer2013", data_dir=data)
    clean = tmp_path / "clean.json"
    config = config_lib.overridden(tiny_config.get_config(), {"data.exclude": str(clean)})
    planned = sweep_members.members(config, [config_lib.seeds(2)])
    for left_out in ([0], [0, 1]):
        exclude = {"train": left_out, "validation": [], "test": []}
        clean.write_text(json.dumps({"dataset": "fer2013", "fingerprint": dataset.fingerprint, "exclude": exclude}))
        done = {"seed=0": {"fingerprint": dataset.without({"train": np.array([0])}).fingerprint}}
        with pytest.raises(UserError, match="one table") if left_out[1:] else contextlib.nullcontext():
            sweep_members.check(planned, data, done=done)


def test_a_plan_writes_nothing_into_the_directories_of_another_sweep(tmp_path):
    changed = config_lib.overridden(tiny_config.get_config(), {"optim.learning_rate": 0.5})
    planned, other = (
        sweep_members.members(config, [config_lib.seeds(2)]) for config in (tiny_config.get_config(), changed)
    )
    sweep_plan.unfinished(planned, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("config.json")}
    assert [path.parent.name for path in sorted(before)] == ["seed=0", "seed=1"]
    sweep_plan.unfinished(other, tmp_path, claim=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("config.json")} == before
    (tmp_path / "seed=1/results.json").write_text("{}")
    for claim in (True, False):
        with pytest.raises(
            UserError, match=r"seed=1 holds a run of another config:\n  optim\.learning_rate: 0\.05 -> 0"
        ):
            sweep_plan.unfinished(other, tmp_path, claim=claim)


def test_tables_say_how_many_failed_and_hold_no_nan(tmp_path):
    cells = [sweep_table.Cell("a_b", (0.5, 0.52), 1), sweep_table.Cell("c", (), 2, stopped=1)]
    text = sweep_table.write_tables(cells, "test", tmp_path)
    assert "| a_b | 2 (1 failed) | 51.00 ± 1.41 |" in text
    assert "| c | 0 (2 failed, 1 stopped) | none finished |  |" in text
    assert json.loads((tmp_path / "table.json").read_text())["rows"][1]["mean"] is None
    assert r"a\_b & 2 (1 failed)" in (tmp_path / "table.tex").read_text()
    assert (tmp_path / "table.csv").read_text().splitlines()[0].startswith("cell,n,mean,std")


def execute(workdir, data, cache, *extra):
    arguments = ["--config=tests/tiny_config.py", f"--data_dir={data}", f"--workdir={workdir}"]
    arguments += ["--config.train.epochs=1", "--config.train.batch_size=16", "--config.eval.batch_size=16", *extra]
    environment = os.environ | {"XLA_FLAGS": "", "FER_JAX_CACHE": str(cache)}
    command = [sys.executable, "-m", "fer_jax.sweep", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set=optim.learning_rat=0.1"], "unknown config field 'optim.learning_rat'. Did you mean"),
        (["--set=optim.learning_rate=fast,slow"], "optim.learning_rate = 'fast' must be of type float, as 0.05 is"),
        (["--set=optim.learning_rate="], "expected field=value,value"),
        (["--set=data.residence=device,stream"], "the same run, data.residence=device and data.residence=stream"),
        (["--set=optim.learning_rate=1e-3,0.001"], "two members of the sweep are alike"),
        (["--quick"], "tests/tiny_config.py has no quick()"),
        (["--set=model.name=shallow,shalow"], "unknown model 'shalow'"),
    ],
)
def test_wrong_sweeps_are_answered_in_a_line_and_leave_nothing(arguments, message, tmp_path):
    result = execute(tmp_path / "sweep", write_fer2013(tmp_path / "raw"), tmp_path / "cache", *arguments)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_runs_its_members_as_if_alone_survives_a_failure_and_goes_on(tmp_path):
    data, cache, workdir = write_fer2013(tmp_path / "raw"), tmp_path / "cache", tmp_path / "sweep"
    taught = ("--config.head.loss=soft", "--config.head.teachers=('mini_xception_fer2013',)")
    plan = execute(workdir, data, cache, "--set=optim.learning_rate=0.05,1e30", "--seeds=2", "--plan", *taught)
    assert plan.returncode == 0, plan.stderr
    assert "4 members to the end, 4 to train" in plan.stderr
    assert not list(workdir.rglob("metrics.jsonl"))
    first = execute(workdir, data, cache, "--set=optim.learning_rate=0.05,1e30", "--seeds=2", *taught)
    assert first.returncode == 0, first.stderr
    assert "2 at once" not in first.stderr  # a CPU trains them one after another
    assert "4 x optim.learning_rate=0.05 ...: one after another" in first.stderr
    assert "failed: optim.learning_rate=1e+30,seed=0: the loss became" in first.stderr
    assert "| optim.learning_rate=1e+30 | 0 (2 failed) | none finished |" in first.stdout
    assert "Scores may be too high: whether mini_xception_fer2013 was trained on held-out images" in first.stdout
    folder = workdir / "optim.learning_rate=0.05,seed=1"
    alone = subprocess.run(
        [
            *(sys.executable, "-m", "fer_jax.main", "--config=tests/tiny_config.py", f"--data_dir={data}"),
            *(f"--workdir={tmp_path / 'alone'}", "--config.train.epochs=1", "--config.train.batch_size=16"),
            *("--config.eval.batch_size=16", "--config.seed=1", *taught),
        ],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "FER_JAX_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stderr
    for name in ("metrics.jsonl", "weights.safetensors", "results.json"):
        assert (folder / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    with run_directory.occupied(workdir):
        refused = execute(workdir, data, cache, "--set=optim.learning_rate=0.05", "--seeds=3", *taught)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith(f"error: another process trains in {workdir}, or still")
    # Given again with one seed more: what is finished stays untouched.
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("*0.05*/*") if path.is_file()}
    again = execute(workdir, data, cache, "--set=optim.learning_rate=0.05", "--seeds=3", *taught)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "| optim.learning_rate=0.05 | 3 |" in again.stdout
