"""Checkpoints: round trips, a damaged one is passed over, weights carry their meaning."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fer_jax import checkpoint, sharding, train
from fer_jax.errors import UserError


def state_at(step, value):
    return train.TrainState(
        step=jnp.int32(step),
        params={"layer": {"kernel": jnp.full((4, 4), value), "bias": jnp.zeros(4)}},
        batch_stats={},
        normalizer={"mean": jnp.zeros(1), "scale": jnp.ones(1)},
        opt_state=({"trace": jnp.full((4,), value)},),
        ema=None,
    )


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the steps 5, 10 and 15, of which the newest two are kept."""
    checkpoints = checkpoint.Checkpoints(tmp_path / "last")
    for step in (5, 10, 15):
        checkpoints.save(state_at(step, float(step)), {"best_score": step / 100})
    return tmp_path / "last"


def reopen(folder):
    mesh = sharding.make_mesh()
    return checkpoint.Checkpoints(folder).restore(sharding.replicate(state_at(0, 0.0), mesh))


def test_the_newest_is_restored_with_its_meta_on_the_devices_of_the_target(folder):
    state, meta = reopen(folder)
    assert int(state.step) == 15
    np.testing.assert_array_equal(state.params["layer"]["kernel"], np.full((4, 4), 15.0))
    np.testing.assert_array_equal(state.opt_state[0]["trace"], np.full(4, 15.0))
    assert meta == {"best_score": 0.15}
    assert len(state.step.sharding.device_set) == 8
    assert sorted(path.name for path in folder.iterdir()) == ["10", "15"]


def test_those_of_later_steps_than_a_run_goes_on_from_are_dropped(folder):
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.drop_after(10)
    state, _ = reopen(folder)
    assert int(state.step) == 10
    assert [path.name for path in folder.iterdir()] == ["10"]


def test_an_empty_folder_restores_nothing(tmp_path):
    assert reopen(tmp_path / "none") is None


def damage(step_folder):
    files = [path for path in step_folder.rglob("*") if path.is_file() and path.stat().st_size > 20]
    payload = max(
        (path for path in files if "/d/" in str(path) or "state" in str(path)), key=lambda p: p.stat().st_size
    )
    payload.write_bytes(payload.read_bytes()[: payload.stat().st_size // 2])


def test_a_checkpoint_cut_short_is_never_restored_but_its_predecessor(folder, caplog):
    damage(folder / "15")
    state, meta = reopen(folder)
    assert int(state.step) == 10
    assert meta == {"best_score": 0.1}
    assert "15 is damaged" in caplog.text
    assert [path.name for path in folder.iterdir()] == ["10"]  # else it would count as one of the two that are kept


def test_every_file_of_a_checkpoint_may_be_the_one_cut_short(folder):
    """Whatever single file is truncated or lost, what is restored is one of the two states, whole."""
    names = [path.relative_to(folder) for path in (folder / "15").rglob("*") if path.is_file()]
    contents = {name: (folder / name).read_bytes() for name in names}
    for broken in names:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        (folder / broken).write_bytes(contents[broken][: len(contents[broken]) // 2])
        state, meta = reopen(folder)
        step = int(state.step)
        assert step in (10, 15), broken
        np.testing.assert_array_equal(state.params["layer"]["kernel"], np.full((4, 4), float(step)))
        assert meta == {"best_score": step / 100}


def test_leftovers_of_a_killed_save_are_ignored(folder):
    (folder / "20.orbax-checkpoint-tmp-1").mkdir()
    assert int(reopen(folder)[0].step) == 15


def test_where_none_can_be_read_nothing_is_deleted(folder):
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    damage(folder / "10")
    damage(folder / "15")
    with pytest.raises(UserError, match=r"(?s)no checkpoint in .* can be read; they are left as they are.*15: .*10: "):
        reopen(folder)
    for path, content in whole.items():
        path.write_bytes(content)
    assert int(reopen(folder)[0].step) == 15


def test_the_checkpoints_of_another_network_are_kept(folder):
    other = state_at(0, 0.0).replace(params={"layer": {"kernel": jnp.zeros((4, 5)), "bias": jnp.zeros(5)}})
    checkpoints = checkpoint.Checkpoints(folder)
    with pytest.raises(UserError, match="they are left as they are"):
        checkpoints.restore(sharding.replicate(other, sharding.make_mesh()))
    assert checkpoints.meta() == {"best_score": 0.15}
    assert int(reopen(folder)[0].step) == 15


def test_saving_a_step_again_replaces_it(folder):
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.save(state_at(15, -1.0), {"best_score": 0})
    np.testing.assert_array_equal(reopen(folder)[0].params["layer"]["kernel"], np.full((4, 4), -1.0))


def test_weights_round_trip_with_names_and_metadata(tmp_path):
    variables = state_at(3, 2.5).variables
    variables["params"]["turned"] = np.arange(6.0).reshape(2, 3).T  # not as it lies in memory
    metadata = {"emotions": ["happy", "neutral"], "input_shape": [48, 48, 1]}
    checkpoint.save_weights(tmp_path / "weights.safetensors", variables, metadata)
    loaded, read = checkpoint.load_weights(tmp_path / "weights.safetensors")
    assert read == metadata
    for part in ("params", "normalizer"):
        jax.tree.map(np.testing.assert_array_equal, loaded[part], variables[part])
    (tmp_path / "any").touch()
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_full_disk_leaves_the_checkpoints_before_as_they_are(folder, monkeypatch):
    checkpoints = checkpoint.Checkpoints(folder)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 100))
    with pytest.raises(OSError, match=r"No space left on device: .*last"):
        checkpoints.save(state_at(20, 0.0), {})
    assert int(reopen(folder)[0].step) == 15


def test_a_new_output_layer_stays_and_all_that_does_not_fit_is_listed():
    ours = {"params": {"conv": {"kernel": jnp.zeros((3, 3))}, "out": {"kernel": jnp.zeros((3, 7))}}, "batch_stats": {}}
    weights = {"params": {"conv": {"kernel": np.ones((3, 3))}, "out": {"kernel": np.ones((3, 9))}}, "normalizer": {}}
    grafted = checkpoint.graft(ours, weights, frozenset({"params/out/kernel"}))
    assert grafted["params"]["conv"]["kernel"].sum() == 9
    assert grafted["params"]["out"]["kernel"].shape == (3, 7)
    weights["params"]["more"] = {"bias": np.zeros(2)}
    with pytest.raises(UserError) as error:
        checkpoint.graft(ours, weights, frozenset())
    assert "params/out/kernel has shape (3, 9) instead of (3, 7)" in str(error.value)
    assert "params/more/bias is left over" in str(error.value)


def test_what_is_no_weights_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="there are no weights at"):
        checkpoint.load_weights(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"is not a weights file of fer_jax; see fer_jax\.convert"):
        checkpoint.load_weights(tmp_path / "bad.safetensors")
    save_file({"x": np.zeros(1)}, tmp_path / "odd.safetensors", metadata={"fer_jax": "no JSON"})
    with pytest.raises(UserError, match=r"is not a weights file of fer_jax"):
        checkpoint.load_weights(tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=r"\.safetensors cannot be read: File name too long"):
        checkpoint.load_weights(tmp_path / f"{'x' * 300}.safetensors")
