"""The ledger and its store, on real servers."""
