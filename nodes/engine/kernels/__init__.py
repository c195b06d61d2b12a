"""Products and attention for llama.cpp on CPUs, with the same bits for any batch: see README.md.

`build` compiles the library, `library` registers it with llama.cpp. They import nothing else of
airdraft.
"""
