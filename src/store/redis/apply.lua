#!lua
-- One atomic step. Everything is checked before anything is written, and what is written cannot
-- fail: the types of all keys are known by then. The shebang makes Redis refuse the script as a
-- whole when it is out of memory, read-only or cannot save.
--
-- KEYS: meta, status, positions, lease, alive
-- ARGV: writer, epoch, sequence before, batch id ('' when this is not the end of a batch),
--   lease ms, alive ms ('': leave it, '0': delete it), form,
--   '1' if whole rows are likely to be new, generation, role, sequence behind it,
--   positions: n, n * (field, from ('' if it must be absent), to)
--   types: n, n * (key, type)
--   expected beginnings of rows that were read before: n, n * (key, beginning; '' if absent)
--   whole rows: groups, groups * (field of the row count, what the commands add to it, what the table
--     hides ('': nothing), bytes of a key before its text, n, n * (key, body))
--     a body is, by the form: a payload of RESTORE; the fields of HSET, packed; JSON
--   commands: n, n * (words, '1' if its right is to be checked, words...)
--   what is said of the live generation, which nobody else writes: '' or its meta, then its
--     generation, its database and that of the connection ('': the same), its status, its alive,
--     and a number of fields and values of the status
-- Returns {what, ...}; 'ok' with one letter per whole row: inserted, updated, stale; 'join' also with
-- those that have to be joined, which are hidden or have versions per column.
local call, byte, sub, find, unpack, unpacked = redis.call, string.byte, string.sub, string.find, unpack, cmsgpack.unpack
local meta, status, positions, lease, alive = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local ARGV = ARGV
local at = 11

local function take()
  at = at + 1
  return ARGV[at]
end

local function count()
  at = at + 1
  return tonumber(ARGV[at])
end

-- Whether a is after b in the order of bytes. Lua's own comparison follows the locale.
local function newer(a, b)
  if a == b then return false end
  local n = #a < #b and #a or #b
  local i = 1
  while i + 7 <= n do
    local a1, a2, a3, a4, a5, a6, a7, a8 = byte(a, i, i + 7)
    local b1, b2, b3, b4, b5, b6, b7, b8 = byte(b, i, i + 7)
    if a1 ~= b1 then return a1 > b1 end
    if a2 ~= b2 then return a2 > b2 end
    if a3 ~= b3 then return a3 > b3 end
    if a4 ~= b4 then return a4 > b4 end
    if a5 ~= b5 then return a5 > b5 end
    if a6 ~= b6 then return a6 > b6 end
    if a7 ~= b7 then return a7 > b7 end
    if a8 ~= b8 then return a8 > b8 end
    i = i + 8
  end
  while i <= n do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x > y end
    i = i + 1
  end
  return #a > #b
end

local function is(key, wanted)
  local found = call('TYPE', key).ok
  return found == wanted or found == 'none'
end

for key, wanted in pairs({ [meta] = 'hash', [status] = 'hash', [positions] = 'hash', [lease] = 'string', [alive] = 'string' }) do
  if not is(key, wanted) then return { 'type', key } end
end

-- Of this process, in this role; otherwise why not.
local function strange(meta, generation, role, sequence)
  local owner = call('HMGET', meta, 'writer', 'epoch', 'generation', 'role', 'sequence')
  if not owner[1] then return { 'gone' } end
  if owner[3] ~= generation or owner[4] ~= role then return { 'moved' } end
  if owner[1] ~= ARGV[1] or owner[2] ~= ARGV[2] then return { 'epoch', owner[2] } end
  if sequence and owner[5] ~= sequence then return { 'sequence', owner[5] } end
end

local refusal = strange(meta, ARGV[9], ARGV[10], ARGV[3])
if refusal then return refusal end

