#!lua flags=allow-oom
-- Changes the bookkeeping of a replica as a whole: checks everything, then does what cannot fail.
-- Small, and what it frees may be needed: it runs also when memory is out.
--
-- ARGV: the database of the connection
--   owners: n, n * (database, meta, writer, epoch, generation, role, sequence); '' is not looked
--     at; a writer '-': there must be no such generation
--   types: n, n * (database, key, type)
--   commands: n, n * (words, words...). RENAME of a key that is not there does nothing.
-- Returns {'ok'}, or what is not as it should be and by whom: {'gone', nth}, {'there', nth},
-- {'epoch', nth, found}, {'generation', nth, found, role}, {'sequence', nth}, {'type', key},
-- {'denied', command}.
local call = redis.call
local at = 0

local function take()
  at = at + 1
  return ARGV[at]
end

-- Whoever stays in one database needs no right to leave it.
local here = take()
local function go(database)
  if database ~= here then call('SELECT', database) end
  here = database
end

local function differs(wanted, found)
  return wanted ~= '' and wanted ~= found
end

for nth = 1, tonumber(take()) do
  go(take())
  local meta, writer, epoch, generation, role, sequence = take(), take(), take(), take(), take(), take()
  local kind = call('TYPE', meta).ok
  if kind ~= 'hash' and kind ~= 'none' then return { 'type', meta } end
  local found = call('HMGET', meta, 'writer', 'epoch', 'generation', 'role', 'sequence')
  if writer == '-' then
    if found[3] then return { 'there', tostring(nth) } end
  else
    if not found[3] then return { 'gone', tostring(nth) } end
    if differs(writer, found[1]) or differs(epoch, found[2]) then return { 'epoch', tostring(nth), found[2] or '0' } end
    if differs(generation, found[3]) or differs(role, found[4]) then
      return { 'generation', tostring(nth), found[3], found[4] or '' }
    end
    if differs(sequence, found[5]) then return { 'sequence', tostring(nth) } end
  end
end

for _ = 1, tonumber(take()) do
  go(take())
  local key, wanted = take(), take()
  local found = call('TYPE', key).ok
  if found ~= wanted and found ~= 'none' then return { 'type', key } end
end

-- What the user may not do must not be found when half of it is done. Rights are given by prefix: one
-- command of each kind stands for all.
local commands, first, seen, there = tonumber(take()), at, {}, here
for _ = 1, commands do
  local words = tonumber(take())
  local verb = ARGV[at + 1]
  local stays = verb == 'SELECT' and ARGV[at + 2] == there
  if not stays and not seen[verb] then
    if not redis.acl_check_cmd(unpack(ARGV, at + 1, at + words)) then return { 'denied', verb } end
    seen[verb] = true
  end
  if verb == 'SELECT' then there = ARGV[at + 2] end
  at = at + words
end
at = first

for _ = 1, commands do
  local words = tonumber(take())
  if ARGV[at + 1] == 'SELECT' then
    go(ARGV[at + 2])
  elseif ARGV[at + 1] ~= 'RENAME' or call('EXISTS', ARGV[at + 2]) == 1 then
    call(unpack(ARGV, at + 1, at + words))
  end
  at = at + words
end
return { 'ok' }
