"""Who may do what, and on whose word: grants, tokens, acceptance of manifests."""
