"""A workload sent to engines at its own times, and what each request saw.

pacing       when each request is to be sent: pure, time is an argument
alarm        wakes an event loop at an absolute time
connection   HTTP/1.1 on one socket: a time stamp a receive, the body's bytes kept
client       the sending process: sockets and clock, nothing else
frames       what it and its clerk tell each other
clerk        the process beside it: reads the workload, makes the bodies ahead of time, reads the answers, writes the results
run          one run of a workload against one engine
nullengine   an engine of known timing on loopback
calibrate    what this client adds, measured against it
server       small questions to an engine: ready, models, capacity, flush
scrape, gpu  its counters and the machine's GPUs over time
launch       engines started from recipes
scenario     what is to be run, in which order; the search for the highest rate
predicted    cached tokens that the model of an engine's cache has for what was really sent
campaign     all runs of a scenario, one after another
"""
