-- token: a duty of the leader passes only in the term, and from the holder, that the store knows as the newest.
if REQ.epoch then
  local known = call('GET', P .. 'epoch')
  if known ~= string.format('%.0f', REQ.epoch) .. ' ' .. REQ.holder then
    return redis.error_reply('FENCED the term is ' .. (known or 'unknown'))
  end
end
