"""What operators look at: usage, outcomes, refusals, recent and live requests, the audit log."""
