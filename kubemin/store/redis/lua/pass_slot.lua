--@ top: core mark
--@ fenced
-- A schedule's slot is passed over: its mark is raised and nothing is started.
-- KEYS   1 workflows
-- ARGV   1 prefix; 2 packed: mark [workflow, slot]
-- reply  1, or 0 when the mark was there
return M.raise_mark(REQ.mark[1], REQ.mark[2]) and 1 or 0
