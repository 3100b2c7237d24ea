"""Sweeps: which members there are, tables against known statistics, and a sweep of tiny runs that is cut short."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import stats

from fer_jax import config as config_lib
from fer_jax import sweep, sweep_table
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import write_fer2013

ROOT = Path(__file__).parents[1]


def test_members_are_every_combination_in_order_with_a_name_each():
    axes = [config_lib.product(optim__learning_rate=(1e-3, 1e-2)), config_lib.seeds(2)]
    planned = sweep.members(tiny_config.get_config(), axes)
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
    assert sweep.members(tiny_config.get_config(), [[{}]])[0].name == "base"
    assert tiny_config.get_config().optim.learning_rate == 0.05  # the base is left as it was


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim.learning_rat": 0.1}, r"unknown config field 'optim.learning_rat'. Did you mean 'optim.learning_rate'"),
        ({"optim.learning_rate": "fast"}, r"optim\.learning_rate = 'fast'"),
        ({"augment.flip": 2.0}, r"augment\.flip = 2\.0 must lie in 0\.\.1"),
    ],
)
def test_wrong_overrides_are_refused_by_name(overrides, message):
    with pytest.raises(UserError, match=message):
        sweep.members(tiny_config.get_config(), [[overrides]])


def test_members_alike_are_refused():
    with pytest.raises(UserError, match="two members of the sweep are alike: seed=0"):
        sweep.members(tiny_config.get_config(), [[{"seed": 0}, {"seed": 0}]])


def test_a_sweep_without_members_is_refused():
    with pytest.raises(UserError, match="the sweep has no members"):
        sweep.members(tiny_config.get_config(), [[], config_lib.seeds(2)])


def test_successive_halving_multiplies_the_epochs_of_those_that_go_on():
    config = config_lib.overridden(tiny_config.get_config(), {"train.epochs": 27})
    planned = sweep.members(config, [config_lib.seeds(9)])
    assert sweep.stops(planned, 3) == [(3, 3), (9, 1), (None, 9)]
    assert sweep.stops(planned, 0) == [(None, 9)]
    assert sweep.stops(planned[:2], 3) == [(None, 2)]


def test_the_effect_of_each_factor_is_drawn(tmp_path):
    runs = [({"optim.learning_rate": rate, "seed": seed}, 0.5 + rate) for rate in (0.01, 0.1) for seed in (0, 1)]
    assert sweep_table.draw(runs, tmp_path) == ["effects.png"]
    searched = [(overrides | {"model.name": name}, score) for overrides, score in runs for name in ("deep", "shallow")]
    assert sweep_table.draw(searched, tmp_path) == ["effects.png", "parallel.png"]
    assert all(cv2.imread(str(tmp_path / name)).std() > 5 for name in ("effects.png", "parallel.png"))
    assert sweep_table.draw([({"seed": 0}, 0.5), ({"seed": 1}, 0.6)], tmp_path) == []
    # Fields that only some runs override: the others have what is in the config.
    assert sweep_table._factors([{"a": 1}, {"b": True}, {}]) == {"a": [1, None], "b": [None, True]}


def test_axes_are_read_from_the_command_line():
    assert sweep.read_axis("optim.learning_rate=1e-3,3e-3") == [
        {"optim.learning_rate": 1e-3},
        {"optim.learning_rate": 3e-3},
    ]
    assert sweep.read_axis("model.name=shallow,deep") == [{"model.name": "shallow"}, {"model.name": "deep"}]
    assert sweep.read_axis("model.options.global_pool=True") == [{"model.options.global_pool": True}]
    with pytest.raises(UserError, match="expected field=value,value"):
        sweep.read_axis("optim.learning_rate")


@pytest.mark.parametrize("name", ["cmu", "lviv", "stanford", "xu"])
def test_the_ablations_of_the_papers_are_valid(name):
    from fer_jax import models

    path = ROOT / "configs" / "ablations" / f"{name}.py"
    module = importlib.import_module(f"configs.ablations.{name}")
    assert f"--config=configs/ablations/{name}.py" in module.__doc__
    planned = sweep.members(module.get_config(), [sweep.declared(path), config_lib.seeds(3)])
    assert len({member.cell for member in planned}) == len(planned) / 3 >= 4
    for member in planned[::3]:
        models.create(member.config.model.name, num_outputs=7, **config_lib.model_options(member.config))


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


def test_tables_say_how_many_failed_and_hold_no_nan(tmp_path):
    cells = [sweep_table.Cell("a_b", (0.5, 0.52), 1), sweep_table.Cell("c", (), 2, stopped=1)]
    text = sweep_table.write_tables(cells, "test", tmp_path)
    assert "| a_b | 2 (1 failed) | 51.00 ± 1.41 |" in text
    assert "| c | 0 (2 failed, 1 stopped) | none finished | one run |" in text
    assert json.loads((tmp_path / "table.json").read_text())["rows"][1]["mean"] is None
    assert r"a\_b & 2 (1 failed)" in (tmp_path / "table.tex").read_text()
    assert (tmp_path / "table.csv").read_text().splitlines()[0].startswith("cell,n,mean,std")


def execute(workdir, data, cache, *extra):
    arguments = ["--config=tests/tiny_config.py", f"--data_dir={data}", f"--workdir={workdir}"]
    arguments += ["--config.train.epochs=1", "--config.train.batch_size=16", "--config.eval.batch_size=16", *extra]
    environment = os.environ | {"XLA_FLAGS": "", "FER_JAX_CACHE": str(cache)}
    command = [sys.executable, "-m", "fer_jax.sweep", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_sweep_runs_its_members_as_if_alone_survives_a_failure_and_goes_on(tmp_path):
    data, cache, workdir = write_fer2013(tmp_path / "raw"), tmp_path / "cache", tmp_path / "sweep"
    first = execute(workdir, data, cache, "--set=optim.learning_rate=0.05,1e30", "--seeds=2")
    assert first.returncode == 0, first.stderr
    assert "2 at once" not in first.stderr  # a CPU trains them one after another
    assert "4 x optim.learning_rate=0.05 ...: one after another" in first.stderr
    assert "failed: optim.learning_rate=1e+30,seed=0: the loss became" in first.stderr
    assert "| optim.learning_rate=1e+30 | 0 (2 failed) | none finished |" in first.stdout
    folder = workdir / "optim.learning_rate=0.05,seed=1"
    alone = subprocess.run(
        [
            *(sys.executable, "-m", "fer_jax.main", "--config=tests/tiny_config.py", f"--data_dir={data}"),
            *(f"--workdir={tmp_path / 'alone'}", "--config.train.epochs=1", "--config.train.batch_size=16"),
            *("--config.eval.batch_size=16", "--config.seed=1"),
        ],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "FER_JAX_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stderr
    for name in ("metrics.jsonl", "weights.safetensors", "results.json"):
        assert (folder / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    # Given again with one seed more: what is finished stays untouched.
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("*0.05*/*") if path.is_file()}
    again = execute(workdir, data, cache, "--set=optim.learning_rate=0.05", "--seeds=3")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "| optim.learning_rate=0.05 | 3 |" in again.stdout
