"""Prices, holds, costs, and the charge for each outcome of a request. Pure.

money         nano-USD, and the one place where amounts are rounded
rates         kinds of token rates, and the rates in force
price_row     a model's price as data
price_table   all price rows of a configuration
hold          the most that a request can cost
bill          a cost as text in the journal, with all its lines
cost          what a usage costs, itemised
lifecycle     the states and outcomes of a request
settlement    from an outcome to a charge
reconciliation       compares the journal with what a provider bills
provider_export      a provider's export of its charges, as rows
most_expensive_rows  the rows of which one is the most expensive for any request
"""