local moves = {}
for _ = 1, count() do
  local field, from, to = take(), take(), take()
  local found = call('HGET', positions, field) or ''
  if found ~= from then return { 'position', field, found } end
  if to ~= '' then
    moves[#moves + 1] = field
    moves[#moves + 1] = to
  end
end

for _ = 1, count() do
  local key, wanted = take(), take()
  if not is(key, wanted) then return { 'type', key } end
end

local restores, json = ARGV[7] == 'restore', ARGV[7] == 'json'

for _ = 1, count() do
  local key, beginning = take(), take()
  local found
  if not json then
    found = call('HGET', key, '_v') or ''
  else
    found = call('GETRANGE', key, '0', beginning == '' and '0' or string.format('%d', #beginning - 1))
  end
  if found ~= beginning then return { 'row', key } end
end

-- The version within a body.
local function version_of(body)
  if restores then
    -- Behind the type, the length of the listpack (one, two or five bytes), its head, and `_v`.
    local length = byte(body, 2)
    local from = (length < 64 and 3 or length < 128 and 4 or 7) + 10
    return sub(body, from + 1, from + byte(body, from) - 128)
  elseif json then
    return sub(body, 8, find(body, '"', 8, true) - 1)
  end
  local _, version = unpacked(body)
  return version
end

-- The guard of a whole row over a whole row: the newer one wins. Where none is there yet, one
-- question says so.
local rows_at = at
local outcome, joins, nth = {}, false, 0
-- One key of each table.
local samples = {}
local some = ARGV[8] == '0'
local keys = {}
for _ = 1, count() do
  at = at + 5
  local last = at + 2 * tonumber(ARGV[at])
  if last > at then samples[#samples + 1] = ARGV[at + 1] end
  for i = at + 1, last, 2 do
    nth = nth + 1
    keys[nth] = ARGV[i]
    if not some and nth % 1000 == 0 then some = call('EXISTS', unpack(keys, nth - 999, nth)) > 0 end
  end
  at = last
end
local rest = nth % 1000
if not some and rest > 0 then some = call('EXISTS', unpack(keys, nth - rest + 1, nth)) > 0 end
local total, rows_end = nth, at
nth, at = 0, rows_at
for _ = 1, some and count() or 0 do
  at = at + 5
  local last = at + 2 * tonumber(ARGV[at])
  for i = at + 1, last, 2 do
    local key = ARGV[i]
    local letter, old
    if not json then
      old = call('HGET', key, '_v')
      if not old then
        letter = 'i'
      elseif byte(old, 1) == 0 then
        letter = 'j'
      end
    else
      -- As long as `{"_v":"` and the longest version are. Texts, as everywhere: a number would be
      -- printed as a floating-point one first, which takes longer than reading it.
      local head = call('GETRANGE', key, '0', '91')
      if head == '' then
        letter = 'i'
      else
        if sub(head, 1, 7) ~= '{"_v":"' then return { 'row', key } end
        local last = find(head, '"', 8, true)
        -- Zero and details: no version begins so.
        if byte(head, 8) == 33 and (byte(head, 9) or 0) < 66 then
          letter = 'j'
        elseif not last then
          return { 'row', key }
        end
        old = last and sub(head, 8, last - 1)
      end
    end
    if not letter then letter = newer(version_of(ARGV[i + 1]), old) and 'u' or 's' end
    joins = joins or letter == 'j'
    nth = nth + 1
    outcome[nth] = letter
  end
  at = last
end

-- Only of a row that is not there may something be hidden.
nth, at = 0, rows_at
for _ = 1, count() do
  at = at + 5
  local hidden, before, rows = ARGV[at - 2], tonumber(ARGV[at - 1]), tonumber(ARGV[at])
  if hidden ~= '' then
    if not is(hidden, 'hash') then return { 'type', hidden } end
    local texts, places = {}, {}
    for n = nth + 1, nth + rows do
      if not some or outcome[n] == 'i' then
        texts[#texts + 1] = sub(keys[n], before + 1)
        places[#places + 1] = n
      end
      if #texts == 1000 or n == nth + rows and #texts > 0 then
        for i, found in ipairs(call('HMGET', hidden, unpack(texts))) do
          if found then
            outcome[places[i]] = 'h'
            joins = true
          end
        end
        texts, places = {}, {}
      end
    end
  end
  nth = nth + rows
  at = at + 2 * rows
end
at = rows_end

-- What is there is more than a row and its version: the caller joins it in full.
if joins then
  for i = 1, total do outcome[i] = outcome[i] or 'i' end
  return { 'join', table.concat(outcome) }
end

-- The user's rights may have been changed since they were looked at.
local function denied(...)
  return not redis.acl_check_cmd(...)
end
for _, command in ipairs({ { 'HSET', meta, 'f', 'v' }, { 'HSET', status, 'f', 'v' }, { 'HSET', positions, 'f', 'v' }, { 'SET', lease, 'v', 'PX', '1' }, { 'SET', alive, 'v', 'PX', '1' }, { 'DEL', alive } }) do
  if denied(unpack(command)) then return { 'denied', command[1] } end
end
for _, key in ipairs(samples) do
  for _, command in ipairs(json and { { 'SET', key, 'v' } } or restores and { { 'RESTORE', key, '0', 'v' } } or { { 'HSET', key, 'f', 'v' }, { 'DEL', key } }) do
    if denied(unpack(command)) then return { 'denied', command[1] } end
  end
end
for _ = 1, count() do
  local words, sample = count(), take()
  if sample == '1' and denied(unpack(ARGV, at + 1, at + words)) then return { 'denied', ARGV[at + 1] } end
  at = at + words
end
local carried = take()
if carried ~= '' then
  local generation, there, here, carried_status, carried_alive = take(), take(), take(), take(), take()
  if there ~= '' then call('SELECT', there) end
  local refused = strange(carried, generation, 'live')
  for key, wanted in pairs({ [carried_status] = 'hash', [carried_alive] = 'string' }) do
    if not refused and not is(key, wanted) then refused = { 'type', key } end
  end
  if there ~= '' then call('SELECT', here) end
  if refused then return refused end
end

nth = 0
at = rows_at
for _ = 1, count() do
  local field, known = take(), count()
  at = at + 2
  local rows = count()
  known = known + tonumber(call('HGET', status, field) or '0')
  for i = at + 1, at + 2 * rows, 2 do
    local key = ARGV[i]
    nth = nth + 1
    local letter = some and outcome[nth] or 'i'
    if letter == 'i' then known = known + 1 end
    if letter == 's' then
      -- What is there is newer.
    elseif restores then
      call('RESTORE', key, '0', ARGV[i + 1], 'REPLACE')
    elseif json then
      call('SET', key, ARGV[i + 1])
    else
      if letter == 'u' then call('DEL', key) end
      call('HSET', key, unpacked(ARGV[i + 1]))
    end
  end
  at = at + 2 * rows
  call('HSET', status, field, string.format('%d', known))
end
for _ = 1, count() do
  local words = count()
  at = at + 1
  call(unpack(ARGV, at + 1, at + words))
  at = at + words
end

local function keep_alive(key)
  if ARGV[6] == '0' then
    call('DEL', key)
  elseif ARGV[6] ~= '' then
    call('SET', key, ARGV[2], 'PX', ARGV[6])
  end
end

if take() ~= '' then
  at = at + 1
  local there, here, carried_status, carried_alive, words = take(), take(), take(), take(), count()
  if there ~= '' then call('SELECT', there) end
  for first = at + 1, at + words, 2000 do
    call('HSET', carried_status, unpack(ARGV, first, math.min(first + 1999, at + words)))
  end
  call('SET', lease, ARGV[1], 'PX', ARGV[5])
  keep_alive(carried_alive)
  if there ~= '' then call('SELECT', here) end
end

call('HSET', meta, 'sequence', ARGV[11])
if ARGV[4] ~= '' then call('HSET', meta, 'last_batch', ARGV[4]) end
call('SET', lease, ARGV[1], 'PX', ARGV[5])
keep_alive(alive)
for i = 1, #moves, 2 do call('HSET', positions, moves[i], moves[i + 1]) end
return { 'ok', some and table.concat(outcome) or string.rep('i', total) }
