"""Checks an installation, its machine and its mesh, and suggests a fix for each problem.

There is one module for each subject. A check is a function of measured values, and the function
that measures them is beside it.
"""
