"""The draft node: it guesses what comes next in the streams that it follows.

A pure state decides which streams each step extends, and a shell runs it on the engine. It may
import workers' modules and engines; only services import it.
"""
