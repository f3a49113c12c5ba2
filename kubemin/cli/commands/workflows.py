"""The published workflows."""

from __future__ import annotations

from kubemin.cli import options, render, views
from kubemin.cli.session import Session


@options.command(
    "workflows",
    """
    kubeminctl workflows
    kubeminctl workflows -o json
    """,
)
def command(session: Session) -> None:
    """List the workflows that the daemon has published from its folder."""
    found = session.client.workflows()
    if session.json:
        render.document(views.workflows(found))
        return
    rows = [
        (w.name, w.steps, w.schedule, render.local_time(w.next_at), render.local_time(w.published_at), w.hash[:12])
        for w in found
    ]
    headers = ("WORKFLOW", "STEPS", "SCHEDULE", "NEXT", "PUBLISHED", "HASH")
    render.table(headers, rows, f"no workflows are published; put files in {session.settings.workflows_dir} and reload")
