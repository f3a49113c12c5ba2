-- tails: the last output of tasks, within a budget for all of them: the oldest are dropped first. `tailed` lists them in
-- order as TASK=BYTES, `tailbytes` sums those bytes up; tails that went with their run are noticed when their turn comes.

-- Its last `most` bytes, from the beginning of a character.
local function cut(text, most)
  if #text <= most then return text end
  return string.match(string.sub(text, -most), '^[\128-\191]*(.*)$')
end

function M.keep_tails(claim, stdout, stderr, most, budget)
  local id, idx = claim.id, claim.idx
  if stdout == '' and stderr == '' then
    call('HDEL', P .. 'tails:' .. id, idx)
    return
  end
  local body = cmsgpack.pack({ cut(stdout, most), cut(stderr, most) })
  call('HSET', P .. 'tails:' .. id, idx, body)
  call('RPUSH', P .. 'tailed', id .. '.' .. idx .. '=' .. #body)
  local total = call('INCRBY', P .. 'tailbytes', #body)
  local rounds = 0
  while total > budget and rounds < 20 do
    local oldest = call('LPOP', P .. 'tailed')
    if not oldest then break end
    local run, number, size = string.match(oldest, '^(%w+)%.(%d+)=(%d+)$')
    call('HDEL', P .. 'tails:' .. run, number)
    total = call('DECRBY', P .. 'tailbytes', size)
    rounds = rounds + 1
  end
end
