"""`sparse-aasist train`: train a detector with the official recipe or a preset."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_aasist.cli.arguments import integer_from

if TYPE_CHECKING:
    from sparse_aasist.training.config import TrainingConfig

HELP = "train a detector on a directory in ASVspoof5 layout"

MODEL_OPTIONS = ("dim", "k", "sigmoid", "topk_by", "topk_order")
RECIPE_OPTIONS = ("epochs", "batch_size", "lr", "lr_min", "precision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; those left out keep the value of the preset."""
    add = parser.add_argument
    add("--k", type=int, default=20, help="values kept in the embedding; k = dim is dense (20)")
    add("--dim", type=int, default=320, help="width of the embedding, a multiple of 5 (320)")
    add("--sigmoid", action="store_true", help="sigmoid before TopK")
    add("--topk-by", choices=("value", "abs"), default="value", help="what is ranked (value)")
    add(
        "--topk-order",
        choices=("before_dropout", "after_dropout"),
        default="before_dropout",
        help="TopK before or after dropout (before_dropout)",
    )
    add("--data", type=Path, metavar="DIR", help="default: the small real corpus, built if absent")
    add("--output", type=Path, metavar="DIR", help="run folder (runs/k20_dim320_seed1234)")
    add("--resume", action="store_true", help="continue the run in --output")
    add("--seed", type=integer_from(0), help="of weights, order, crops and dropout (1234)")
    add_recipe(parser)
    add("--devices", type=integer_from(1), default=1, help="number of GPUs (1)")
    add("--workers", type=integer_from(0), help="loader processes per device")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Declare the preset and what may depart from it."""
    add = parser.add_argument
    add("--preset", choices=("asvspoof5", "demo"), default="asvspoof5", help="recipe (asvspoof5)")
    add("--epochs", type=integer_from(1))
    add("--batch-size", type=integer_from(2), help="over all devices")
    add("--lr", type=float, help="learning rate of the first step")
    add("--lr-min", type=float, help="learning rate of the last step")
    add("--precision", choices=("32-true", "bf16-mixed", "auto"))


def recipe(arguments: argparse.Namespace) -> TrainingConfig:
    """Return the preset with what `add_recipe` was given in its place."""
    from sparse_aasist.training.config import PRESETS, TrainingConfig

    given = {name: getattr(arguments, name) for name in RECIPE_OPTIONS}
    chosen = {name: value for name, value in given.items() if value is not None}
    return TrainingConfig(**{**PRESETS[arguments.preset], **chosen})


def run(arguments: argparse.Namespace) -> int:
    """Train and say where the best checkpoint is."""
    from rich.console import Console

    from sparse_aasist.cli.data import corpus_or
    from sparse_aasist.models import AASISTConfig
    from sparse_aasist.runtime import tune_process
    from sparse_aasist.training.loop import Interrupted, train

    tune_process()
    # Of several processes only the first one speaks.
    console = Console(quiet=os.environ.get("LOCAL_RANK", "0") != "0")
    model = AASISTConfig(**{name: getattr(arguments, name) for name in MODEL_OPTIONS})
    config = dataclasses.replace(recipe(arguments), model=model)
    if arguments.seed is not None:
        config = dataclasses.replace(config, seed=arguments.seed)
    output = arguments.output or Path("runs") / f"k{model.k}_dim{model.dim}_seed{config.seed}"
    try:
        best = train(
            config,
            corpus_or(arguments.data, console),
            output,
            resume=arguments.resume,
            devices=arguments.devices,
            workers=arguments.workers,
            console=console,
        )
    except Interrupted:
        console.print("interrupted and saved; continue with the same command and --resume")
        return 130
    console.print(f"best checkpoint: {best}", soft_wrap=True, markup=False)
    return 0
