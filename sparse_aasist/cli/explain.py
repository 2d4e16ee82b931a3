"""`sparse-aasist explain`: the decision on recordings, taken apart; text or JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_aasist.cli.analyse import FILE_NAME, shift_text

if TYPE_CHECKING:
    from rich.console import Console

    from sparse_aasist.analysis.explain import ActiveDimension, Explanation
    from sparse_aasist.data.recording import Recording

HELP = "score recordings and say why: contribution of each dimension, attacks, nearest training"
USER_ERROR = 2
MAX_ROWS = 20
MAX_TIES = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="recordings: wav, flac, mp3, ogg")
    add("--checkpoint", type=Path, required=True, help="best.safetensors, or a published .pth")
    add("--conf", type=Path, metavar="FILE", help="upstream's .conf beside a published .pth")
    add(
        "--analysis",
        type=Path,
        metavar="JSON",
        help=f"written by analyse (default: {FILE_NAME} beside the checkpoint, if it is there)",
    )
    add("--prior", type=float, default=0.5, help="share of bona fide recordings, 0 to 1 (0.5)")
    add("--json", action="store_true", help="print one JSON list, nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Explain every file; one that cannot be used does not stop the others, but ends in 2."""
    from rich.console import Console

    from sparse_aasist.analysis.explain import explain
    from sparse_aasist.data.recording import read_recording
    from sparse_aasist.errors import SparseAasistError
    from sparse_aasist.evaluation.calibration import Calibration, probability
    from sparse_aasist.models import AASIST
    from sparse_aasist.models.checkpoint import scoring_calibration, scoring_samples
    from sparse_aasist.runtime import tune_process

    tune_process()
    probability(0.0, arguments.prior)  # a prior that is none is the command's fault, not a file's
    console = Console()
    model = AASIST.from_checkpoint(arguments.checkpoint, arguments.conf)
    samples = scoring_samples(arguments.checkpoint)
    entries = scoring_calibration(arguments.checkpoint)
    calibration = None if entries is None else Calibration.from_dict(entries)
    analysis = _analysis(arguments)
    results: list[dict[str, Any]] = []
    status = 0
    for path in arguments.files:
        try:
            waveform, recording = read_recording(path, samples)
            found = explain(
                model,
                waveform,
                calibration=calibration,
                analysis=analysis,
                prior_bonafide=arguments.prior,
            )
        except (SparseAasistError, OSError) as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            print(f"error: {message}", file=sys.stderr)
            results.append({"file": str(path), "error": message})
            status = USER_ERROR
            continue
        results.append({"file": str(path), "audio": recording.to_dict(), **found.to_dict()})
        if not arguments.json:
            _print(path, recording, found, console)
    if arguments.json:
        print(json.dumps(results, indent=2, allow_nan=False))
    return status


def _analysis(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Read the analysis of the very checkpoint; one beside it may be of another, and is left."""
    from sparse_aasist.analysis.model_analysis import read_analysis
    from sparse_aasist.errors import SparseAasistError
    from sparse_aasist.files import digest

    path = arguments.analysis or arguments.checkpoint.parent / FILE_NAME
    if arguments.analysis is None and not path.is_file():
        return None
    analysis = read_analysis(path)
    here = digest(arguments.checkpoint)
    if analysis.get("checkpoint_sha256") == here:
        return analysis
    message = (
        f"{path} is not the analysis of {arguments.checkpoint}; run `sparse-aasist analyse` on it"
    )
    if arguments.analysis is not None:
        raise SparseAasistError(message)
    print(f"warning: {message}; going on without", file=sys.stderr)
    return None


def _print(path: Path, recording: Recording, found: Explanation, console: Console) -> None:
    console.print(
        f"{path}: {found.label}", style="bold", markup=False, highlight=False, soft_wrap=True
    )
    prior = f"a prior of {found.prior_bonafide:g}"
    decided = f"score, not calibrated, {found.score:+.3f}"
    if found.llr is not None:
        decided = (
            f"LLR {found.llr:+.3f} (natural log, calibrated on dev); "
            f"probability of bona fide {_chance(found.probability_bonafide)} at {prior}"
        )
    active = len(found.dimensions)
    lines = [
        decided,
        f"bona fide from {found.threshold:+.3f} on: Bayes at {prior}, equal costs",
        f"audio: {'; '.join(recording.notes())}",
        f"sum: offset {found.offset:+.3f} and {active} active of {found.dims} dimensions "
        f"{found.sum - found.offset:+.3f} make {found.sum:+.3f}, "
        f"{abs(found.sum - found.decided_on):.0e} off the model's own",
    ]
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    _print_dimensions(found, console)
    _print_neighbours(found, console)
    for note in found.notes:
        console.print(f"  note: {note}", markup=False, highlight=False, soft_wrap=True)
    console.print()


def _chance(probability: float) -> str:
    """Return a probability to three digits, without ever claiming certainty."""
    if 0.001 <= probability <= 0.999:
        return f"{probability:.3f}"
    return "below 0.001" if probability < 0.5 else "above 0.999"


def _print_dimensions(found: Explanation, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 0, 0, 2))
    for header in ("dim", "block", "value", "adds"):
        table.add_column(header, justify="left" if header == "block" else "right", no_wrap=True)
    known = found.dimensions and found.dimensions[0].ties is not None
    if known:
        table.add_column("tied to: M > null, p", no_wrap=True)
        table.add_column("dev EER % if 0", no_wrap=True)
    for entry in found.dimensions[:MAX_ROWS]:
        cells = [str(entry.dimension), entry.block, f"{entry.activation:.2f}"]
        cells.append(f"{entry.contribution:+.3f}")
        if known:
            cells += [_ties_text(entry), shift_text(entry.shift)]
        table.add_row(*cells)
    console.print(table, markup=False, highlight=False)
    rest = found.dimensions[MAX_ROWS:]
    if rest:
        console.print(
            f"  {len(rest)} more add {sum(entry.contribution for entry in rest):+.3f} together; "
            "--json has them",
            highlight=False,
        )


def _ties_text(entry: ActiveDimension) -> str:
    """Return the classes that a dimension goes with, the strongest, one per line."""
    ties = entry.ties or ()
    lines = [
        f"{tie.attack} {tie.nmi:.3f} > {tie.null_quantile:.3f}, p {tie.p_value:.2f}"
        for tie in ties[:MAX_TIES]
    ]
    if len(ties) > MAX_TIES:
        lines.append(f"and {len(ties) - MAX_TIES} weaker")
    return "\n".join(lines) or "none above chance"


def _print_neighbours(found: Explanation, console: Console) -> None:
    if found.nearest is None:
        return
    near = [
        f"{neighbour.attack} (distance {neighbour.distance:.3f}, farther than "
        f"{100 * neighbour.farther_than:.0f} % of its {neighbour.trials} trials)"
        for neighbour in found.nearest[:3]
    ]
    text = f"  nearest in training: {'; '.join(near)}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if found.unlike_training:
        console.print(
            "  unlike anything in training: farther from every class than 99 % of its trials",
            style="yellow",
            highlight=False,
        )
