"""The draft maker: from a target GGUF to a small draft GGUF that speaks with its tokens.

Steps: corpus (text to token ids), sample (the target's own answers, with what it thought of other
tokens), train, export. Each can be stopped and started again.
"""
