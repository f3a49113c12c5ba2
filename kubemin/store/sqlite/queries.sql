-- Every query of the store, by name. States and flags are the numbers of rows.py: 0 waiting, 1 queued, 2 running,
-- 3 completed, 4 failed, 5 timeout, 6 cancelled, 7 skipped. The predicates of partial indexes are repeated word for word.

-- ── numbers, owners, what is held ──────────────────────────────────────────────────────────────────────────────────

-- name: counter
SELECT value FROM meta WHERE name = 'counter';

-- name: reserve
INSERT INTO meta (name, value) VALUES ('counter', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: mode
SELECT value FROM meta WHERE name = 'mode';

-- name: put_mode
INSERT INTO meta (name, value) VALUES ('mode', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: owners
SELECT id, instance, slot, incarnation, retired FROM owners;

-- name: insert_owner
INSERT INTO owners (instance, slot, incarnation, node) VALUES (?, ?, ?, ?) RETURNING id;

-- name: retire_owner
UPDATE owners SET retired = ? WHERE id = ?;

-- name: prune_owners
DELETE FROM owners WHERE retired < ? RETURNING id;

-- name: paused
SELECT queue FROM paused;

-- name: pause
INSERT OR IGNORE INTO paused (queue) VALUES (?);

-- name: resume
DELETE FROM paused WHERE queue = ?;

-- name: held
SELECT t.run, t.idx, t.token, t.owner, t.started, t.flags, t.cause, r.stop, t.spec, t.extra
FROM tasks AS t LEFT JOIN runs AS r ON r.id = t.run
WHERE t.state = 2 AND t.owner IS NOT NULL;

-- ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- name: task
SELECT run, idx, node, item, state, flags, open, queue, seq, due, attempt, token, owner, strikes, cause, queued, started,
    finished, base, made, total, detail
FROM tasks WHERE run = ? AND idx = ?;

-- name: insert_task
INSERT INTO tasks (run, idx, node, item, state, flags, open, queue, seq, due, attempt, token, owner, strikes, cause, queued, started,
    finished, base, made, total, detail, output)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_fresh_task
INSERT INTO tasks (run, idx, node, item, state, flags, open, queue, seq, queued, attempt, token, strikes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0);

-- name: update_task
UPDATE tasks SET state = ?, flags = ?, open = ?, seq = ?, due = ?, attempt = ?, token = ?, owner = ?, strikes = ?,
    cause = ?, queued = ?, started = ?, finished = ?, base = ?, made = ?, total = ?, detail = ?,
    output = CASE WHEN ? >= 3 THEN coalesce(?, output) END
WHERE run = ? AND idx = ?;

-- name: hear_task
UPDATE tasks SET flags = ?, open = ? WHERE run = ? AND idx = ?;

-- name: place_task
UPDATE tasks SET state = ?, flags = ?, open = ?, seq = ?, due = ?, queued = ? WHERE run = ? AND idx = ?;

-- name: claim_task
UPDATE tasks SET state = ?, flags = ?, token = ?, owner = ?, started = ? WHERE run = ? AND idx = ?;

-- name: end_task
UPDATE tasks SET state = ?, flags = ?, attempt = ?, cause = ?, started = ?, finished = ?, detail = ?,
    output = coalesce(?, output)
WHERE run = ? AND idx = ?;

-- name: run
SELECT id, definition, workflow, state, stop, cause, round, submitted, start_at, scheduled_at, started, finished, due,
    deadline, ckey, holds, live, listed, parked, next, stage, again, key, place
FROM runs WHERE id = ?;

-- name: insert_run
INSERT INTO runs (id, definition, workflow, state, stop, cause, round, submitted, start_at, scheduled_at, started, finished, due,
    deadline, ckey, holds, live, listed, parked, next, stage, again, key, place)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_run
UPDATE runs SET state = ?, stop = ?, cause = ?, round = ?, started = ?, finished = ?, due = ?, deadline = ?, ckey = ?,
    holds = ?, live = ?, listed = ?, parked = ?, next = ?, stage = ?, again = ?
WHERE id = ?;

-- name: count_run
UPDATE runs SET cause = ?, live = ?, listed = ?, parked = ?, next = ? WHERE id = ?;

-- name: payload
SELECT body FROM payloads WHERE run = ?;

-- name: insert_payload
INSERT OR REPLACE INTO payloads (run, body) VALUES (?, ?);

-- name: put_tail
INSERT OR REPLACE INTO tails (run, idx, stdout, stderr) VALUES (?, ?, ?, ?);

-- name: drop_tail
DELETE FROM tails WHERE run = ? AND idx = ?;

-- name: task_output
SELECT state, output, base, total FROM tasks WHERE run = ? AND idx = ?;

-- name: outputs_between
SELECT idx, output FROM tasks WHERE run = ? AND idx >= ? AND idx < ? AND state = 3;

-- ── single tasks ────────────────────────────────────────────────────────────────────────────────────────────────────

-- name: insert_solo
INSERT OR IGNORE INTO tasks (run, idx, node, state, flags, open, queue, seq, due, attempt, token, strikes, queued,
    submitted, key, extra, spec)
VALUES (?, 0, 0, ?, 256, 0, ?, ?, ?, 0, 0, 0, ?, ?, ?, ?, ?);

-- name: insert_plain_solo
INSERT OR IGNORE INTO tasks (run, idx, node, state, flags, open, queue, seq, attempt, token, strikes, queued, submitted, spec)
VALUES (?, 0, 0, 1, 256, 0, ?, ?, 0, 0, 0, ?, ?, ?);

-- name: solo_spec
SELECT spec, extra FROM tasks WHERE run = ? AND idx = 0;

-- name: solo_place
SELECT seq, submitted FROM tasks WHERE run = ? AND idx = 0;

-- name: finish_solo
UPDATE tasks SET state = 3, flags = flags | 512, attempt = attempt + 1, started = ?, finished = ?, detail = ?, output = ?
WHERE run = ? AND idx = 0;

-- name: complete_solo
UPDATE tasks SET state = 3, flags = flags | 512, attempt = attempt + 1, started = ?, finished = ?, detail = NULL, output = ?
WHERE run = ? AND idx = 0;

-- ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────────

-- name: ready
SELECT run, idx, flags, attempt, extra, spec
FROM tasks WHERE state = 1 AND seq IS NOT NULL AND queue = ? ORDER BY seq LIMIT ?;

-- name: claim_solo
UPDATE tasks SET state = 2, flags = flags & -513, token = ?, owner = ?, started = ? WHERE run = ? AND idx = 0;

-- name: give_back_solo
UPDATE tasks SET state = 1, started = NULL WHERE run = ? AND idx = 0;

-- name: parked
SELECT idx FROM tasks WHERE state = 1 AND seq IS NULL AND run = ? AND queue = ? ORDER BY idx LIMIT ?;

-- name: releasable
SELECT idx FROM tasks WHERE run = ? AND idx >= ? AND idx < ? AND state = 0 AND open = 0 AND due IS NULL ORDER BY idx LIMIT ?;

-- name: stoppable
SELECT idx FROM tasks
WHERE run = ? AND idx >= ? AND idx < ? AND (state = 1 OR (state = 0 AND due IS NOT NULL)) ORDER BY idx LIMIT ?;

-- ── ripples ──────────────────────────────────────────────────────────────────────────────────────────────────────────

-- name: insert_ripple
INSERT OR REPLACE INTO ripples (run, kind, idx, pos) VALUES (?, ?, ?, ?);

-- name: ripple_run
SELECT run FROM ripples WHERE run > ? ORDER BY run LIMIT 1;

-- name: ripples
SELECT kind, run, idx, pos FROM ripples WHERE run = ? LIMIT ?;

-- name: delete_ripple
DELETE FROM ripples WHERE run = ? AND kind = ? AND idx = ?;

-- name: delete_ripples
DELETE FROM ripples WHERE run = ?;

-- name: any_ripple
SELECT 1 FROM ripples LIMIT 1;

-- ── accepting ───────────────────────────────────────────────────────────────────────────────────────────────────────

-- name: key
SELECT run FROM keys WHERE key = ?;

-- name: insert_key
INSERT INTO keys (key, run) VALUES (?, ?);

-- name: known_id
SELECT 1 FROM runs WHERE id = ?1 UNION ALL SELECT 1 FROM tasks WHERE run = ?1 AND idx = 0
UNION ALL SELECT 1 FROM moves WHERE run = ?1;

-- name: key_holder
SELECT id FROM runs WHERE ckey = ? AND holds = 1 AND ckey IS NOT NULL;

-- name: key_others
SELECT id FROM runs WHERE ckey = ? AND id <> ? AND ckey IS NOT NULL AND due IS NULL ORDER BY holds, place;

-- name: next_for_key
SELECT id FROM runs WHERE ckey = ? AND holds = 0 AND ckey IS NOT NULL AND due IS NULL ORDER BY place LIMIT 1;

-- name: stage
INSERT OR REPLACE INTO inbox (batch, part, sealed, at, count, body)
VALUES (?1, (SELECT coalesce(max(part), 0) + 1 FROM inbox WHERE batch = ?1), 0, ?2, ?3, ?4);

-- name: staged_count
SELECT coalesce(sum(count), 0) FROM inbox WHERE batch = ? AND sealed = 0;

-- name: seal
UPDATE inbox SET sealed = 1, at = ? WHERE batch = ?;

-- name: sealed
SELECT count FROM sealed WHERE batch = ?;

-- name: insert_sealed
INSERT INTO sealed (batch, count, at) VALUES (?, ?, ?);

-- name: next_part
SELECT batch, part, count, body FROM inbox WHERE sealed = 1 ORDER BY at, rowid LIMIT 1;

-- name: sealed_parts
SELECT batch, part, count, body FROM inbox WHERE sealed = 1;

-- name: delete_part
DELETE FROM inbox WHERE batch = ? AND part = ?;

-- name: any_sealed
SELECT 1 FROM inbox WHERE sealed = 1 LIMIT 1;

-- ── definitions and schedules ───────────────────────────────────────────────────────────────────────────────────────

-- name: graph
SELECT graph FROM definitions WHERE hash = ?;

-- name: definition
SELECT hash, graph, source FROM definitions WHERE hash = ?;

-- name: insert_definition
INSERT INTO definitions (hash, name, graph, source, at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (hash) DO UPDATE SET at = excluded.at;

-- name: published_hash
SELECT hash FROM workflows WHERE name = ?;

-- name: workflows
SELECT w.name, w.hash, w.published, w.mark, d.graph, d.source
FROM workflows AS w JOIN definitions AS d ON d.hash = w.hash ORDER BY w.name;

-- name: put_workflow
INSERT OR REPLACE INTO workflows (name, hash, published, mark) VALUES (?, ?, ?, ?);

-- name: delete_workflow
DELETE FROM workflows WHERE name = ?;

-- name: raise_mark
UPDATE workflows SET mark = ?1 WHERE name = ?2 AND mark < ?1;

-- name: prune_definitions
DELETE FROM definitions WHERE at < ?
    AND hash NOT IN (SELECT hash FROM workflows)
    AND NOT EXISTS (SELECT 1 FROM runs WHERE definition = definitions.hash)
    AND NOT EXISTS (SELECT 1 FROM inbox)
    AND NOT EXISTS (SELECT 1 FROM moves WHERE head IS NOT NULL)
RETURNING hash;

-- ── duties ───────────────────────────────────────────────────────────────────────────────────────────────────────────

-- name: due_tasks
SELECT run, idx FROM tasks WHERE due IS NOT NULL AND due <= ? ORDER BY due LIMIT ?;

-- name: due_runs
SELECT id FROM runs WHERE due IS NOT NULL AND due <= ? ORDER BY due LIMIT ?;

-- name: late_runs
SELECT id FROM runs WHERE deadline IS NOT NULL AND deadline <= ? ORDER BY deadline LIMIT ?;

-- name: next_due
SELECT min(at) FROM (
    SELECT min(due) AS at FROM tasks WHERE due IS NOT NULL
    UNION ALL SELECT min(due) FROM runs WHERE due IS NOT NULL
    UNION ALL SELECT min(deadline) FROM runs WHERE deadline IS NOT NULL
);

-- name: count_finished
SELECT (SELECT count(*) FROM runs WHERE finished IS NOT NULL)
     + (SELECT count(*) FROM tasks WHERE spec IS NOT NULL AND finished IS NOT NULL);

-- name: oldest_finished
SELECT id, finished, key, 0 FROM (
    SELECT id, finished, key FROM runs WHERE finished IS NOT NULL AND finished <= ?1 ORDER BY finished LIMIT ?2)
UNION ALL
SELECT id, finished, key, 1 FROM (
    SELECT run AS id, finished, key FROM tasks
    WHERE spec IS NOT NULL AND finished IS NOT NULL AND finished <= ?1 ORDER BY finished LIMIT ?2)
ORDER BY 2 LIMIT ?2;

-- name: delete_run
DELETE FROM runs WHERE id = ?;

-- name: delete_solo
DELETE FROM tasks WHERE run = ? AND idx = 0;

-- name: delete_payload
DELETE FROM payloads WHERE run = ?;

-- name: delete_key
DELETE FROM keys WHERE key = ? AND run = ?;

-- name: nth_task
SELECT idx FROM tasks WHERE run = ? AND idx >= ? ORDER BY idx LIMIT 1 OFFSET ?;

-- name: end_all_tasks
UPDATE tasks SET state = 6, cause = 'corrupt', due = NULL, finished = ? WHERE run = ? AND state < 3;

-- name: delete_tasks
DELETE FROM tasks WHERE run = ? AND idx < ?;

-- name: delete_tails
DELETE FROM tails WHERE run = ? AND idx < ?;

-- name: prune_sealed
DELETE FROM sealed WHERE at < ?;

-- name: prune_unsealed
DELETE FROM inbox WHERE sealed = 0 AND at < ?;

-- ── reads ────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- name: view_run
SELECT r.id, r.workflow, r.state, r.cause, r.key, r.round, r.submitted, r.start_at, r.scheduled_at, r.started, r.finished,
    p.body, r.definition
FROM runs AS r LEFT JOIN payloads AS p ON p.run = r.id WHERE r.id = ?;

-- name: list_runs
SELECT r.id, r.workflow, r.state, r.cause, r.key, r.round, r.submitted, r.start_at, r.scheduled_at, r.started, r.finished,
    p.body, r.definition
FROM runs AS r LEFT JOIN payloads AS p ON p.run = r.id
WHERE (?1 IS NULL OR r.state = ?1) AND (?2 IS NULL OR r.workflow = ?2) AND (?3 IS NULL OR r.submitted >= ?3)
    AND (?4 IS NULL OR r.submitted <= ?4) AND (?5 IS NULL OR r.key = ?5)
ORDER BY r.id DESC;

-- name: view_tasks
SELECT t.idx, t.node, t.item, t.state, t.flags, t.attempt, t.token, t.cause, t.queued, t.started, t.finished, t.due, t.base,
    t.made, t.total, t.detail, t.output, t.submitted, t.key, t.extra, t.spec, o.node, o.slot, s.stdout, s.stderr
FROM tasks AS t LEFT JOIN owners AS o ON o.id = t.owner LEFT JOIN tails AS s ON s.run = t.run AND s.idx = t.idx
WHERE t.run = ? ORDER BY t.idx;

-- name: list_solos
SELECT run, state, flags, token, cause, key, submitted, started, finished, extra, spec
FROM tasks
WHERE idx = 0 AND flags & 256 AND (?1 IS NULL OR submitted >= ?1) AND (?2 IS NULL OR submitted <= ?2) AND (?3 IS NULL OR key = ?3)
ORDER BY run DESC;

-- name: solo_states
SELECT run, state, token FROM tasks WHERE idx = 0 AND flags & 256 AND run IN (SELECT value FROM json_each(?));

-- name: run_states
SELECT id, state FROM runs WHERE id IN (SELECT value FROM json_each(?));

-- name: solo_outputs
SELECT t.run, t.state, t.output, t.extra, CASE WHEN length(t.spec) THEN t.spec ELSE p.body END
FROM tasks AS t LEFT JOIN payloads AS p ON p.run = t.run AND length(t.spec) = 0
WHERE t.idx = 0 AND t.flags & 256 AND t.run IN (SELECT value FROM json_each(?));

-- name: run_outputs
SELECT t.run, r.definition, t.idx, t.node, t.item, t.output, t.base, t.total
FROM runs AS r JOIN tasks AS t ON t.run = r.id
WHERE r.id IN (SELECT value FROM json_each(?)) AND t.state = 3;

-- name: queue_lengths
SELECT queue, count(*) FROM tasks WHERE state = 1 AND seq IS NOT NULL GROUP BY queue;

-- name: parked_lengths
SELECT queue, count(*) FROM tasks WHERE state = 1 AND seq IS NULL GROUP BY queue;

-- name: unmade_lengths
SELECT queue, sum(total - made) FROM tasks WHERE state = 2 AND owner IS NULL GROUP BY queue;

-- name: queue_oldest
SELECT queued FROM tasks WHERE state = 1 AND seq IS NOT NULL AND queue = ? ORDER BY seq LIMIT 1;

-- name: ahead
SELECT count(*) FROM tasks WHERE state = 1 AND seq IS NOT NULL AND queue = ? AND seq < ?;

-- name: obstacle_run
SELECT workflow, state, cause, round, submitted, start_at, deadline, ckey, holds, stop, definition, stage
FROM runs WHERE id = ?;

-- name: obstacle_tasks
SELECT t.idx, t.node, t.item, t.state, t.queue, t.seq, t.due, t.attempt, t.token, t.started, t.cause, t.detail,
    t.base, t.made, t.total, t.open, o.slot, t.flags, t.extra, t.submitted
FROM tasks AS t LEFT JOIN owners AS o ON o.id = t.owner
WHERE t.run = ? ORDER BY t.idx;

-- name: key_queue
SELECT id FROM runs WHERE ckey = ? AND holds = 0 AND ckey IS NOT NULL AND due IS NULL ORDER BY place;

-- ── moving into a fleet ─────────────────────────────────────────────────────────────────────────────────────────────

-- name: movable_singles
SELECT t.idx, t.node, t.item, t.state, t.flags, t.open, t.due, t.attempt, t.token, t.strikes, t.cause, t.queued, t.started,
    t.finished, t.base, t.made, t.total, t.detail, t.output, o.node, o.slot, s.stdout, s.stderr,
    t.run, t.queue, t.submitted, t.key, t.extra, t.spec
FROM tasks AS t LEFT JOIN owners AS o ON o.id = t.owner LEFT JOIN tails AS s ON s.run = t.run AND s.idx = t.idx
WHERE t.state = 1 AND t.seq IS NOT NULL AND t.flags & 256 ORDER BY t.queue, t.seq LIMIT ?;

-- name: delayed_singles
SELECT t.idx, t.node, t.item, t.state, t.flags, t.open, t.due, t.attempt, t.token, t.strikes, t.cause, t.queued, t.started,
    t.finished, t.base, t.made, t.total, t.detail, t.output, o.node, o.slot, s.stdout, s.stderr,
    t.run, t.queue, t.submitted, t.key, t.extra, t.spec
FROM tasks AS t LEFT JOIN owners AS o ON o.id = t.owner LEFT JOIN tails AS s ON s.run = t.run AND s.idx = t.idx
WHERE t.due IS NOT NULL AND t.state = 0 AND t.flags & 256 ORDER BY t.due LIMIT ?;

-- name: unfinished_runs
SELECT id FROM runs WHERE finished IS NULL AND id > ? ORDER BY id LIMIT ?;

-- name: has_ripples
SELECT 1 FROM ripples WHERE run = ? LIMIT 1;

-- name: tasks_to_move
SELECT t.idx, t.node, t.item, t.state, t.flags, t.open, t.due, t.attempt, t.token, t.strikes, t.cause, t.queued, t.started,
    t.finished, t.base, t.made, t.total, t.detail, t.output, o.node, o.slot, s.stdout, s.stderr
FROM tasks AS t LEFT JOIN owners AS o ON o.id = t.owner LEFT JOIN tails AS s ON s.run = t.run AND s.idx = t.idx
WHERE t.run = ? ORDER BY t.idx;

-- name: insert_move
INSERT INTO moves (run, number, at, head, confirmed) VALUES (?, ?, ?, ?, 0);

-- name: insert_part
INSERT INTO parcels (run, part, body) VALUES (?, ?, ?);

-- name: carrying
SELECT head FROM moves WHERE head IS NOT NULL ORDER BY number LIMIT ?;

-- name: part
SELECT body FROM parcels WHERE run = ? AND part = ?;

-- name: carried
UPDATE moves SET head = NULL WHERE run = ?;

-- name: delete_parts
DELETE FROM parcels WHERE run = ?;

-- name: unconfirmed
SELECT run FROM moves WHERE head IS NULL AND confirmed = 0 ORDER BY number LIMIT ?;

-- name: confirm
UPDATE moves SET confirmed = 1 WHERE run = ?;

-- name: prune_moves
DELETE FROM moves WHERE confirmed = 1 AND at < ?;

-- name: move
SELECT head FROM moves WHERE run = ?;

-- name: moves
SELECT run, head FROM moves WHERE run IN (SELECT value FROM json_each(?));

-- name: any_move
SELECT 1 FROM moves LIMIT 1;

-- name: count_carrying
SELECT count(*) FROM moves WHERE head IS NOT NULL;

-- name: delete_tasks_of
DELETE FROM tasks WHERE run = ?;

-- name: delete_tails_of
DELETE FROM tails WHERE run = ?;

-- name: unfinished
SELECT (SELECT count(*) FROM runs WHERE finished IS NULL)
    + (SELECT count(*) FROM tasks WHERE state = 1 AND seq IS NOT NULL AND flags & 256)
    + (SELECT count(*) FROM tasks WHERE due IS NOT NULL AND flags & 256)
    + (SELECT count(*) FROM tasks WHERE state = 2 AND owner IS NOT NULL AND flags & 256)
    + (SELECT count(*) FROM inbox WHERE sealed = 1)
    + (SELECT count(*) FROM moves WHERE head IS NOT NULL);
