"""Where arrays live: the mesh, the rule tables, logical constraints. Knows no model."""
