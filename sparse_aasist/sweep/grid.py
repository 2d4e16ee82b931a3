"""Which runs a sweep consists of: a product of model settings and seeds over one recipe."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparse_aasist.errors import SparseAasistError
from sparse_aasist.models import AASISTConfig
from sparse_aasist.training.config import TrainingConfig

DENSE = "dense"
"""In place of a k: keep all D values, the baseline that TopK is compared with."""
_PLAIN = {"topk_by": "value", "topk_order": "before_dropout"}


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep; its runs are their product.

    Args:
        dims: widths D of the embedding.
        ks: values kept, or `DENSE` for D of them.
        seeds: of training; at least three give a spread between runs.
        sigmoids, topk_bys, topk_orders: as in `AASISTConfig`, for sensitivity to these choices.

    Raises:
        SparseAasistError: an axis is empty or names a value twice.
    """

    dims: tuple[int, ...] = (160, 320)
    ks: tuple[int | str, ...] = (20, 50, 100, DENSE)
    seeds: tuple[int, ...] = (1, 2, 3)
    sigmoids: tuple[bool, ...] = (False,)
    topk_bys: tuple[str, ...] = ("value",)
    topk_orders: tuple[str, ...] = ("before_dropout",)

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not values or len(set(values)) < len(values):
                raise SparseAasistError(
                    f"{name} of a grid must name at least one value and each once, got {values}"
                )

    def runs(self, recipe: TrainingConfig) -> list[TrainingConfig]:
        """Return the configuration of every run, seed by seed, so that an early stop is balanced.

        Args:
            recipe: gives everything that the axes do not.

        Raises:
            SparseAasistError: k is larger than D, or another value is out of range; names it.
        """
        order = (self.seeds, self.dims, self.ks, self.sigmoids, self.topk_bys, self.topk_orders)
        configs: list[TrainingConfig] = []
        for seed, dim, k, sigmoid, by, topk_order in itertools.product(*order):
            count = dim if k == DENSE else k
            # What is ranked, and when, has no meaning where nothing is left out.
            choice = {"topk_by": by, "topk_order": topk_order} if count != dim else {}
            model = dataclasses.replace(
                recipe.model, **{"dim": dim, "k": count, "sigmoid": sigmoid, **_PLAIN, **choice}
            )
            config = dataclasses.replace(recipe, model=model, seed=seed)
            # `dense` and a k that equals D are the same run, whatever else they ask of TopK.
            if config not in configs:
                configs.append(config)
        return configs


def configuration_name(model: AASISTConfig) -> str:
    """Name a configuration by D, k and what else departs from the defaults."""
    words = [f"dim{model.dim}", DENSE if model.is_dense else f"k{model.k}"]
    words += ["sigmoid"] if model.sigmoid else []
    words += [getattr(model, key) for key, plain in _PLAIN.items() if getattr(model, key) != plain]
    return "_".join(words)


def run_name(config: TrainingConfig) -> str:
    """Name a run: its configuration and its seed."""
    return f"{configuration_name(config.model)}_seed{config.seed}"


def shared_recipe(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings that all runs of a sweep have in common."""
    values = config.to_dict()
    model = values.pop("model")
    axes = ("dim", "k", "sigmoid", "topk_by", "topk_order")
    values["model"] = {key: value for key, value in model.items() if key not in axes}
    del values["seed"]
    return values


def parse_counts(texts: Sequence[str]) -> tuple[int | str, ...]:
    """Read the ks of a command line: integers, or "dense".

    Raises:
        SparseAasistError: another word.
    """
    try:
        return tuple(DENSE if text == DENSE else int(text) for text in texts)
    except ValueError as error:
        raise SparseAasistError(
            f"--ks takes integers and the word {DENSE}, got {' '.join(texts)}"
        ) from error
