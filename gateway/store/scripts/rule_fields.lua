-- The places of the values in a rule (meters.lua). accounts/rules.py writes rules.
local RULE_ID, RULE_NAME, RULE_KIND, RULE_VALUE, RULE_PATTERN, RULE_PERIOD = 1, 2, 3, 4, 5, 6
local RULE_OVERRIDE, RULE_OVERRIDE_END = 7, 8 -- only where an override holds for a while
