-- Runs that have left for a fleet's store (moving.py). Nothing else of such a run is in this file, but for its key.
CREATE TABLE moves (
    run TEXT PRIMARY KEY,
    number INTEGER NOT NULL,        -- in this order they go
    at INTEGER NOT NULL,
    head BLOB,                      -- msgpack of store.parcel.Parcel; NULL: it has arrived
    confirmed INTEGER NOT NULL      -- 1: the fleet's store was told that we know, and may forget that it came from here
) WITHOUT ROWID;

CREATE INDEX moves_carrying ON moves (number) WHERE head IS NOT NULL;
CREATE INDEX moves_unconfirmed ON moves (number) WHERE head IS NULL AND confirmed = 0;

CREATE TABLE parcels (run TEXT NOT NULL, part INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (run, part)) WITHOUT ROWID;
