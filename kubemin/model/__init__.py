"""Pure data and pure rules: states, graphs, records, what follows from what. No I/O, no clock, no store."""
