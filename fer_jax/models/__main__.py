"""python -m fer_jax.models: the registered models as a table."""

import jax

from fer_jax import models


def describe(name: str) -> dict[str, object]:
    """One row: name, paper, input, parameters, megabytes in float32 and bfloat16, `models.forward_flops`."""
    entry = models.MODELS[name]
    module = models.create(name, num_outputs=7)
    variables = models.variable_shapes(module, entry.input_shape)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return {
        "name": name,
        "input": "x".join(map(str, entry.input_shape)),
        "parameters": f"{parameters:,}",
        "MB float32": f"{4 * parameters / 1e6:.2f}",
        "MB bf16": f"{2 * parameters / 1e6:.2f}",
        "MFLOPs": f"{models.forward_flops(module, entry.input_shape) / 1e6:,.0f}",
        "paper": entry.paper,
    }


def main() -> None:
    """Prints the table."""
    rows = [describe(name) for name in models.MODELS]
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in rows[0]}
    for row in [{column: column for column in widths}, *rows]:
        cells = [
            f"{value:<{widths[column]}}" if column in ("name", "paper") else f"{value:>{widths[column]}}"
            for column, value in row.items()
        ]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    main()
