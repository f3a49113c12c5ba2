-- slots: what one life of a worker holds, as text, since it is read and written with every task:
--   NUMBER|VERDICTS|ENDED|CLAIMS    of the last request; ENDED: "RUN INSTANT," not yet written to `ended`
--   a claim: "RUN.IDX@TOKEN KIND STARTED NUMBER STOP ALWAYS;"   kind 0 step, 1 single task in its first life, 2 another, 3 plain step
local slots = {}

function slots.parse(raw)
  local slot = { n = '0', v = '', e = '', c = {} }
  if not raw or raw == 'retired' then return slot end
  local number, verdicts, ended, claims = string.match(raw, '^(%d+)|(%a*)|([^|]*)|(.*)$')
  slot.strange = not number -- a newer form, or spoilt: left as it is
  if slot.strange then return slot end
  slot.n, slot.v, slot.e = number, verdicts, ended
  local form = '(%w+)%.(%d+)@(%d+) (%d) (%d+) (%d+) (%S+) (%S+);'
  for id, idx, token, kind, started, request, stop, always in string.gmatch(claims, form) do
    local plain = kind == '3' -- a step like any, where it is not asked for
    slot.c[#slot.c + 1] = {
      id = id, idx = tonumber(idx), token = tonumber(token), kind = plain and 0 or tonumber(kind), plain = plain,
      started = tonumber(started), request = request, stop = stop ~= '-' and stop or nil, always = always == 'a',
      name = id .. '.' .. idx,
    }
  end
  return slot
end

function slots.claim_text(claim)
  return string.format(
    '%s@%.0f %d %.0f %s %s %s;', claim.name, claim.token, claim.plain and 3 or claim.kind, claim.started, claim.request, claim.stop or '-',
    claim.always and 'a' or '-')
end

function slots.text(slot)
  local claims = {}
  for n, claim in ipairs(slot.c) do claims[n] = slots.claim_text(claim) end
  return slot.n .. '|' .. slot.v .. '|' .. slot.e .. '|' .. table.concat(claims)
end

function slots.write_ended(ended)
  local entries = {}
  for entry in string.gmatch(ended, '([^,]+),') do
    entries[#entries + 1] = entry
    if #entries == 200 then
      call('RPUSH', P .. 'ended', unpack(entries))
      entries = {}
    end
  end
  if #entries > 0 then call('RPUSH', P .. 'ended', unpack(entries)) end
end
