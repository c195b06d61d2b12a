"""What a mesh reports of itself: counts, the status document, metrics and traces.

It holds values and how they are written; nobody is asked here. It may import messages; every role
and everything that shows a mesh imports it.
"""
