"""Everything is in setup.cfg; pip of Python 3.6 needs this file to exist."""

from setuptools import setup

setup()
