"""The books: holds are reserved, settled and voided, and every movement is journalled.

ledger              admits and settles requests, each by one script
spool               keeps on disk what the store cannot take
journal             every movement of a team's credits
verification        recomputes the books from the journal
hold_expiry         voids the holds of gateways that died
known_responses     remembers who made a response
refusals            a refused admission as an error that explains itself
enforcement_check   proves that the store enforces limits before the gateway is ready
"""
