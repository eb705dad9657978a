"""Version 1 of the wire protocol.

The package has fleet.proto and the code that protos/generate.sh generates from it.
"""
