"""The ledger: holds are reserved, settled and voided, and every movement is journalled.

ledger              admits and settles requests, each with one script
policy              the settings of the ledger
admissions          the request and the result of an admission
admission_call      the keys and arguments of the admission script
abandoned           voids admissions that nobody waits for any more
request_queue       requests that wait in the queue of their team
slot_times          how long requests keep their slots
refusals            turns a refused admission into an error that explains itself
settlement_call     the keys, arguments and reply of the settlement script
known_responses     remembers which upstream made a response
upkeep              the background work: leases, renewal, expiry, the spool, replicas
owners              names the worker that made a hold
hold_expiry         renews, restores and voids holds
replication         keeps settlements until the store's replicas have them
spool               keeps settlements on disk that the store could not accept
journal             every movement of a team's credits
packed_entry        reads the packed entries of the journal
archived            moves entries from the journal to files, and keeps their sums
verification        recomputes the balances from the journal
end_user_books      compares the counters of end users with the holds
missing             finds teams and keys that something names and that do not exist any more
enforcement_check   checks that the store enforces limits before the gateway is ready
"""
