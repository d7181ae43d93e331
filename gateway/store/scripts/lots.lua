-- For the scripts that move money: credits that expire. Included inside of a block, after common.lua.
--
-- A lot is what is left of the credits that expire at one time. The field "lot_window" of a team's state is a MessagePack
-- array of two numbers for each lot, in the order of their expiry: the time of the expiry (ms) and the amount. "" means
-- that there are no lots. They are a part of `available`; the rest of `available` does not expire.
-- From its expiry on nobody can spend a lot. It stays in both until a script that has the journal takes it out of both,
-- and posts it (post_lapsed).
-- A hold names what it took of lots, before the meters that count it: "l<expiry>.<amount>". Scripts of earlier versions
-- skip these names, and give back what was held to the credits that do not expire.

-- Adds to the names of what was taken of lots.
local function with_name(names, expiry, amount)
  return string.format('%s%sl%d.%d', names, names == '' and '' or ',', expiry, amount)
end

-- Takes an amount from the lots that have not expired, as far as they have it, from the first to the last. Returns the
-- names of what was taken, after those of what was taken before.
local function take_from_lots(lots, now, amount, before)
  local taken = before or ''
  for at = 1, #lots, 2 do
    local part = lots[at] > now and min(amount, lots[at + 1]) or 0
    if part > 0 then
      lots[at + 1], amount, taken = lots[at + 1] - part, amount - part, with_name(taken, lots[at], part)
    end
  end
  return taken
end

-- Lets the lots pay for what was spent although nothing else was left, so that they never have more than what is
-- `available` without those that have expired.
local function pay_from_lots(lots, available, now)
  local left = 0
  for at = 1, #lots, 2 do left = left + (lots[at] > now and lots[at + 1] or 0) end
  take_from_lots(lots, now, left - max(0, available))
end

-- Returns what is available without the lots that have expired. The others pay for what earlier versions have spent.
local function without_expired(lots, available, now)
  for at = 1, #lots, 2 do
    if lots[at] <= now then available = available - lots[at + 1] end
  end
  pay_from_lots(lots, available, now)
  return available
end

-- Returns the place of a lot, which is added if it is missing.
local function lot_at(lots, expiry)
  local at = 1
  while lots[at] and lots[at] < expiry do at = at + 2 end
  if lots[at] ~= expiry then
    table.insert(lots, at, 0)
    table.insert(lots, at, expiry)
  end
  return at
end

-- Gives back to the lots what a hold took of them, and charges its cost. What it took of a lot that has expired since
-- may still pay for that. Returns the names of what paid.
local function charge_lots(lots, held, cost, now)
  local paid_by = ''
  for expiry, amount in string.gmatch(held, 'l(%d+)%.(%d+)') do
    local at, paid = lot_at(lots, expiry + 0), expiry + 0 <= now and max(0, min(cost, amount + 0)) or 0
    lots[at + 1], cost = lots[at + 1] + amount - paid, cost - paid
    if paid > 0 then paid_by = with_name(paid_by, expiry, paid) end
  end
  return take_from_lots(lots, now, cost, paid_by)
end

-- Lowers an earlier charge to `cost`. The named lots had paid for it, one after the other, and get back what they need
-- not pay any more.
local function lower_charge(lots, paid_by, cost)
  for expiry, amount in string.gmatch(paid_by, 'l(%d+)%.(%d+)') do
    local at, paid = lot_at(lots, expiry + 0), min(cost, amount + 0)
    lots[at + 1], cost = lots[at + 1] + amount - paid, cost - paid
  end
end

-- Returns the lots that expire after a time and have something left.
local function lots_after(lots, time)
  local kept = {}
  for at = 1, #lots, 2 do
    if lots[at] > time and lots[at + 1] > 0 then kept[#kept + 1], kept[#kept + 2] = lots[at], lots[at + 1] end
  end
  return kept
end

-- The same, as they are stored.
local function pack_lots(lots, after)
  local kept = lots_after(lots, after)
  return kept[1] and cmsgpack.pack(kept) or ''
end

-- Journals what was left of the lots that have expired, and takes it out of what was granted. `balance` is the one
-- before. "lapsed" and "lapsed_ms" are how much has expired since the last grant, and when the last of it did.
local function post_lapsed(state, journal, lots, now, balance)
  for at = 1, #lots, 2 do
    local expiry, amount = lots[at], lots[at + 1]
    if expiry <= now and amount > 0 then
      balance = balance - amount
      redis.call('HINCRBY', state, 'granted', -amount)
      redis.call('HINCRBY', state, 'lapsed', amount)
      redis.call('HSET', state, 'lapsed_ms', max(expiry, (redis.call('HGET', state, 'lapsed_ms') or 0) + 0))
      redis.call('XADD', journal, '*', 'type', 'lapse', 'id', string.format('lapse_%d', expiry), 'amount', -amount,
        'balance', balance, 'expires', expiry)
    end
  end
end
