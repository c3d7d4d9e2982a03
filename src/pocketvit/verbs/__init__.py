"""The verbs: each reads its settings and chooses stages of the road. One file each."""
