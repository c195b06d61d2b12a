"""The keys of this machine: their files, and the keys that each link needs.

It may import settings and messages; services, the Python library, the doctor and the command line
import it.
"""
