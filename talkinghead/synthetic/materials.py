"""Materials of the triangles of a mesh."""

SKIN, MATTE, STRAND, EYE, CLOTH, GLOSS = range(6)
