"""Notices: operators' recipients learn that a team comes near a limit, once for each threshold and period.

policy        recipients and bounds, as the settings say
thresholds    what a team or a key has reached; pure
message       a notice in the forms in which it is sent, and its signature; pure
outbox        the notices that wait, those that ended, and which thresholds were noticed, in the store
webhook       sends one by HTTP
mail          sends one by SMTP
notices       one worker of all looks at teams and sends; the others stand by
"""
