"""The setup script, which pip of Python 3.6 requires.

Everything is in setup.cfg.
"""

from setuptools import setup

setup()
