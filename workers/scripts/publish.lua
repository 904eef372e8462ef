-- Publishes messages in order: one call in place of as many commands.
--
-- ARGV  for each message: channel, text
-- Returns nothing

for a = 1, #ARGV, 2 do
    redis.call('PUBLISH', ARGV[a], ARGV[a + 1])
end
