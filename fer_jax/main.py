"""Command line: python -m fer_jax.main --config=configs/vggs_small.py [--workdir=...] [--data_dir=...]

Trains what the config says, evaluates it and prints where the results lie. The same command with the same
--workdir resumes. On several machines, each with its own devices, the same command with --distributed is given on all
of them, with a --workdir that they share.
"""

# Dispatch only; the work is in run.py.

import datetime
import sys
from collections.abc import Sequence

from absl import flags

from fer_jax import command_line, files, process
from fer_jax import config as config_lib
from fer_jax.errors import UserError

flags.adopt_module_key_flags(command_line)  # --help shows them too
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "train with other processes: those that SLURM, Open MPI or a TPU pod tell of, or those that --coordinator, "
    "--processes and --process name",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, a port that is free there")
_PROCESSES = flags.DEFINE_integer("processes", None, "how many processes there are", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "the index of this process, from 0", lower_bound=0)


def main(_argv: Sequence[str]) -> None:
    """Runs the config; exits with 1 and a message on what the user can mend, 128 + signal when interrupted."""
    # Only process 0 writes JAX's cache, and on GPUs all compile together. With a cache per machine process 0 would load
    # a program while the others wait for it, for a day: so only a shared one, which the user names, is used.
    process.set_up(keep_programs=not _DISTRIBUTED.value)
    if _DISTRIBUTED.value:
        if not command_line.WORKDIR.value:
            raise UserError("--distributed needs --workdir, the same for all processes, on a disk that they share")
        process.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    elif (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value) != (None, None, None):
        raise UserError("--coordinator, --processes and --process are for training with --distributed")
    command_line.refuse_unread_data_dir([command_line.CONFIG.value])
    import jax  # here, so that --help needs no JAX

    from fer_jax import run, train

    config_file = flags.FLAGS["config"].config_filename
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = files.user_path(command_line.WORKDIR.value or config_lib.default_workdir(config_file, stamp))
    try:
        results = run.run(command_line.CONFIG.value, workdir, data_dir=command_line.DATA_DIR.value)
    except train.Interrupted as interrupted:
        print(f"{interrupted}; to resume: the same command with --workdir={workdir}", file=sys.stderr)
        sys.exit(128 + interrupted.signum)
    if jax.process_index() == 0:
        print(run.format_results(results))
        print(f"results: {workdir.resolve()}")


if __name__ == "__main__":
    command_line.entry(main)
