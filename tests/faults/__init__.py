"""What dies, and what is left of the calls: real processes, a real PostgreSQL, a real S3 server, and faults in them.

Every case asks the same of the ledger and the store (`account.py`): client bytes unchanged, no row lost, none doubled,
a body missing only where its row says so. The short cases run in `make test`, the long ones in `make faults`.
"""
