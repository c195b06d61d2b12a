"""The draft node: it guesses the next tokens of the streams that it follows.

A pure state decides which streams a step extends, and a shell runs the steps on the engine. The
package may import nodes.worker and the engines; only services import it.
"""
