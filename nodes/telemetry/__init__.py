"""The reports of a mesh about itself: counts, the status document, metrics and traces.

The package defines values and their formats, and sends no requests. It may import messages; every
role and all code that displays a mesh imports it.
"""
