"""Teams, API keys, admin keys, sessions and credits in the store.

accounts        operations on teams, keys and credits
credits         grants and adjustments, of credits that expire too
authority       which admins may lift a restriction of a key
team_names      names of teams, and their repair
admin_keys      admin keys
entities        teams, keys and balances as values
limit_names     the names of limits
limit_hints     why no limit has a name, and which was meant
overrides       limits that replace others until a time
periods         when the periods of budgets begin, in time zones
end_users       what limits of each end user have counted for one
calendars       writes a team's calendar, the beginnings and ends of its periods
rules           limits in the form that scripts read
views           limits with their present usage
records         the stored hashes and lists of teams and keys
rotation        new secrets for existing keys
sessions        sessions of the dashboard
sign_in         sign-in by an identity provider
idempotency     idempotency keys of creations
serialization   limits, balances and times as JSON
"""
