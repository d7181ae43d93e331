"""Notices: messages to operators when a team comes near a limit, one for each threshold and period.

policy        the recipients and the bounds of sending
thresholds    the thresholds that a team or a key has reached; pure
message       a notice in the formats in which it is sent, and its signature; pure
outbox        waiting and ended notices, and the thresholds that gave a notice, in the store
webhook       sends a notice by HTTP
mail          sends a notice by SMTP
notices       the work of the one worker that finds and sends notices
"""
