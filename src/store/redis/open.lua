#!lua
-- Takes over a generation. Nothing is changed if it belongs to somebody else.
--
-- KEYS: meta, lease
-- ARGV: writer, lease ms, then fields and values that must be the same
-- Returns {'ok', epoch}, {'held', holder, ms left}, {'none'}, {'type', key} or
-- {'foreign', field, found}.
local call = redis.call
local meta, lease = KEYS[1], KEYS[2]
for key, wanted in pairs({ [meta] = 'hash', [lease] = 'string' }) do
  local found = call('TYPE', key).ok
  if found ~= wanted and found ~= 'none' then return { 'type', key } end
end
if call('EXISTS', meta) == 0 then return { 'none' } end
for i = 3, #ARGV, 2 do
  local found = call('HGET', meta, ARGV[i]) or ''
  if found ~= ARGV[i + 1] then return { 'foreign', ARGV[i], found } end
end
local holder = call('GET', lease)
if holder and holder ~= ARGV[1] then return { 'held', holder, call('PTTL', lease) } end
local epoch = tonumber(call('HGET', meta, 'epoch') or '0') + 1
call('HSET', meta, 'writer', ARGV[1], 'epoch', string.format('%d', epoch))
call('SET', lease, ARGV[1], 'PX', ARGV[2])
return { 'ok', string.format('%d', epoch) }
