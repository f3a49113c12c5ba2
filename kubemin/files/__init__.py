"""Workflow files: reading YAML and JSON with lines, validating, compiling to a flat graph, binding parameters.

May touch the files that it is given, and nothing else. Heavy modules (YAML, cron, time zones) are imported
when first needed.
"""

from __future__ import annotations

from kubemin.files.compiler import compile_workflow
from kubemin.files.document import Document, load_document, parse_document
from kubemin.files.loading import FileProblem, load_directory, load_workflow, load_workflow_text
from kubemin.files.params import bind_params

__all__ = [
    "Document",
    "FileProblem",
    "bind_params",
    "compile_workflow",
    "load_directory",
    "load_document",
    "load_workflow",
    "load_workflow_text",
    "parse_document",
]
