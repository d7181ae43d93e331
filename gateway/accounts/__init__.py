"""Teams, API keys, admin keys, sessions and credits in the store.

accounts        teams, keys and movements of credits
authority       who may lift a restriction of a key
team_names      names of teams, and their repair
admin_keys      admin keys
entities        teams, keys and balances as values
limit_names     which limits there are
overrides       limits that hold for a while instead of others
periods         where the periods of budgets begin, in time zones
calendars       writes the ends of a team's periods
rules           what scripts need to know of limits
views           limits with their present usage
records         their hashes and lists as they are stored
rotation        new secrets for existing keys
sessions        sessions of the dashboard
sign_in         sign-in by an identity provider
idempotency     idempotency keys of creations
serialization   limits, balances and times as JSON
"""
