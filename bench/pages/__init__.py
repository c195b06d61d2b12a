"""The generated parts of docs/reference: what the code declares, as Markdown between markers."""
