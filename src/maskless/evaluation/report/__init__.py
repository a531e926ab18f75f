"""One page from result files: tables with errors, quality against speed, samples, curves; as HTML that needs nothing else, and as Markdown.

    found = gather([Path("results"), Path("runs")])     # result files, samples, run folders
    write(found, Path("report"))                        # report.html and report.md

`gather` reads, `compare` decides what may stand in one column, `figures` draws, `page` and `markdown` write. See docs/report.md.
"""
from maskless.evaluation.report.compare import Cell, Column, Table, refuse_splits, tables
from maskless.evaluation.report.gather import Curve, Gathered, Samples, gather
from maskless.evaluation.report.write import write

__all__ = ["Cell", "Column", "Curve", "Gathered", "Samples", "Table", "gather", "refuse_splits", "tables", "write"]
