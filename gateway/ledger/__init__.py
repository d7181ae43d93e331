"""The ledger: holds are reserved, settled and voided, and every movement is journalled.

ledger              admits and settles requests, each with one script
admissions          what an admission asks for, and what the store answers
abandoned           voids admissions that nobody waits for any more
admission_call      what an admission sends to the store
policy              what the settings say
waiting_line        requests that wait for their turn
slot_times          how long requests keep their slots
upkeep              what is done beside requests: leases, renewal, expiry, the spool, replicas
owners              names the worker that made a hold
replication         keeps settlements until the store's replicas have them
spool               keeps on disk what the store could not accept
settlement_call     what a settlement sends to the store
packed_entry        reads settlements as the journal keeps them
archived            what left the journal for files, as sums
journal             every movement of a team's credits
missing             finds teams and keys that are named and gone
verification        recomputes the balances from the journal
hold_expiry         renews, restores and voids holds
known_responses     remembers which upstream made a response
refusals            turns a refused admission into an error that explains itself
enforcement_check   checks that the store enforces limits before the gateway is ready
"""
