"""Products and attention for llama.cpp on CPUs, with the same bits for any batch: see README.md.

`build` compiles the library, `library` gives it to llama.cpp. Nothing else of airdraft is imported.
"""
