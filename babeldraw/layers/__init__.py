"""What networks are made of.

Letters in names, here and in `models/`, `tokenizers/`, `prediction/`: an array local ends in its
dimensions, and einsum strings use the same letters.

  B batch                     N attention heads          V vocabulary or codebook size
  T query or target length    H head dimension           Q code (lookup) dimension
  S source or key length      F feed-forward dimension   C image channels
  D model dimension           L layers                   P patch side
  h, w token grid             G pipeline stages          R circular rounds, M microbatches

Logical axes, which `babeldraw.sharding.rules` maps to the mesh: parameters carry `layers`, `embed`
(D), `heads`, `head_dim`, `mlp` (F), `vocab`, `code_dim`, `position`, `patch`; activations carry
`batch`, `length`, `activation_embed`, `activation_heads`, `activation_mlp`, `activation_vocab`.
"""
