"""Errors a user can cause and cure: each names the file or argument, the fault and the remedy."""


class SparseAasistError(ValueError):
    """Base of every error this package raises on bad input."""


class AudioError(SparseAasistError):
    """An audio file cannot be used: missing, truncated, empty, non-finite, wrong rate."""


class ProtocolError(SparseAasistError):
    """A protocol (trial list) or data directory does not have the ASVspoof5 layout."""


class ScoreError(SparseAasistError):
    """Scores and trials do not fit together: missing, duplicate, extra or non-finite scores."""


class NothingToMeasureError(SparseAasistError):
    """There is no difference to measure: one class only, or dimensions that are all dead."""


class CheckpointError(SparseAasistError):
    """A checkpoint cannot be read or does not fit the model."""


class CorpusError(SparseAasistError):
    """The small real corpus cannot be built: no source, no engine, or a check has failed."""
