"""The local engine: SQLite. May use sqlite3 and the model; nothing outside this package sees a row or a query."""
