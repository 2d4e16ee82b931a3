"""The report of a sweep: one HTML file that opens offline; see `write_report`."""

from sparse_aasist.report.document import write_report

__all__ = ["write_report"]
