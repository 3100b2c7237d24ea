"""Exact evaluation, and the report of a run: 3,589 images are 3,589 at any batch size and device count.

    python -m fer_jax.evaluate --workdir=RUN [--split=test|validation|train] [--data_dir=PATH] [--output=DIR]
    python -m fer_jax.evaluate --workdir=RUN --dataset=OTHER [--variant=NAME]
    python -m fer_jax.evaluate --workdir=RUN --tta flip ten_crop variants --ensemble RUN RUN

evaluates a finished run and writes RUN/report/index.html and RUN/report/metrics.json (`fer_jax.report`), for another
data set, variant or split into RUN/report_OTHER. Emotions are matched by name: images of those that the network does
not know are left out, those that the data lack stay possible answers. Test-time augmentation and ensembles are scored
beside the network itself, never in its place.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from fer_jax import augment, metrics, ops, process, sharding, train
from fer_jax.data import normalization
from fer_jax.data.crops import METHODS
from fer_jax.data.pipeline import EvalOrder, Split
from fer_jax.errors import exits_with_message
from fer_jax.files import user_path
from fer_jax.imaging import to_input


def eval_step(variables: dict, batch: dict, *, recipe: train.Recipe, variants: float) -> dict:
    """The metric sums of this device's share of a batch, summed over the mesh; runs inside shard_map."""
    if variants:
        enumerated = jax.vmap(functools.partial(augment.variants, strength=variants))(batch["image"])
        batch = {name: jnp.repeat(array, enumerated.shape[1], axis=0) for name, array in batch.items()}
        batch["image"] = enumerated.reshape(-1, *enumerated.shape[2:])
    inputs = normalization.apply(to_input(batch["image"], recipe.input_shape), variables["normalizer"])
    logits = recipe.model.apply(variables, inputs, train=False)
    losses = recipe.head.loss(logits, batch)
    return lax.psum(metrics.batch_sums(recipe.head, logits, batch, losses), sharding.AXIS)


class Evaluator:
    """Evaluates variables on whole splits; compiled once for each batch shape.

    With `variants` above 0 every image counts 28 times, as each of `augment.variants` at that strength.
    """

    def __init__(self, recipe: train.Recipe, mesh: Mesh, *, batch_size: int, variants: float = 0.0):
        step = functools.partial(eval_step, recipe=recipe, variants=variants)
        specs = (sharding.REPLICATED, sharding.SPLIT)
        self._step = ops.jit(sharding.mapped(step, mesh, specs, sharding.REPLICATED))
        self._batch_size = batch_size

    def sums(self, variables: dict, split: Split) -> dict:
        """The merged sums (`metrics.batch_sums`) of a split, on the host."""
        order = EvalOrder(split.length, self._batch_size)
        return metrics.summed(self._step(variables, batch) for batch in split.batches(order, 0, order.steps))


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    from fer_jax import report, report_page  # here: a run that evaluates needs no page
    from fer_jax.ensemble import VIEWS

    parser = process.argument_parser("fer_jax.evaluate", __doc__)
    parser.add_argument("--workdir", type=user_path, required=True, metavar="RUN", help="directory of a finished run")
    parser.add_argument("--split", choices=("test", "validation", "train"), help="default: the one of results.json")
    parser.add_argument("--dataset", metavar="OTHER", help="default: the one that it was trained on")
    parser.add_argument("--variant", metavar="NAME", help="of the data set")
    parser.add_argument("--align", choices=("", *METHODS), help="of OTHER's photographs; default: as in training")
    parser.add_argument("--data_dir", type=user_path, help="where the raw data lie")
    parser.add_argument("--tta", nargs="+", default=(), choices=sorted(VIEWS), help="TTA: also score the mean of views")
    parser.add_argument(
        "--ensemble",
        nargs="+",
        type=user_path,
        default=(),
        metavar="RUN",
        help="score the mean with these runs, too",
    )
    parser.add_argument(
        "--output",
        type=user_path,
        metavar="DIR",
        help="default: RUN/report, or RUN/report_OTHER for other data or splits",
    )
    options = parser.parse_args(arguments)
    process.set_up()
    answers = report.ask(
        options.workdir,
        split=options.split,
        dataset=options.dataset,
        variant=options.variant,
        align=options.align,
        data_dir=options.data_dir,
        views=options.tta,
        members=options.ensemble,
    )
    output = options.output or options.workdir / report.folder(answers, options.variant)
    print(report_page.summary(report.write(answers, output)))
    print(f"report: {output / 'index.html'}")


if __name__ == "__main__":
    main()
