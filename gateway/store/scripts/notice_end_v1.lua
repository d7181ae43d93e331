-- notice_end_v1: ends a notice that was sent, or that is not tried again. If two workers sent it, the first one ends
-- it.
--
-- KEYS 1 waiting  2 due  3 ended
-- ARGV 1 its id  2 the notice, JSON  3 its result: sent, failed  4 maximum number of ended notices  5 their lifetime, ms
-- Returns 1, or 0 if it no longer waits
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'notice', ARGV[2], 'result', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return 1
