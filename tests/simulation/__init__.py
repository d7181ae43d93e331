"""A deterministic simulation: gateways, a store and a network in one process, with faults between any two commands.

world          simulated time, one source of randomness, what is going to happen
process_loop   the event loop of a simulated process
scripted_time  Lua in front of the gateway's scripts: they live in simulated time
nodes          servers of the store: databases of one real Valkey
network        connections that are slow, cut or silent
gateways       the production ledger, spool and store link as a process
scene          what takes part in a schedule, and its requests
workloads      which requests come
faults         what goes wrong, as a table
model          what must be true
schedules      a schedule from a seed
__main__       replays a schedule, or runs many
"""
