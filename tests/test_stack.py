"""Stacked members: each takes the steps that it would take alone, whatever its neighbours do."""

import dataclasses
import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import config as config_lib
from fer_jax import (
    files,
    ops,
    recognizer,
    run,
    run_directory,
    sharding,
    stack,
    stack_cost,
    sweep,
    sweep_members,
    sweep_plan,
    train,
)
from fer_jax.course import Course, fresh_state
from fer_jax.data import pipeline
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import write_fer2013


def small_config(**overrides):
    """A BatchNorm + dropout net with a moving average, on plain SGD, logged at every step; eight steps an epoch."""
    config = config_lib.ConfigDict(tiny_config.get_config().to_dict())
    config.data.residence = "device"
    config.model.options.dropout = 0.5
    config.optim.update({"learning_rate": 5e-3, "momentum": 0.0, "nesterov": False})
    config.train.update({"epochs": 7, "batch_size": 16, "log_every": 1})
    config.eval.batch_size = 16
    config.update_from_flattened_dict(overrides)
    return config.lock()


NUMBERS = [
    {"seed": 0},
    {"seed": 1, "optim.learning_rate": 2e-3, "model.options.dropout": 0.2},
    {"seed": 1, "optim.weight_decay": 1e-3, "head.label_smoothing": 0.1, "train.ema_decay": 0.5},
    {"seed": 2, "augment.flip": 0.1, "augment.shift": 0.2},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_CACHE", str(folder / "cache"))
        yield str(write_fer2013(folder / "raw", train=128))


@pytest.fixture(scope="module")
def experiment(data):
    return run.build(small_config(), data)


def open_courses(experiment, folder, overrides):
    courses = []
    for number, each in enumerate(overrides):
        config = config_lib.overridden(small_config(), each)
        run_directory.claim_workdir(folder / str(number), config)
        courses.append(Course(experiment.sibling(config), folder / str(number)))
    return courses


def losses(folder, split="train"):
    return np.array([row["loss"] for row in files.read_rows(folder / "metrics.jsonl") if row["split"] == split])


@pytest.fixture(scope="module")
def alone(experiment, tmp_path_factory):
    """The members of NUMBERS, each run by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for number, each in enumerate(NUMBERS):
        config = config_lib.overridden(small_config(), each)
        run_directory.claim_workdir(folder / str(number), config)
        _, course = run.fit(experiment.sibling(config), folder / str(number), started=time.perf_counter())
        if number == 1:
            run.complete(course.experiment, course.workdir, started=time.perf_counter())
    return folder


def test_a_member_takes_the_steps_that_it_would_take_alone(experiment, alone, tmp_path):
    assert experiment.mesh.size == 8  # four members on two devices each
    courses = open_courses(experiment, tmp_path, NUMBERS)
    assert stack.fit(courses, "grouped", started=0.0) == {}
    for number in range(len(courses)):
        expected = losses(alone / str(number))
        assert len(expected) == 56
        np.testing.assert_allclose(losses(tmp_path / str(number)), expected, atol=1e-5)
        np.testing.assert_allclose(
            losses(tmp_path / str(number), "validation"), losses(alone / str(number), "validation"), atol=1e-5
        )
    first, other = losses(tmp_path / "0"), losses(tmp_path / "1")
    assert np.abs(first - other).max() > 0.01  # they do differ
    # The run directory of a member is finished as any other.
    results = run.complete(courses[1].experiment, tmp_path / "1", started=0.0)
    reference = json.loads((alone / "1" / "results.json").read_text())
    assert results["step"] == reference["step"]
    assert results["metrics"]["loss"] == pytest.approx(reference["metrics"]["loss"], abs=1e-5)


def test_where_an_epoch_is_several_programs_the_rows_are_those_of_a_run_alone(experiment, tmp_path, monkeypatch):
    members = [each | {"train.log_every": 3} for each in NUMBERS[:2]]
    config = config_lib.overridden(small_config(), members[0])
    run_directory.claim_workdir(tmp_path / "alone", config)
    run.fit(experiment.sibling(config), tmp_path / "alone", started=0.0, until=8)
    monkeypatch.setattr(stack.sharding, "on_cpu", lambda mesh: False)
    monkeypatch.setattr(stack.train, "most_steps", lambda recipe, images: 4)
    stack.fit(open_courses(experiment, tmp_path, members), "grouped", started=0.0, until=8)
    alone, stacked = (files.read_rows(tmp_path / name / "metrics.jsonl") for name in ("alone", "0"))
    assert [row["step"] for row in stacked if row["split"] == "train"] == [3, 6, 8]
    assert [row["step"] for row in alone] == [row["step"] for row in stacked]
    np.testing.assert_allclose([row["loss"] for row in stacked], [row["loss"] for row in alone], rtol=1e-4)


def test_the_best_state_of_a_member_waits_for_its_checkpoint():
    saved = {}

    class Member:
        window = train.Window([], 0)

        def __init__(self, number):
            self.number = number

        def judge(self, better):
            return better

        def save(self, state, best):
            saved[self.number] = best if best is None else float(best)

    crew = stack._Crew([Member(0), Member(1)], SimpleNamespace(member=lambda tree, number: tree[number]), jnp.zeros(2))
    crew.judge([True, True], jnp.ones(2))
    crew.judge([False, True], 2 * jnp.ones(2))
    crew.save(3 * jnp.ones(2))
    assert saved == {0: 1, 1: 2}
    crew.save(4 * jnp.ones(2))
    assert saved == {0: None, 1: None}


def test_a_run_whose_selected_weights_are_gone_reports_no_others(experiment, alone, tmp_path):
    shutil.copytree(alone / "0", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/best")
    with pytest.raises(UserError, match=r"checkpoints/best is gone, and with it the weights to report: delete .*run"):
        run.complete(experiment, tmp_path / "run", started=0.0)


@pytest.mark.slow
def test_by_columns_it_takes_the_same_steps(experiment, alone, tmp_path):
    stack.fit(open_courses(experiment, tmp_path, NUMBERS), "columns", started=0.0, until=16)
    for number in range(4):
        np.testing.assert_allclose(losses(tmp_path / str(number)), losses(alone / str(number))[:16], atol=1e-5)


@pytest.mark.slow
def test_a_stack_that_is_cut_short_goes_on_in_the_same_bits(experiment, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stack.fit(open_courses(experiment, whole, NUMBERS[:2]), "grouped", started=0.0, until=16)
    stack.fit(open_courses(experiment, parts, NUMBERS[:2]), "grouped", started=0.0, until=8)
    again = open_courses(experiment, parts, NUMBERS[:2])
    assert [course.step for course in again] == [8, 8]
    stack.fit(again, "grouped", started=0.0, until=16)
    for number in "01":
        assert (parts / number / "metrics.jsonl").read_bytes() == (whole / number / "metrics.jsonl").read_bytes()
        paths = [folder / number / "checkpoints/last" for folder in (whole, parts)]
        assert all((path / "16").is_dir() for path in paths)


def test_a_member_that_diverges_stops_and_its_neighbours_go_on(experiment, alone, tmp_path):
    courses = open_courses(experiment, tmp_path, [{"optim.learning_rate": 1e30}, NUMBERS[0]])
    failed = stack.fit(courses, "grouped", started=0.0, until=16)
    assert list(failed) == [0]
    assert "the loss became" in failed[0]
    np.testing.assert_allclose(losses(tmp_path / "1"), losses(alone / "0")[:16], atol=1e-5)
    assert Course(courses[1].experiment, tmp_path / "1").step == 16


def test_weights_of_some_epochs_are_kept_as_alone(data, tmp_path):
    config = small_config(**{"train.keep_every": 2, "train.epochs": 4})
    experiment = run.build(config, data)
    run.fit(experiment, tmp_path / "alone", started=0.0, until=16)
    other = experiment.sibling(config_lib.overridden(config, {"seed": 1}))
    courses = [Course(of, tmp_path / name) for of, name in ((other, "other"), (experiment, "same"))]
    stack.fit(courses, "grouped", started=0.0, until=16)
    kept = {name: list((tmp_path / name / "weights").iterdir()) for name in ("alone", "other", "same")}
    assert all([path.name for path in paths] == ["epoch-0002.safetensors"] for paths in kept.values())
    alone, other, same = (recognizer.load(paths[0]).variables["params"]["Conv_0"]["kernel"] for paths in kept.values())
    np.testing.assert_allclose(same, alone, atol=1e-4)
    assert np.abs(other - alone).max() > 0.1


def test_interrupted_it_saves_every_member(experiment, tmp_path, monkeypatch):
    from fer_jax import train

    class Immediately(train.Interruption):
        signum = property(lambda self: 15, lambda self, value: None)

    monkeypatch.setattr(train, "Interruption", Immediately)
    with pytest.raises(train.Interrupted):
        stack.fit(open_courses(experiment, tmp_path, NUMBERS[:2]), "grouped", started=0.0)
    courses = open_courses(experiment, tmp_path, NUMBERS[:2])
    assert [course.step for course in courses] == [1, 1]
    for each in courses:
        fresh, _ = fresh_state(each.experiment)  # of its own seed
        saved, begun = (state.params["Conv_0"]["kernel"] for state in (each.start, fresh))
        np.testing.assert_allclose(saved, begun, atol=0.05)
        assert np.std(begun) > 0.1


@pytest.mark.parametrize("stacked", [False, True])
def test_told_to_stop_at_the_last_step_it_saves_and_says_so(experiment, tmp_path, monkeypatch, stacked):
    """Or a sweep would go on with the next member."""

    judge = Course.judge

    def judge_and_be_told(self, summary):
        os.kill(os.getpid(), signal.SIGTERM)
        return judge(self, summary)

    monkeypatch.setattr(Course, "judge", judge_and_be_told)
    with pytest.raises(train.Interrupted, match="SIGTERM at step 8: saved"):
        if stacked:
            stack.fit(open_courses(experiment, tmp_path, NUMBERS[:2]), "grouped", started=0.0, until=8)
        else:
            run.fit(experiment, tmp_path / "0", started=0.0, until=8)
    assert Course(experiment, tmp_path / "0").step == 8


def test_a_member_whose_checkpoints_are_damaged_fails_and_the_others_go_on_from_where_they_stand(data, tmp_path):
    base = small_config(**{"train.epochs": 2})
    planned = sweep_members.members(base, [config_lib.seeds(4)])
    (group,) = sweep_plan.plan(planned[:2], tmp_path, form="grouped", data_dir=data, epochs=1)
    assert sweep.run_group(group, tmp_path, data_dir=data, epochs=1) == {}
    (group,) = sweep_plan.plan(planned[2:3], tmp_path, form="sequential", data_dir=data)
    assert sweep.run_group(group, tmp_path, data_dir=data) == {}
    (tmp_path / planned[2].name / "results.json").unlink()  # trained to the end, and killed before it was evaluated
    for path in (tmp_path / planned[0].name / "checkpoints/last/8/state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    outcomes = sweep.run_members(planned, tmp_path, form="grouped", data_dir=data)
    assert [type(outcomes[member.name]) for member in planned] == [sweep.Failed, dict, dict, dict]
    assert "no checkpoint in" in outcomes[planned[0].name].reason
    assert [len(losses(tmp_path / member.name)) for member in planned] == [8, 16, 16, 16]


def test_what_is_a_number_does_not_change_the_structure():
    base = stack.structure(small_config())
    for same in NUMBERS:
        assert stack.structure(small_config(**same)) == base
    different = [{"model.name": "deep"}, {"model.options.dropout": 0.0}, {"augment.flip": 0.0}, {"train.epochs": 3}]
    different += [{"augment.rotate": 3.0}, {"train.ema_decay": 0.0}, {"optim.name": "adam"}, {"data.exclude": "x"}]
    for other in different:
        assert stack.structure(small_config(**other)) != base, other


def test_what_does_not_change_the_structure_is_a_number_of_the_step():
    base = {"head.class_weights": "inverse", "train.ema_decay": 0.9, "optim.learning_rate": 0.1}
    known = config_lib.flatten(small_config().to_dict())
    for name in {*stack.NUMBERS, *stack.SWITCHED} & {*known} - {"seed"}:
        one, other = (small_config(**base | changed) for changed in ({}, {name: 0.25}))
        numbers = [str(train.hyperparameters(config, (3, 1, 4, 1, 5, 9, 2))) for config in (one, other)]
        assert numbers[0] != numbers[1], name


def test_the_fastest_form_is_found_by_measuring(experiment):
    costs = stack_cost.measure(experiment, 3, stack_cost.FORMS)
    assert sorted(cost.form for cost in costs) == sorted(stack_cost.FORMS)
    assert [cost.seconds for cost in costs] == sorted(cost.seconds for cost in costs)
    assert {cost.form: cost.at_once for cost in costs} == {"sequential": 1, "grouped": 3, "columns": 3}
    assert stack_cost.choose(experiment, 3).form == "sequential"  # on a CPU
    with pytest.raises(UserError, match=r"unknown form of a stack 'group'\. Did you mean 'grouped'"):
        stack_cost.choose(experiment, 3, "group")


def test_on_accelerators_every_form_is_measured(experiment, monkeypatch):
    measured = []
    monkeypatch.setattr(stack_cost, "measure", lambda _, members, forms: measured.append((members, forms)) or [None])
    monkeypatch.setattr(stack_cost.sharding, "on_cpu", lambda mesh: False)
    stack_cost.choose(experiment, 3)
    stack_cost.choose(experiment, 1)
    stack_cost.choose(experiment, 3, "columns")
    assert measured == [(3, stack_cost.FORMS), (1, (stack_cost.SEQUENTIAL,)), (3, ("columns",))]


def test_a_stack_larger_than_the_memory_is_split(experiment, monkeypatch):
    monkeypatch.setattr(stack_cost, "_bytes", lambda experiment: (100, 10))
    monkeypatch.setattr(stack_cost, "device_memory", lambda device: room / stack_cost.MEMORY_SHARE)
    for devices, room, members, most in (
        (1, 250, 5, 2),
        (1, 0, 5, 1),
        (8, 180, 8, 8),  # a member a device, with its whole batch of eight times a device's share
        (8, 179, 8, 4),  # two devices a member
        (8, 180, 7, 2),  # seven or three can't be dealt out: all would be on each device
    ):
        mesh = sharding.make_mesh(jax.devices()[:devices])
        assert stack_cost.most_members(dataclasses.replace(experiment, mesh=mesh), members) == most, (devices, room)


def test_a_stack_that_meets_the_end_of_the_memory_is_halved(experiment, monkeypatch):
    def time_stack(experiment, members, form):
        if members > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return [0.5] * members

    monkeypatch.setattr(stack_cost, "_time_stack", time_stack)
    (cost,) = stack_cost.measure(experiment, 9, ("columns",))
    assert (cost.at_once, cost.seconds) == (2, 0.5 * 9 / 2)


def test_a_form_that_the_memory_does_not_hold_is_left_out(experiment, monkeypatch):
    def time_stack(experiment, members, form):
        if form == "columns":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return [0.5] * members

    monkeypatch.setattr(stack_cost, "_time_stack", time_stack)
    monkeypatch.setattr(stack_cost, "_time_alone", lambda experiment: [0.25])
    costs = stack_cost.measure(experiment, 4, stack_cost.FORMS)
    assert [(cost.form, cost.at_once, cost.seconds) for cost in costs] == [("grouped", 4, 0.5), ("sequential", 1, 1.0)]
    with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory"):
        stack_cost.measure(experiment, 4, ("columns",))


def test_members_that_the_memory_does_not_hold_are_planned_and_fail_alone(experiment, data, tmp_path, monkeypatch):
    planned = sweep_members.members(experiment.config, [[{"train.batch_size": 16}, {"train.batch_size": 32}]])
    build, training_steps = run.build, train.training_steps

    def end_of_memory(*arguments, **others):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.\nmore")

    def steps(state, split, order, *arguments, **others):
        return (end_of_memory if order.batch_size == 32 else training_steps)(state, split, order, *arguments, **others)

    monkeypatch.setattr(train, "training_steps", steps)
    monkeypatch.setattr(run, "build", lambda config, data_dir: build(config, data))
    monkeypatch.setattr(stack_cost, "bytes_a_member", lambda experiment: 1_000_000)
    monkeypatch.setattr(stack_cost, "_MEASURED_STEPS", 1)
    small, large = sweep_plan.plan(planned, tmp_path)
    assert "1 MB a member" in small.describe()
    assert (
        large.describe()
        == "1 x train.batch_size=32: more than the device's memory holds, as it seems; tried at its turn"
    )
    failed = sweep.run_group(large, tmp_path)
    assert failed["train.batch_size=32"].reason.startswith(
        "the device's memory does not hold the network, its data and"
    )
    assert "(RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.)" in failed["train.batch_size=32"].reason


def test_a_plan_takes_a_few_steps_however_long_an_epoch_is(experiment, monkeypatch):
    """As on accelerators, where an epoch is one program."""
    taken = []

    def compile_epoch(recipe, mesh):
        def program(state, arrays, order, key, hyper):
            taken.append(len(order))
            return state, {"loss": np.zeros(len(order))}

        return program

    monkeypatch.setattr(train, "compile_epoch", compile_epoch)
    monkeypatch.setattr(sharding, "on_cpu", lambda mesh: False)
    order = pipeline.TrainOrder(length=100_000, batch_size=16, seed=0)
    stack_cost.measure(dataclasses.replace(experiment, order=order), 1, ("sequential",))
    assert max(taken) <= stack_cost._MEASURED_STEPS
    assert len(taken) == 4


def test_a_stack_compiles_a_program_for_each_size_of_images(data, monkeypatch):
    stages = {"train.smaller_first": ((1, 24),), "model.options.global_pool": True, "data.normalization": "unit"}
    experiment = run.build(small_config(**stages), data)
    compiled = []
    monkeypatch.setattr(stack, "compile_steps", lambda recipe, *_: lambda *_: compiled.append(recipe.input_shape))
    members = stack.Stack(experiment, [experiment.config] * 2, "grouped")
    for step in (0, 7, 8):
        members.take(None, None, step, 1)
    assert compiled == [(24, 24, 1), (24, 24, 1), (48, 48, 1)]
    assert stack.structure(experiment.config) != stack.structure(small_config(**stages | {"train.smaller_first": ()}))


def test_streamed_data_cannot_be_stacked(data, tmp_path):
    streamed = run.build(small_config(**{"data.residence": "stream"}), data)
    with pytest.raises(UserError, match=r"data\.residence=device"):
        stack.Stack(streamed, [streamed.config] * 2, "grouped")
    assert stack_cost.choose(streamed, 2).form == "sequential"


def test_successive_halving_stops_most_members_early(data, tmp_path):
    base = small_config(**{"train.epochs": 2})
    planned = sweep_members.members(base, [config_lib.product(optim__learning_rate=(1e-9, 5e-3)), config_lib.seeds(1)])
    assert sweep_plan.stops(planned, 2) == [(1, 1), (None, 2)]
    outcomes = sweep.run_members(planned, tmp_path, form="grouped", halving=2, data_dir=data)
    finished = [name for name, outcome in outcomes.items() if isinstance(outcome, dict)]
    stopped = [outcome for outcome in outcomes.values() if isinstance(outcome, sweep.Stopped)]
    assert len(finished) == 1
    assert [outcome.epoch for outcome in stopped] == [1]
    steps = {name: len(losses(tmp_path / name)) for name in outcomes}
    assert sorted(steps.values()) == [8, 16]
    assert steps[finished[0]] == 16
    again = sweep.run_members(planned, tmp_path, form="grouped", halving=2, data_dir=data)
    assert again == outcomes  # the same are stopped, and nothing is trained anew
    ended = sweep.run_members(planned, tmp_path, form="sequential", data_dir=data)
    assert {type(outcome) for outcome in ended.values()} == {dict}
    assert sweep.run_members(planned, tmp_path, form="sequential", halving=2, data_dir=data) == ended
    with pytest.raises(UserError, match=r"train\.epochs must not differ"):
        sweep_plan.stops(sweep_members.members(base, [config_lib.product(train__epochs=(2, 4))]), 2)


def test_halving_compares_cells_and_not_their_luckiest_seeds(data, tmp_path, monkeypatch):
    """And --plan leaves no directories."""
    base = small_config(**{"train.epochs": 2})
    planned = sweep_members.members(base, [config_lib.product(optim__learning_rate=(1e-3, 5e-3)), config_lib.seeds(2)])
    assert sweep.run_members(planned, tmp_path, form="sequential", halving=2, data_dir=data, only_plan=True) == {}
    assert not list(tmp_path.iterdir())
    scores = dict(zip([member.name for member in planned], (0.9, 0.1, 0.6, 0.5), strict=True))
    monkeypatch.setattr(sweep, "best_until", lambda folder, *_: scores[folder.name])
    outcomes = sweep.run_members(planned, tmp_path, form="sequential", halving=2, data_dir=data)
    assert [type(outcomes[member.name]) for member in planned] == [sweep.Stopped] * 2 + [dict] * 2
    # One of whose seeds failed has no mean to compare, however good the others are.
    scores = dict.fromkeys(scores, 0.5) | {planned[1].name: 0.9}
    monkeypatch.setattr(sweep, "run_group", lambda *_, **__: {planned[0].name: sweep.Failed("diverged")})
    outcomes = sweep.run_members(planned, tmp_path, form="sequential", halving=2, data_dir=data)
    assert isinstance(outcomes[planned[1].name], sweep.Stopped)


@pytest.mark.parametrize(("size", "strides", "padding"), [(1, 2, "SAME"), (3, 1, "VALID"), (5, 2, "SAME")])
def test_convolutions_by_columns_are_convolutions(size, strides, padding):
    x = jax.random.normal(jax.random.key(0), (4, 2, 9, 10, 3))
    kernel = jax.random.normal(jax.random.key(1), (4, size, size, 3, 5))

    def convolve(form):
        def loss(x, kernel):
            with ops.convolutions(form):
                y = jax.vmap(lambda x, k: ops.conv(x, k, (strides, strides), padding, **_DIMENSIONS))(x, kernel)
            return (jnp.sin(y)).sum(), y

        gradients, y = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)
        return y, *gradients

    for ours, theirs in zip(convolve("columns"), convolve("grouped"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


_DIMENSIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
