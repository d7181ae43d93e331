-- expire_v1: voids holds of gateways that died, for teams that admit no requests themselves at the moment.
--
-- KEYS 1 state  2 holds  3 held  4 journal
-- ARGV 1 the most holds to void
-- Returns the number of voided holds.
--@include common
--@include limits
return expire_holds(KEYS[1], KEYS[2], KEYS[3], KEYS[4], server_ms(), ARGV[1])
