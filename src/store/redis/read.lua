#!lua flags=no-writes
-- Reads several things at one moment. Not MULTI, which Redis refuses when it is out of memory.
--
-- ARGV: n, n * (words, words...). Returns the answers.
local answers = {}
local at = 1
for i = 1, tonumber(ARGV[1]) do
  local words = tonumber(ARGV[at + 1])
  answers[i] = redis.call(unpack(ARGV, at + 2, at + 1 + words))
  at = at + 1 + words
end
return answers
