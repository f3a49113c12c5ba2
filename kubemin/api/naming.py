"""A workflow by its name where the store has none: from the folder of workflow files, or why it is not there."""

from __future__ import annotations

import os

from kubemin.errors import Invalid, NotFound
from kubemin.model.records import Definition


def in_folder(folder: str, name: str) -> Definition | None:
    """From a valid file: what a daemon would publish that has not run yet."""
    from kubemin.files import load_directory

    definitions, _ = load_directory(folder)
    return next((found for found in definitions if found.graph.workflow == name), None)


def unknown(folder: str, name: str) -> NotFound:
    """The error for a name that nobody has published; it says so when a file of that name is there."""
    reason = _reason(folder, name) if folder else None
    return NotFound(reason or f"there is no workflow {name}; `kubeminctl workflows` lists the published ones")


def _reason(folder: str, name: str) -> str | None:
    from kubemin.files import load_directory

    definitions, problems = load_directory(folder)
    if any(found.graph.workflow == name for found in definitions):
        return f"the workflow {name} is in {folder} and not published yet; `kubeminctl reload` publishes it"
    for each in problems:
        if name in (os.path.splitext(os.path.basename(each.file))[0], _name_in(each.file)):
            return f"there is no workflow {name}: {each} (`kubeminctl validate {each.file}` says all that is wrong)"
    return None


def _name_in(path: str) -> str | None:
    """What a file that is not valid calls its workflow, as far as it can be read."""
    from kubemin.files import load_document

    try:
        data = load_document(path).data
    except Invalid:
        return None
    return data.get("name") if isinstance(data, dict) else None
