"""What starts when."""

from __future__ import annotations

from kubemin.cli import options, render, views
from kubemin.cli.session import Session


@options.command(
    "schedules",
    """
    kubeminctl schedules
    kubeminctl schedules -o json
    """,
)
def command(session: Session) -> None:
    """List the published workflows that have a schedule, with their last and next start."""
    found = [view for view in session.client.workflows() if view.schedule]
    if session.json:
        render.document(views.schedules(found))
        return
    found.sort(key=lambda view: view.next_at or "~")
    rows = [(w.name, w.schedule, w.timezone, render.local_time(w.last_at), render.local_time(w.next_at)) for w in found]
    render.table(("WORKFLOW", "SCHEDULE", "TIMEZONE", "LAST", "NEXT"), rows, "no workflow has a schedule")
