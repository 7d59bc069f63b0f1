"""Settings -> Services: the one composition root, and the only package that imports adapters, each inside its branch.

It decides nothing at call time and holds no state of its own; what it made, the host's handler starts and stops.

    what a relaying process runs on     relay.py; what takes its calls over: after_response.py
    what the settling process runs on   settler.py
    what the viewer runs on             viewer.py
    what a command works on             commands.py

    what these are made of              database.py body_stores.py prices.py upstreams.py way_out.py butlers.py
                                        schedule.py (export, sync, managed mode) reconciling.py
                                        watching.py (what keeps `/readyz` told and rows a place)

`build*` put a whole process together and open what it needs; what is `open_*` or named after what it gives is one
piece, made of what it is handed.
"""
