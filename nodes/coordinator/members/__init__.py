"""The members of the mesh and what each may send."""
