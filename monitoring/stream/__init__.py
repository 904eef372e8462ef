"""The live event stream of the operators: what one web process sends to all who listen to it.

wire: events as text        log: the resumable log in Redis        listener: one connection's queue
figures: health, prices     session: shared by all listeners       hub: joins them, and ends them on shutdown
"""
