"""Who is in the mesh and may say what."""
