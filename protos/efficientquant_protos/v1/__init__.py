"""Version 1 of the wire: fleet.proto and the code generated from it (protos/generate.sh)."""
