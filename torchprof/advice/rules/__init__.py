"""Rules of advice: what could be better in a program, how much it is worth, and what to do.

A rule is a function of a trace under the decorator `torchprof.advice.registry.rule`, in a file of its own. Every file here is
imported. It yields a `Finding` for each place worth a change, and none where there is nothing; it raises `NotTold` where the
trace does not say. What it is worth is measured, or an honest range: never more than the figures in the trace allow to say.

To add one: write the file, and beside its tests a trace that triggers it and one, nearly the same, that does not
(``tests/unit/advice/``).
"""
