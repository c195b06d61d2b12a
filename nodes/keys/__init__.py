"""The keys of this machine: where they lie, and which of them a link needs.

It may import settings and messages; services, the Python library, the doctor and the command line
import it.
"""
