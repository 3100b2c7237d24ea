"""Checkpoints: save and restore the state with its place in the data; weights for people as safetensors.

A run keeps `checkpoints/last` (the newest two, so that a damaged one has a predecessor) and `checkpoints/best` (by the
validation score; the newest two, for a run that goes on from before the best, see course.py). A checkpoint holds the
TrainState - whose step is the position in the data, since the order is a function of (seed, epoch) - and a JSON `meta`.
Orbax writes to a temporary folder and renames it: a save cut short never appears, and one damaged later fails to
restore and is passed over. It is deleted only once an older one was restored: what cannot be read may be whole, and the
reason lie elsewhere.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from fer_jax import files, sharding
from fer_jax.errors import UserError

log = logging.getLogger(__name__)

PRETRAINED = Path(__file__).parent / "pretrained"  # NAME.safetensors and NAME.md, its model card
# Checkpoints of a kind: the newest, and one to go back to should that be damaged. A run killed after its best was
# written, and before its last, goes on from an earlier step, for which the best before is the best.
KEPT = 2
SHOWN = 6  # variables in a message
DISK_RESERVE = 1_000_000  # bytes that a checkpoint's own bookkeeping may need


class Checkpoints:
    """One folder of checkpoints, `<directory>/<step>`, of which the newest KEPT stay."""

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, create=True, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self.directory = Path(directory)
        self._manager = ocp.CheckpointManager(self.directory.absolute(), options=options)

    def save(self, state, meta: dict) -> None:
        """Writes the state at its own step, replacing what a killed run left there.

        Raises:
          OSError: no space (ENOSPC); nothing of the new checkpoint appears, those before it stay.
        """
        # Looked at before, since Orbax meets a full disk in a dozen coroutines that each complain.
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if shutil.disk_usage(self.directory).free < needed + DISK_RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory))
        step = int(state.step)
        if step in self._manager.all_steps():
            self._delete(step)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        try:
            self._manager.save(step, args=args, force=True)
            self._manager.wait_until_finished()
        except ValueError as error:
            if "RESOURCE_EXHAUSTED" in str(error):  # what tensorstore makes of a full disk or quota
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.directory)) from error
            raise

    def restore(self, like, *, step: int | None = None) -> tuple[object, dict] | None:
        """The newest checkpoint that can be read, as (state, meta); None when there is none.

        Args:
          like: a state whose arrays give shapes, types and shardings.
          step: that of this step and no other.

        Raises:
          UserError: there are checkpoints, and none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        found = self._newest(step, state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
        if found is None:
            return None
        restored, newer = found
        for step, reason in newer.items():
            log.warning("checkpoint %s is damaged and passed over: %s", self.directory / str(step), reason)
            self._delete(step)
        return restored.state, restored.meta

    def meta(self) -> dict | None:
        """What was saved with the newest checkpoint, whatever its state looks like; raises as `restore` does."""
        found = self._newest(None, meta=ocp.args.JsonRestore())
        return found and found[0].meta

    def _newest(self, only: int | None, **items) -> tuple[ocp.args.Composite, dict[int, str]] | None:
        """These items of the newest checkpoint of which they can be read, and why they could not of newer ones."""
        reasons: dict[int, str] = {}
        steps = (step for step in self._manager.all_steps() if only in (None, step))
        for step in sorted(steps, reverse=True):
            restored, reason = None, ""
            try:
                restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            except Exception as error:  # Orbax and tensorstore raise whatever the damage made them
                reason = str(error).strip()[:500] or type(error).__name__
            if not sharding.any_process(restored is None):
                return restored, reasons
            reasons[step] = reason or "another process cannot read it"
        if reasons:
            listed = "".join(f"\n  {step}: {reason}" for step, reason in reasons.items())
            raise UserError(
                f"no checkpoint in {self.directory} can be read; they are left as they are. If they are damaged, "
                f"delete the run to start anew:{listed}"
            )
        return None

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps: of a run that was killed, and now goes on from this one."""
        for later in [each for each in self._manager.all_steps() if each > step]:
            self._delete(later)

    def _delete(self, step: int) -> None:
        if jax.process_index() == 0:
            shutil.rmtree(self.directory / str(step))
        sharding.wait_for_all("a checkpoint is deleted")
        self._manager.reload()


def digest_of_weights(name: Path | str) -> str:
    """16 hexadecimal digits of the bytes of a weights file, `name` as `load_weights` takes it.

    Raises:
      FileNotFoundError: there is none.
    """
    return hashlib.sha256(weights_file(name).read_bytes()).hexdigest()[:16]


def save_weights(path: Path, variables: dict, metadata: dict) -> None:
    """Writes variables as safetensors, names joined by '/', with JSON metadata (emotions, input shape, ...).

    The metadata are one entry, `fer_jax`, since safetensors keeps several in no fixed order, and the same weights
    should be the same bytes.
    """
    # In C order: safetensors 0.8 writes an array's memory as it lies, whatever its strides.
    flat = {
        name: np.asarray(value, order="C") for name, value in traverse_util.flatten_dict(variables, sep="/").items()
    }
    with files.whole(path) as temporary:
        # Not by `save_file`, whose files only their owner may read (safetensors 0.8).
        temporary.write_bytes(save(flat, metadata={"fer_jax": json.dumps(metadata)}))


def graft(variables: dict, weights: dict, output: frozenset[str] = frozenset()) -> dict:
    """The weights in the place of the variables of the same names.

    Args:
      variables: of a model as it is initialised, {'params', 'batch_stats'}.
      weights: as `load_weights` gives them; other collections are left out.
      output: the names (joined by '/') of the output layer, which stay as they are initialised.

    Raises:
      UserError: lists variables that the weights lack or have in another shape, and those left over.
    """
    ours = traverse_util.flatten_dict(variables, sep="/")
    theirs = traverse_util.flatten_dict({name: weights.get(name, {}) for name in variables}, sep="/")
    wrong = [f"{name} is missing" for name in ours if name not in theirs and name not in output]
    wrong += [f"{name} is left over" for name in theirs if name not in ours]
    for name, value in ours.items():
        if name in theirs and name not in output and theirs[name].shape != value.shape:
            wrong.append(f"{name} has shape {theirs[name].shape} instead of {value.shape}")
    if wrong:
        more = [f"and {len(wrong) - SHOWN:,} more"] if len(wrong) > SHOWN else []
        raise UserError("the weights are those of another model:\n  " + "\n  ".join([*wrong[:SHOWN], *more]))
    grafted = {name: value if name in output else theirs[name] for name, value in ours.items()}
    empty = {name: {} for name in variables}  # stay, as `batch_stats` of a network without BatchNorm
    return empty | traverse_util.unflatten_dict(grafted, sep="/")


def weights_file(source: Path | str) -> Path:
    """The file that `load_weights` reads, whether it is there or not."""
    path = files.user_path(source)
    path = path / "weights.safetensors" if path.is_dir() else path
    packaged = PRETRAINED / f"{source}.safetensors"
    return packaged if packaged.exists() and not path.exists() else path


def load_weights(source: Path | str) -> tuple[dict, dict]:
    """The (variables, metadata) that `save_weights` wrote.

    Args:
      source: a weights file, a run directory, or the name of weights that come with the package.

    Raises:
      UserError: there is no such file, or it is not one of ours.
    """
    path = Path(source)
    try:
        path = weights_file(source)
        with safe_open(path, "numpy") as file:
            metadata = json.loads(file.metadata()["fer_jax"])
        return traverse_util.unflatten_dict(load_file(path), sep="/"), metadata
    except FileNotFoundError as error:
        names = ", ".join(sorted(file.stem for file in PRETRAINED.glob("*.safetensors")))
        raise UserError(f"there are no weights at {path}; those of the package are: {names or 'none'}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a weights file of fer_jax; see fer_jax.convert") from error
