"""The file that Python 3.6's pip needs.

Everything else is in setup.cfg.
"""

from setuptools import setup

setup()
