-- queue_leave_v1: removes a request from its team's queue: its client has left, or its time in the queue has ended.
--
-- KEYS 1 queue  2 state
-- ARGV 1 hold id
-- Returns 1
--@include queue
leave_queue(KEYS[1], KEYS[2], ARGV[1])
return 1
