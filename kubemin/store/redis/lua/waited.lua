-- waited: what BLPOP has popped, when it ran over the same connection just before this script. That says the server to
-- its client alone; here it is what stands lowest in `pending` and in no list, in the order of the queues. Of several
-- workers that were served in one turn each finds one: the first script may take what the second one's BLPOP popped.
-- What a dead worker popped is found as well. Of a paused queue nothing is taken: its entries stand in another list.
local function waited()
  local at = 1
  for held_list in string.gmatch(ARGV[10], '%S+') do
    at = at + 2
    local first = call('ZRANGE', KEYS[at], 0, 0, 'WITHSCORES')
    if first[1] then
      local head, seq = call('LINDEX', KEYS[at - 1], 0), tonumber(first[2])
      local listed = head and tonumber(match(head, '@(%d+)$'))
      if (not head or listed and seq < listed) and call('EXISTS', held_list) == 0 then
        return first[1] .. '@' .. string.format('%.0f', seq), KEYS[at]
      end
    end
  end
end
