"""RESULTS -> comparison.json: engines side by side on the same workloads, which one they favour, by how much, how sure, at what cost.

compare(paths, Options) -> dict

runs        what is compared: runs by workload and engine, what each request saw
pairs       two engines in each metric, one engine against itself
statistics  session-block bootstrap, repeats, Holm, margin
segments    parts of the traffic, and where the winner changes
costs       dollars and joules
outcome     the one answer, and what a reader must know before believing it
"""

from traceprof.compare.comparison import Options, compare, write

__all__ = ["Options", "compare", "write"]
