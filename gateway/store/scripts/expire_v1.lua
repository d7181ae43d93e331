-- expire_v1: voids holds whose gateway died, for teams that admit nothing themselves just now.
--
-- KEYS 1 state  2 holds  3 held  4 journal
-- ARGV 1 most
-- Returns how many were voided.
--@include common
--@include limits
return expire_holds(KEYS[1], KEYS[2], KEYS[3], KEYS[4], server_ms(), ARGV[1])
