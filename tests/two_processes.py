"""One data-parallel run for test_training.py: corpus, folder, and where to stop or to resume."""

from __future__ import annotations

import argparse
import signal

from test_training import CONFIG, quiet

from sparse_aasist.training import loop


def stop_at(step: int) -> None:
    """Send the first process SIGTERM when it has done `step` steps in all."""
    original = loop._Run._all_agree_to_stop
    steps = iter(range(1, 10**9))

    def agree(self, stop):
        if next(steps) == step and self.fabric.is_global_zero:
            signal.raise_signal(signal.SIGTERM)
        return original(self, stop)

    loop._Run._all_agree_to_stop = agree


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus")
    parser.add_argument("folder")
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    if arguments.stop_at is not None:
        stop_at(arguments.stop_at)
    try:
        quiet(CONFIG, arguments.corpus, arguments.folder, resume=arguments.resume, devices=2)
    except loop.Interrupted:
        assert arguments.stop_at is not None


if __name__ == "__main__":
    main()
