-- queue_leave_v1: takes a request out of its team's queue: its client has left, or it has waited long enough.
--
-- KEYS 1 queue  2 state
-- ARGV 1 hold id
-- Returns 1
--@include queue
leave(KEYS[1], KEYS[2], ARGV[1])
return 1
