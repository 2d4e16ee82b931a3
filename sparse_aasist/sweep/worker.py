"""One run of a sweep in a process of its own: train or resume, then score what is to be reported.

python -m sparse_aasist.sweep.worker SWEEP NAME DATA
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import Timeout
from rich.console import Console

from sparse_aasist.data.protocol import Split
from sparse_aasist.embeddings import embeddings_path
from sparse_aasist.engine import make_fabric
from sparse_aasist.errors import SparseAasistError
from sparse_aasist.evaluation.scores import write_scores
from sparse_aasist.files import digest, write_text
from sparse_aasist.models import AASIST
from sparse_aasist.runtime import tune_process
from sparse_aasist.scoring import score_trials
from sparse_aasist.sweep.folder import SweepFolder, SweepRun
from sparse_aasist.training.loop import Interrupted, default_workers, train

FAILED, TAKEN, INTERRUPTED = 2, 75, 130
"""Exit codes; `TAKEN`: another process works on this run."""


def work(run: SweepRun, splits: dict[str, Split], data_dir: str | os.PathLike[str]) -> None:
    """Bring one run to its end, from wherever it stands.

    Args:
        run: planned.
        splits: its data, opened.
        data_dir: where they are.

    Raises:
        Timeout: another process holds the run.
        Interrupted: a signal asked to stop; the run can go on from here.
        SparseAasistError: data or folder are unusable; names which.
    """
    console = Console(width=100)
    with run.lock():
        if run.is_finished:
            return
        train(run.config, data_dir, run.path, resume=run.files.last.exists(), console=console)
        model = AASIST.from_checkpoint(run.files.best)
        fabric = make_fabric()
        fabric.to_device(model)
        zeros = {}
        for name, split in splits.items():
            if name == "train":
                continue
            console.print(f"scoring {name}")
            result = score_trials(
                fabric,
                model,
                split,
                run.config.eval_samples,
                batch_size=run.config.batch_size,
                workers=default_workers(fabric, None),
                embeddings=True,
            )
            write_scores(run.scores(name), [t.name for t in split.trials], result.scores)
            result.embeddings.save(embeddings_path(run.path, name))
            zeros[name] = result.zero_fraction
        write_text(run.summary, json.dumps(_summary(run, zeros), indent=2) + "\n")


def _summary(run: SweepRun, zero_fractions: dict[str, float]) -> dict[str, object]:
    history = [json.loads(line) for line in run.files.metrics.read_text().splitlines()]
    # The first of equals, as training keeps it.
    best = min(history, key=lambda record: record["dev_eer"])
    return {
        "best_epoch": best["epoch"],
        "epochs": len(history),
        "train_seconds": round(sum(record["seconds"] for record in history), 3),
        "zero_fraction": zero_fractions,
        # What was made from these scores and embeddings is stale when this changes.
        "checkpoint_sha256": digest(run.files.best),
    }


def main(sweep: str, name: str, data_dir: str) -> int:
    """Work on one run of a sweep; return the exit status."""
    tune_process()
    folder = SweepFolder(sweep)
    (run,) = (run for run in folder.runs() if run.name == name)
    return _status(lambda: work(run, folder.splits(data_dir), Path(data_dir)))


def _status(job: Callable[[], None]) -> int:
    try:
        job()
    except Timeout:
        return TAKEN
    except (Interrupted, KeyboardInterrupt):
        return INTERRUPTED
    except (SparseAasistError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
