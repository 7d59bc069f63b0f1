"""A Butler of our own: the control plane and its dashboard. It has no field for a prompt, and asks for none.

It serves the protocol that Stewards speak, a management API for people and their command line, and the pages. Of the
Steward it imports the words of the wire and the sealing; nothing of the Steward but its command line imports it.

nouns.py         what there is: people, keys, Stewards, records; frozen, no I/O
store_*.py       one file a noun: the SQL, every function with its organisation, every change with its audit entry
reading.py       what a Steward sends, read into closed types
wire.py          the Steward's protocol, server side
management.py    the API for people and the command line
access.py        who is signed in, what a role may do, what needs the password again
pages/           the dashboard
app.py           all of it as one application
settings.py      BUTLER_*, the other reader of the environment
"""
