-- notice_end_v1: ends a notice: it was sent, or no attempt follows. Of two workers that sent it, the first one ends it.
--
-- KEYS 1 waiting  2 due  3 ended
-- ARGV 1 its id  2 the notice, JSON  3 how it ended: sent, failed  4 the most that have ended  5 their lifetime, ms
-- Returns 1, or 0 if it does not wait any more
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'notice', ARGV[2], 'result', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return 1
