-- restore_v4: reserves the hold of a running request again, after a failover of the store has lost it, or another
-- worker has voided it as the hold of a dead worker.
--
-- KEYS 1 team  2 key  3 state  4 holds  5 held  6 journal  7 the record in which settle_v5 stored its end  8 index
--      9 end users
-- ARGV 1 hold id  2 key id  3 hold, nano-USD  4 hold, tokens  5 admitted_ms  6 lifetime of the hold, ms
--      7 the latest time at which this may run, by the server's clock in ms; "" for any time
--      8 fingerprint of the hold id, for the index  9 the meters that counted it, or "" (meter_counting.lua),
--        and the end user after them (end_users.lua)
-- Returns 1 if restored | 2 if it exists | 3 if it has ended | 4 if the team does not exist, or the call came too late
--
-- No limit is checked, because the request already runs. It does not count for the rates again. It takes of the credits
-- that expire what is there now (lots.lua). A meter that a failover has lost begins anew (lost_meters.lua).
--
--@include common
--@include limits
--@include permitted
--@include lots
--@include entry
--@include index
--@include index_lookup
--@include meter_counting
local team_hash, key_hash, state, holds, held_hash, journal, done, index, end_users = unpack(KEYS)
local hold_id, key_id, amount, tokens, admitted_ms = ARGV[1], ARGV[2], ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0
local now = server_ms()
if ARGV[7] ~= '' and now > ARGV[7] + 0 or redis.call('EXISTS', team_hash) == 0 then return 4 end
if redis.call('HEXISTS', held_hash, hold_id) == 1 then return 2 end
if redis.call('EXISTS', done) == 1 or find_entry(index, journal, ARGV[8], packed_id(hold_id), 1) then return 3 end
local available, held, team, key, packed_lots = load_state(state, key_id, 'lot_window')
local lots = packed_lots and packed_lots ~= '' and cmsgpack.unpack(packed_lots)
local names, balance = ARGV[9], available + held
if lots then
  available = without_expired(lots, available, now)
  local taken = take_from_lots(lots, now, amount)
  names = taken .. (taken ~= '' and names ~= '' and ',' or '') .. names
end
for _, scope in ipairs({ key, team }) do
  advance(scope, nil, now)
  scope[OPEN] = scope[OPEN] + 1
  add_used(scope, admitted_ms, amount, tokens)
end
if ARGV[9] ~= '' then
--@include end_users_resolving
--@include overrides
--@include meters
--@include lost_meters
  local meters, names, end_user = read_meters(state, key_id), string.match(ARGV[9], '^(.*),u(%w+)$')
  local entries, kept_ms = {}, 0
  names = names or ARGV[9]
  if end_user then
    entries, kept_ms = read_entries(end_users, key_id, end_user)
    for scope, entry in pairs(entries) do meters[scope] = entry[METERS] end
  end
  for scope, id in string.gmatch(names, '([tkef])([^,]+)') do
    local meter = meter_that_counts(meters, entries, scope, id)
    if meter then count_in_meter(meter, admitted_ms, amount, tokens, 1) end
  end
  if end_user then
    save_counted({ end_users = end_users, key_id = key_id, end_user = end_user }, names, entries, kept_ms, now, 1)
  end
  redis.call('HSET', state, 'meter_window', cmsgpack.pack(meters.t or {}), key_id .. ':meter_window', cmsgpack.pack(meters.k or {}))
end
if lots then
  post_lapsed(state, journal, lots, now, balance)
  redis.call('HSET', state, 'lot_window', pack_lots(lots, now))
end
save_state(state, key_id, available - amount, held + amount, team, key)
redis.call('ZADD', holds, now + ARGV[6], hold_id)
redis.call('HSET', held_hash, hold_id, string.format('%d %d %d %s %d%s', amount, tokens, admitted_ms, key_id, 0,
  names == '' and '' or ' ' .. names))
return 1
