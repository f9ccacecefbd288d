"""What ``torch.profiler`` wrote (Kineto's JSON) to a trace.

document   bytes of the file  ──►  lists of events, some megabytes at a time, and what else the file says
columns    events             ──►  columns of numbers, one set for each kind of event; names and arguments once each
...        columns            ──►  the tables of a trace, as `read_kineto` puts them together
"""
